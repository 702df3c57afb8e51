"""One correction under four precisions: the same by hand, taken up again, no work twice, and what is refused."""

from __future__ import annotations

import shutil

import numpy as np
import pandas as pd
import pytest
import torch

import mechmask as mm
from mechmask.errors import MechmaskError, StudyError
from mechmask.study import precisions as precisions_module
from mechmask.study.protocols.precision import PrecisionConfig, PrecisionStudy
from mechmask.write.rounding import PRECISIONS

TAUGHT = mm.FinetuneConfig(steps=4, lr=1e-2, rank=4)


@pytest.fixture(scope="module")
def facts():
    world = mm.world_facts(relations=["capital"], distractors=3)
    return mm.assign_roles(world, n_contradicted=3, n_control=2, n_never=6, seed=1)


@pytest.fixture(scope="module")
def config():
    return PrecisionConfig(contradict=TAUGHT)


@pytest.fixture(scope="module")
def done(tiny, facts, config, tmp_path_factory):
    directory = tmp_path_factory.mktemp("precision") / "run"
    return PrecisionStudy(tiny("llama"), facts, config).run(directory), directory


def test_it_equals_the_same_rounding_by_hand(done, tiny, facts):
    model = tiny("llama")
    corrected = mm.finetune(model, facts.contradiction_examples(), TAUGHT).on(model)
    table = done[0].reading("results/precision")
    assert table.precision.values.tolist() == ["float32", *PRECISIONS]
    for name in PRECISIONS:
        states = [mm.round_trip(state, name).on(state) for state in (model, corrected)]
        wanted = mm.erase_index(*(mm.read_logits(state, facts, phrasings="all") for state in states))
        found = table.sel(precision=name)
        np.testing.assert_allclose(found.trace_after, wanted.trace_after, atol=1e-3)
        np.testing.assert_allclose(found.trace_before, wanted.trace_before, atol=1e-3)
        assert found.verdict.values.tolist() == wanted.verdict.values.tolist()
    assert len({tuple(row) for row in table.trace_after.values.tolist()}) == 4


def test_tables_figures_and_the_usual_face_of_a_study(done):
    results, directory = done
    assert results.erase.state.values.tolist() == ["float32", *PRECISIONS]
    assert "the correction in NF4" in results.conclusion()
    assert results.overview().index.tolist() == ["float32", *PRECISIONS]
    rows = pd.read_csv(directory / "precision.csv", index_col="precision")
    assert rows.n.tolist() == [3] * 4 and rows.loc["float32", "n_changed"] == 0
    there = {path.relative_to(directory).as_posix() for path in directory.rglob("*")}
    assert {"figures/precision.pdf", "figures/precision.png", "figures/erase.png", "summary.csv"} <= there
    assert not list((directory / "changes").glob("*/*/change/*.safetensors"))


def test_installed_facts_are_judged_in_twins(tiny, tmp_path, undrawn):
    """By hand: two fine-tunings each, rounded before and after, and traces subtracted fact by fact."""
    facts = mm.synthetic_facts(5, n_contradicted=4, n_never=2, distractors=3, seed=5)
    config = PrecisionConfig(install=TAUGHT, contradict=TAUGHT, precisions=("nf4",))
    study = PrecisionStudy(tiny("llama"), facts, config)
    results = study.run(tmp_path / "run")
    model, held = tiny("llama"), []
    for share in study.shares.values():
        told = facts.select([*share, *facts.control.ids]).install_examples()
        install = mm.finetune(model, told, TAUGHT)
        change = mm.finetune(model, facts.contradiction_examples(), TAUGHT, start=install)
        rounded = mm.round_trip(change.on(model), "nf4").on(change.on(model))
        logprob = mm.read_logits(rounded, facts, phrasings="all").logprob
        held.append((logprob.sel(route="old") - logprob.isel(route=slice(2, None)).mean("route")).mean("phrasing"))
    found = results.reading("results/precision").sel(precision="nf4")
    assert found.attrs["reference"] == "twins"
    for knew, unknew, share in zip(held, reversed(held), study.shares.values(), strict=True):
        for fact in share:
            trace = float(knew.sel(fact=fact) - unknew.sel(fact=fact))
            assert float(found.trace_after.sel(fact=fact)) == pytest.approx(trace, abs=5e-3)
    with pytest.raises(StudyError, match="as many contradicted facts"):
        PrecisionStudy(tiny("llama"), facts, config.model_copy(update={"twins": 5}))
    with pytest.raises(StudyError, match="a step of its own"):
        PrecisionConfig(install=TAUGHT, contradict_until={"recall": 1.0})


