"""Steps of a study of editors: edits that leave no model to be read, and what is measured once an edit."""

from __future__ import annotations

import numpy as np
import pytest

import mechmask as mm
from mechmask.measure.reading import load_reading
from mechmask.study.protocols.editing import EditStudy

FTL = mm.FTLConfig(layer=1, clamp=1.0, lr=2e-2, steps=10)
RUINOUS = mm.FTConfig(layer=1, lr=1e37, steps=1)  # finite weights, of which every output is NaN
SMALL = {"generation": False, "read_every": 1, "text": "model", "text_tokens": 64}


@pytest.fixture(scope="module")
def facts():
    world = mm.world_facts(relations=["capital"], distractors=3, neighbors=1)
    return mm.assign_roles(world, n_contradicted=3, n_control=2, n_never=5, seed=1)


@pytest.fixture(scope="module")
def model(knowing, facts):
    return knowing(facts)


@pytest.mark.parametrize("edited", ["each", "together", "sequence"])
def test_an_edit_that_ruins_the_model_is_kept_as_failed_and_the_study_goes_on(model, facts, tmp_path, undrawn, edited):
    config = mm.EditingConfig(edits=(RUINOUS, FTL), edited=edited, **SMALL)
    results = EditStudy(model, facts, config).run(tmp_path / "run")
    summary, failures = results.summary(), results.failures()
    assert summary.failed.tolist() == [0, 3, 0] and set(failures.index.get_level_values("state")) == {"ft"}
    assert failures.failure.str.contains("not finite").all()
    answers = results.reading("results/answers").nll
    np.testing.assert_array_equal(answers.sel(state="ft"), answers.sel(state="before"))
    assert float(abs(answers.sel(state="ft_l") - answers.sel(state="before")).max()) > 0.1
    assert results.cost.n.sel(metric="seconds").values.tolist() == [0, 1 if edited == "together" else 3]


def test_a_sequence_that_is_taken_up_again_counts_what_an_edit_cost_once(model, facts, tmp_path, killed_after_every):
    study = EditStudy(model, facts, mm.EditingConfig(edits=(FTL,), edited="sequence", **SMALL))
    assert killed_after_every(3, study, tmp_path / "run") > 1
    cost = mm.open_edits(str(tmp_path / "run")).cost
    assert cost.n.sel(state="ft_l").values.tolist() == [3, 3, 1, 1]


def test_facts_without_paraphrases_and_neighbors_are_studied_and_no_score_is_said_that_there_is_not(
    model, facts, tmp_path, undrawn
):
    bare = mm.FactSet(fact.model_copy(update={"paraphrases": (), "neighbors": ()}) for fact in facts)
    results = EditStudy(model, bare, mm.EditingConfig(edits=(FTL,), generation=False)).run(tmp_path / "run")
    row = results.summary().loc["ft_l"]
    assert row["ES"] > 0 and np.isnan([row["PS"], row["NS"], row["S"]]).all()
    assert f"(ES {row['ES']:.2f})" in results.conclusion() and "nan" not in results.conclusion()


def test_values_of_different_lengths_are_each_read_beside_what_is_read_with_them(model, facts, tmp_path, undrawn):
    """A fact alone is read beside its own pseudo-subjects, so that the longest value differs from edit to edit."""
    third = facts[2].id  # which has one pseudo-subject, so that other facts are read without it
    long = {"old": "the capital of all the birds"}
    longer = mm.FactSet(f.model_copy(update=long) if third in (f.id, f.stands_for) else f for f in facts)
    results = EditStudy(model, longer, mm.EditingConfig(edits=(FTL,), generation=False)).run(tmp_path / "run")
    read = [load_reading(path) for path in sorted((tmp_path / "run" / "edits").rglob("output.nc"))]
    assert len({reading.sizes["value_token"] for reading in read}) > 1
    standing = np.mean([float(reading.standing.isel(fact=0, phrasing=0)) for reading in read])
    assert results.summary().loc["ft_l", "standing"] == pytest.approx(standing, abs=1e-5)


def test_what_edits_cost_comes_back_with_their_settings(model, facts, tmp_path, undrawn):
    plain = mm.EditingConfig(edits=(FTL,), generation=False)
    first = EditStudy(model, facts, plain).run(tmp_path / "run").cost
    EditStudy(model, facts, plain.model_copy(update={"seed": 1})).run(tmp_path / "run")
    assert EditStudy(model, facts, plain).run(tmp_path / "run").cost.equals(first)
