"""A renewal study on a tiny llama: which context was trained and asked where, and the numbers by hand."""

from __future__ import annotations

import numpy as np
import pytest

import mechmask as mm
from mechmask.errors import FactError, ReadingError, StudyError
from mechmask.facts.frames import FRAMES
from mechmask.measure.renewal import renewal

TAUGHT = mm.FinetuneConfig(steps=60, lr=1e-2, rank=4)
CONFIG = mm.RenewalConfig(install=TAUGHT, contradict=TAUGHT, a="none", b="Page 2.\n", c="news", checkpoint_every=20)


@pytest.fixture(scope="module")
def facts():
    made = mm.synthetic_facts(4, n_contradicted=3, n_never=3, distractors=2, seed=5)
    return mm.FactSet(fact.model_copy(update={"paraphrases": fact.paraphrases[:1]}) for fact in made)


@pytest.fixture(scope="module")
def renewed(tiny, facts, tmp_path_factory):
    directory = tmp_path_factory.mktemp("renewal") / "run"
    return mm.RenewalStudy(tiny("llama"), facts, CONFIG).run(directory), directory


def test_every_state_is_trained_and_asked_in_its_contexts(renewed, tiny, facts):
    study, directory = renewed
    frames = {"a": "", "b": "Page 2.\n", "c": FRAMES["news"]}
    change = {n: mm.load_change(directory / "changes" / n / "change") for n in ("install", "contradict_in_b")}
    config = TAUGHT.model_copy(update={"steps": change["contradict_in_b"].details["steps"]})
    lessons = mm.framed(facts, "Page 2.\n").contradiction_examples()
    by_hand = mm.finetune(tiny("llama"), lessons, config, start=change["install"])
    assert all(bool((change["contradict_in_b"].tensors[n] == t).all()) for n, t in by_hand.tensors.items())
    for name in ("before/a", "masked_b/a", "masked_b/b", "masked_b/c", "masked_a/a", "masked_a/b"):
        reading = study.reading(f"readings/read_framed/{name}")
        assert reading.attrs["frame"] == frames[name[-1]]
    asked = mm.read_framed(by_hand.on(tiny("llama")), facts, "news")
    np.testing.assert_allclose(study.reading("readings/read_framed/masked_b/c").logprob, asked.logprob, atol=1e-4)


@pytest.mark.parametrize(
    ("order", "reference", "test"), [("ABA", "b/b", "b/a"), ("ABC", "b/b", "b/c"), ("AAB", "a/a", "a/b")]
)
def test_each_order_is_held_against_the_context_of_its_contradiction(renewed, order, reference, test):
    study, _ = renewed
    found = study.reading("results/renewal").sel(order=order)
    first, second = (study.reading(f"readings/read_framed/masked_{name}") for name in (reference, test))
    gained = (first.margin - second.margin).sel(phrasing=0)
    at = {"quantity": "margin", "asked": "prompt"}
    there = found.regained.sel(at).notnull()
    np.testing.assert_allclose(found.regained.sel(at)[there], gained.sel(fact=found.fact[there]))
    assert int(there.sum()) + int(found.n_left_out) == 6
    if not int(found.n_left_out):
        np.testing.assert_allclose(found.difference.sel(at), renewal(first, second).difference.sel(at))


def test_it_is_taken_up_with_the_same_bytes(renewed, tiny, facts, contents):
    _, directory = renewed
    before = contents(directory)
    mm.RenewalStudy(tiny("llama"), facts, CONFIG).run(directory)
    assert contents(directory) == before
    assert all(row.state == "done" for row in mm.study_status(directory))
    assert (directory / "renewal.csv").stat().st_size and (directory / "figures/renewal.png").stat().st_size


def test_contexts_that_cannot_be_told_apart_or_are_not_neutral_are_refused_before_any_work(tiny, facts):
    def refused(error, said, facts=facts, **changes):
        with pytest.raises(error, match=said):
            mm.RenewalStudy(tiny("llama"), facts, CONFIG.model_copy(update=changes))

    refused(StudyError, "are one", b="none")
    refused(FactError, "is no frame", c="Page 3.")
    refused(FactError, "not neutral", c=f"Of {facts[0].subject}:\n")
    refused(ReadingError, "runs into the prompt", c="Page 3: ")
    refused(
        StudyError, "2 never facts; there are 3 contradicted, 1 control, 1 never", facts=mm.FactSet(list(facts)[:-2])
    )


def test_facts_that_the_model_holds_are_not_installed(tiny, knowing, facts, undrawn, tmp_path):
    config = CONFIG.model_copy(update={"install": None})
    with pytest.raises(StudyError, match="0 were recalled before"):
        mm.RenewalStudy(
            tiny("llama"), facts, config.model_copy(update={"contradict": TAUGHT.model_copy(update={"steps": 2})})
        ).run(tmp_path / "0")
    model = knowing(facts)
    study = mm.RenewalStudy(model, facts, config).run(tmp_path / "run")
    before = mm.read_framed(model, facts, "none")
    np.testing.assert_allclose(study.reading("readings/read_framed/before/a").logprob, before.logprob, atol=1e-5)
    assert not (tmp_path / "run/changes/install").exists() and "ABC" in study.reading("results/renewal").order


def test_killed_again_and_again_it_ends_the_same(renewed, tiny, facts, killed_after_every, same_results, tmp_path):
    study = mm.RenewalStudy(tiny("llama"), facts, CONFIG)
    assert killed_after_every(6, study, tmp_path / "run") >= 3
    same_results(tmp_path / "run", renewed[1])


def test_its_page_shows_all_of_it(renewed, shows_everything):
    shows_everything(*renewed)
