"""Facts from pretraining, corrected and edited: the same by hand, taken up again, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import mechmask as mm
from mechmask.errors import StudyError
from mechmask.study.protocols.correction import CorrectionConfig, CorrectionStudy

TAUGHT = mm.FinetuneConfig(steps=4, lr=1e-2, rank=4)


@pytest.fixture(scope="module")
def facts():
    world = mm.world_facts(relations=["capital"], distractors=3)
    return mm.assign_roles(world, n_contradicted=3, n_control=2, n_never=6, seed=1)


@pytest.fixture(scope="module")
def config():
    return CorrectionConfig(contradict=TAUGHT, checkpoint_every=2, edits=(mm.FTLConfig(layer=1, clamp=0.05, steps=2),))


@pytest.fixture(scope="module")
def done(tiny, facts, config, tmp_path_factory):
    directory = tmp_path_factory.mktemp("correction") / "run"
    return CorrectionStudy(tiny("llama"), facts, config).run(directory), directory


def held(state, facts):
    logprob = mm.read_logits(state, facts, phrasings="all").logprob
    return (logprob.sel(route="old") - logprob.isel(route=slice(2, None)).mean("route")).mean("phrasing")


def traces(value, facts):
    return [
        float(value.sel(fact=fact.id) - value.sel(fact=[f.id for f in facts.never if f.stands_for == fact.id]).mean())
        for fact in facts.contradicted
    ]


def test_it_equals_the_same_correction_by_hand(done, tiny, facts):
    model = tiny("llama")
    change = mm.finetune(model, facts.contradiction_examples(), TAUGHT)
    erase = done[0].erase.sel(state="driven_on")
    assert erase.attrs["reference"] == "pseudo-subjects"
    np.testing.assert_allclose(erase.trace_before, traces(held(model, facts), facts), atol=1e-3)
    np.testing.assert_allclose(erase.trace_after, traces(held(change.on(model), facts), facts), atol=1e-3)


def test_each_edit_is_held_against_the_pseudo_subjects_under_it(done, tiny, facts, config):
    model = tiny("llama")
    for i, fact in enumerate(facts.contradicted):
        change = mm.edit(model, facts.select([fact.id]), config=config.edits[0])
        found = float(done[0].erase.trace_after.sel(state="ft_l", fact=fact.id))
        assert found == pytest.approx(traces(held(change.on(model), facts), facts)[i], abs=1e-3)
    assert done[0].erase.state.values.tolist() == ["won", "driven_on", "ft_l"]


def test_it_is_taken_up_to_the_same_bits_with_its_tables_and_figures(done, tiny, facts, config, contents):
    before = contents(done[1])
    CorrectionStudy(tiny("llama"), facts, config).run(done[1])
    assert contents(done[1]) == before
    assert {"figures/course.pdf", "figures/erase.png", "surprise.csv", "summary.csv", "overview.csv"} <= set(before)
    assert "invented subjects in the same prompts" in mm.open_study(done[1]).conclusion()


def test_facts_without_a_role_are_refused_before_any_work(tiny, facts):
    for role in ("contradicted", "control", "never"):
        rest = mm.FactSet(fact for fact in facts if fact.role != role)
        with pytest.raises(StudyError, match=f"0 {role}"):
            CorrectionStudy(tiny("llama"), rest)


def test_killed_again_and_again_it_ends_the_same(done, tiny, facts, config, killed_after_every, same_results, tmp_path):
    assert killed_after_every(4, CorrectionStudy(tiny("llama"), facts, config), tmp_path / "run") >= 2
    same_results(tmp_path / "run", done[1])


def test_neither_the_order_of_facts_nor_the_batch_size_counts(done, tiny, facts, config, tmp_path, undrawn):
    """What is left is float32, in which sums depend on their order."""
    alone = config.model_copy(update={"batch_size": 1})
    other = CorrectionStudy(tiny("llama"), mm.FactSet(list(facts)[::-1]), alone).run(tmp_path / "run").erase
    whole = done[0].erase
    for name in ("index", "trace_before", "trace_after", "logprob_new", "normalised"):
        np.testing.assert_allclose(other[name].sel(fact=whole.fact), whole[name], atol=2e-3, rtol=2e-3, err_msg=name)
    assert (other.verdict.sel(fact=whole.fact) == whole.verdict).all()
