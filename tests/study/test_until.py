"""Where a training ends: by recall or margin, of all or of each, on constructed readings and in a run."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import mechmask as mm
from mechmask.errors import MechmaskError, ReadingError, StudyError
from mechmask.study.training import OUTPUT, Watch, train
from mechmask.study.until import Until, recall_of


def output(margins, said=()):
    """Facts a, b, ...: old and new are their values; ``said`` are those of which new is recalled."""
    facts = list("abcd")[: len(margins)]
    recalled = np.array([[False, fact in said] for fact in facts])
    return xr.Dataset(
        {"margin": ("fact", np.array(margins, dtype=float)), "recalled": (("fact", "route"), recalled)},
        {
            "fact": facts,
            "route": ["old", "new"],
            "value": (("fact", "route"), [[f"{fact} old", f"{fact} new"] for fact in facts]),
        },
    )


TAUGHT = {("a", "a new"), ("b", "b new"), ("c", "c old")}  # c is a control


@pytest.mark.parametrize(
    ("rule", "margins", "reached"),
    [
        (Until(margin=1.0), (0.0, 2.0, -9.0), True),
        (Until(margin=1.0), (-0.1, 2.0, 99.0), False),
        (Until(margin=1.0, of="each"), (0.9, 5.0, -9.0), False),
        (Until(margin=1.0, of="each"), (1.0, 1.1, -9.0), True),
        (Until(margin=-3.0), (-2.0, -4.0, -9.0), True),
    ],
)
def test_margins_are_of_the_facts_that_are_contradicted(rule, margins, reached):
    assert rule.reached(output(margins), TAUGHT) is reached


def test_recall_counts_what_is_taught_controls_included():
    said = output((0, 0, 0), said="ab")
    assert recall_of(said, TAUGHT) == pytest.approx(2 / 3)
    assert Until(recall=0.6).reached(said, TAUGHT) and not Until(recall=0.7).reached(said, TAUGHT)
    assert recall_of(said, {("z", "z new")}) == 0
    assert not Until(margin=-99.0).reached(said, {("c", "c old")}), "nothing is contradicted"


@pytest.mark.parametrize(
    "given", [{}, {"recall": 0.5, "margin": 1.0}, {"recall": 0.0}, {"recall": 1.5}, {"margin": "x"}]
)
def test_a_rule_that_is_none_is_refused(given):
    with pytest.raises(MechmaskError):
        Until(**given)


def test_a_reading_that_cannot_tell_is_refused():
    with pytest.raises(ReadingError, match=r"A training that ends at a margin of 1 nats \(mean\) needs margin"):
        Until(margin=1.0).reached(output((1.0, 1.0)).drop_vars("margin"), TAUGHT)
    with pytest.raises(ReadingError, match="needs recalled"):
        recall_of(output((1.0, 1.0)).drop_vars("recalled"), TAUGHT)


def test_a_training_ends_at_the_first_checkpoint_that_has_it(tiny, small_facts, tmp_path):
    model, config = tiny("llama"), mm.FinetuneConfig(steps=8, lr=1e-2, rank=4)
    examples = small_facts.contradiction_examples()
    watch = Watch(lambda now: {OUTPUT: mm.read_logits(now, small_facts)}, every=2)
    with mm.Run(tmp_path / "whole", model, small_facts) as run:
        whole = train(run, "contradict", examples, config, watch=watch)
    margins = {
        n: float(r.margin.sel(fact=list(small_facts.contradicted.ids)).mean())
        for n, r in whole.readings(OUTPUT).items()
    }
    threshold = margins[4]
    expected = min(n for n, margin in margins.items() if margin >= threshold)
    with mm.Run(tmp_path / "ended", model, small_facts) as run:
        ended = train(run, "contradict", examples, config, until=Until(margin=threshold), watch=watch)
    assert max(ended.checkpoints) == expected
    with mm.Run(tmp_path / "ended", model, small_facts) as run:
        again = train(run, "contradict", examples, config, until=Until(margin=threshold), watch=watch)
    assert again.inputs == ended.inputs


def test_an_end_that_is_reached_before_the_first_step_is_refused_each_time(tiny, small_facts, tmp_path):
    config = mm.FinetuneConfig(steps=4, lr=1e-2, rank=4)
    watch = Watch(lambda now: {OUTPUT: mm.read_logits(now, small_facts)}, every=2)
    for _ in range(2):
        with mm.Run(tmp_path / "run", tiny("llama"), small_facts) as run, pytest.raises(StudyError, match="first step"):
            train(run, "more", small_facts.contradiction_examples(), config, until=Until(margin=-1e6), watch=watch)