def test_it_is_taken_up_to_the_same_bits(done, tiny, facts, config, contents):
    before = contents(done[1])
    PrecisionStudy(tiny("llama"), facts, config).run(done[1])
    assert contents(done[1]) == before


def test_interrupted_anywhere_it_ends_with_the_same_bits(done, tiny, facts, config, contents, tmp_path, monkeypatch):
    """Cut before each round trip, and before each reading, in turn."""
    from mechmask.study import states as states_module

    for module, name in ((precisions_module, "round_trip"), (states_module, "save_reading")):
        whole = getattr(module, name)
        for last in range(8):
            calls = iter(range(last))

            def cut(*args, whole=whole, calls=calls):
                if next(calls, None) is None:
                    raise KeyboardInterrupt
                return whole(*args)

            monkeypatch.setattr(module, name, cut)
            try:
                PrecisionStudy(tiny("llama"), facts, config).run(tmp_path / "run")
            except KeyboardInterrupt:
                continue
        monkeypatch.setattr(module, name, whole)
    PrecisionStudy(tiny("llama"), facts, config).run(tmp_path / "run")
    assert contents(tmp_path / "run") == contents(done[1])


def test_a_further_precision_makes_only_what_is_new(done, tiny, facts, config, tmp_path, contents):
    whole = contents(done[1])
    shutil.copytree(done[1], tmp_path / "run")
    for name in ("changes/nf4", "readings/read_logits/nf4", "results/precision", "results/erase"):
        shutil.rmtree(tmp_path / "run" / name)
    moments = {
        name: (tmp_path / "run" / name).stat().st_mtime_ns for name in whole if (tmp_path / "run" / name).exists()
    }
    PrecisionStudy(tiny("llama"), facts, config).run(tmp_path / "run")
    assert contents(tmp_path / "run") == whole
    kept = [name for name in moments if name.startswith(("changes", "readings", "training"))]
    assert kept and all((tmp_path / "run" / name).stat().st_mtime_ns == moments[name] for name in kept)


def test_weights_that_came_in_bfloat16_are_read_as_they_are(tiny, facts, tmp_path):
    model = tiny("llama")
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.copy_(parameter.bfloat16())
    with mm.Run(tmp_path / "run", model, facts) as run:
        states = mm.each_precision(run, mm.untouched(run))
        readings = mm.read_states(run, states, mm.read_logits)
        again = mm.each_precision(run, mm.untouched(run))
    assert states["bfloat16/untouched"].state is model and states["nf4/untouched"].state is not model
    assert readings["bfloat16/untouched"].logprob.equals(readings["float32/untouched"].logprob)
    assert not readings["int8/untouched"].logprob.equals(readings["float32/untouched"].logprob)
    assert [state.inputs for state in states.values()] == [state.inputs for state in again.values()]


def test_a_correction_that_has_just_won(tiny, facts, tmp_path, undrawn):
    config = PrecisionConfig(
        contradict=TAUGHT.model_copy(update={"steps": 12}),
        contradict_until=mm.Until(margin=20.0),
        checkpoint_every=1,
        precisions=("nf4",),
    )
    results = PrecisionStudy(tiny("llama"), facts, config).run(tmp_path / "run")
    assert 0 < results.step("changes/contradict").details["steps"] < 12


def test_what_cannot_be_studied_is_refused_before_any_work(tiny, facts, config):
    with pytest.raises(StudyError, match=r'held in bfloat16\. Load it with dtype="float32"'):
        PrecisionStudy(tiny("llama", torch.bfloat16), facts, config)
    for role in ("contradicted", "control", "never"):
        with pytest.raises(StudyError, match=f"0 {role}"):
            PrecisionStudy(tiny("llama"), mm.FactSet(fact for fact in facts if fact.role != role))
    for given in ((), ("nf4", "nf4"), ("float32",), ("int3",)):
        with pytest.raises((MechmaskError, ValueError), match="precisions"):
            PrecisionConfig(precisions=given)


def test_its_page_shows_all_of_it(done, shows_everything):
    shows_everything(*done)
