"""Doses: the same by hand, in both designs; taken up again to the same bits; what a new user trips over."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mechmask as mm
from mechmask.errors import StudyError
from mechmask.measure.erase import erase_index
from mechmask.models.states import active
from mechmask.read.weights import effective_weights
from mechmask.study.run import Run

PLAIN = mm.FinetuneConfig(steps=4, lr=1e-2, rank=4)
CHEAP = {"contradict": PLAIN, "checkpoint_every": 2, "text_tokens": 128}


@pytest.fixture(scope="module")
def taught():
    return mm.synthetic_facts(6, n_contradicted=4, n_never=2, distractors=3, seed=5)


@pytest.fixture(scope="module")
def known():
    """Well-known facts in roles; the tiny model knows none of them, which its verdicts have to say."""
    return mm.assign_roles(mm.world_facts(relations=["capital"]), n_contradicted=3, n_control=2, n_never=6)


@pytest.fixture(scope="module")
def twins(tiny, taught, tmp_path_factory):
    config = mm.DoseConfig(install=PLAIN, grid={"lr": [1e-2, 3e-2]}, scales=(-1.0, 0.5, 1.5), **CHEAP)
    study = mm.DoseStudy(tiny("llama"), taught, config)
    directory = tmp_path_factory.mktemp("doses") / "twins"
    return study, study.run(directory), directory


@pytest.fixture(scope="module")
def of_known(tiny, known, tmp_path_factory):
    config = mm.DoseConfig(grid={"lr": [1e-2], "rank": [2, 4]}, scales=(0.5,), **CHEAP)
    study = mm.DoseStudy(tiny("gpt2"), known, config)
    directory = tmp_path_factory.mktemp("doses") / "known"
    return study, study.run(directory), directory


def _dose(doses, **labels):
    """The one dose with these labels."""
    rows = np.all([doses[name].values == label for name, label in labels.items()], axis=0)
    return doses.isel(dose=np.flatnonzero(rows)[0])


def _weights(state):
    with active(state) as model:
        return {name: weight.double().clone() for name, weight in effective_weights(model)}


def test_every_step_and_every_scale_of_every_training_is_a_dose(twins, of_known):
    doses = twins[1].reading("results/doses")
    assert doses.sizes["dose"] == 2 * (3 + 5)
    by_scale = doses.isel(dose=(doses.by == "scale") & (doses.course == "lr=0.03"))
    assert sorted(by_scale["scale"].values) == [-1, 0, 0.5, 1, 1.5] and set(by_scale.step.values) == {4}
    assert set(doses.lr.values) == {1e-2, 3e-2} and set(doses.method.values) == {"lora"}
    assert set(of_known[1].reading("results/doses")["rank"].values) == {2, 4}


@pytest.mark.parametrize("scale", [-1.0, 0.5, 1.5])
def test_a_scaled_dose_of_twins_equals_explicit_weights(twins, tiny, taught, scale):
    """Without a run: two fine-tunings each, the line between them written into the weights, plain readings."""
    model, ids = tiny("llama"), sorted(taught.contradicted.ids)
    course, logprobs, norms = PLAIN.model_copy(update={"lr": 3e-2}), [], []
    for share in (ids[::2], ids[1::2]):
        install = mm.finetune(model, taught.select([*share, *taught.control.ids]).install_examples(), PLAIN)
        change = mm.finetune(model, taught.contradiction_examples(), course, start=install)
        before, after = _weights(install.on(model)), _weights(change.on(model))
        moved = tiny("llama")
        with torch.no_grad():
            for name, weight in before.items():
                target = moved.module.get_submodule(f"{moved.anatomy.layout.blocks}.{name}")
                target.weight.copy_(weight + scale * (after[name] - weight))
        logprobs.append(mm.read_logits(moved, taught, phrasings="all").logprob)
        norms.append(np.sqrt(sum(float((after[n] - before[n]).square().sum()) for n in before)) * abs(scale))
    readings = twins[1].reading("results/readings")
    found = _dose(readings, course="lr=0.03", by="scale", scale=scale)
    for twin, logprob in enumerate(logprobs):
        np.testing.assert_allclose(found.logprob.isel(twin=twin), logprob, atol=2e-3)
    doses = twins[1].reading("results/doses")
    assert float(_dose(doses, course="lr=0.03", by="scale", scale=scale).norm) == pytest.approx(np.mean(norms), 1e-4)


def test_a_step_of_known_facts_equals_a_plain_fine_tuning(of_known, tiny, known):
    model = tiny("gpt2")
    change = mm.finetune(model, known.contradiction_examples(), PLAIN.model_copy(update={"rank": 2, "steps": 2}))
    before = mm.read_logits(model, known, phrasings="all")
    after = mm.read_logits(change.on(model), known, phrasings="all")
    expected = erase_index(before, after)
    found = _dose(of_known[1].reading("results/doses"), rank=2, by="step", step=2)
    assert found.attrs["reference"] == "pseudo-subjects"
    for name in ("trace_after", "index", "logprob_new"):
        np.testing.assert_allclose(found[name], expected[name], atol=2e-3)
    old = {when: of.logprob.sel(route="old", phrasing=0) for when, of in (("before", before), ("after", after))}
    controls = list(known.control.ids)
    np.testing.assert_allclose(found.control_drop, (old["before"] - old["after"]).sel(fact=controls), atol=2e-3)
    corpus = mm.held_out_text(model, n_tokens=128)
    cost = mm.read_text(change.on(model), corpus).nll - mm.read_text(model, corpus).nll
    np.testing.assert_allclose(found.text_cost, cost, atol=1e-3)


def test_the_ends_of_the_scale_are_those_of_the_training(twins):
    doses = twins[1].reading("results/doses")
    for scale, step in ((0.0, 0), (1.0, 4)):
        here = _dose(doses, course="lr=0.01", by="scale", scale=scale)
        there = _dose(doses, course="lr=0.01", by="step", step=step)
        np.testing.assert_array_equal(here.trace_after, there.trace_after)
    assert abs(_dose(doses, by="step", step=0)["index"]).max() < 1e-9
    assert float(_dose(doses, by="step", step=0).norm) == 0


def test_matched_success_curve_and_summary_come_from_the_results(twins):
    doses = twins[1].reading("results/doses")
    path = doses.isel(dose=(doses.path == "lr=0.01, by step").values)
    found = mm.at_margin(path.swap_dims(dose="step").drop_vars("dose"), float(path.margin.min()))
    np.testing.assert_array_equal(found["first"], 0)
    assert mm.dose_curve(doses).sizes["dose"] == doses.sizes["dose"]
    assert mm.dose_erased(doses).sizes["path"] == 4
    assert twins[1].erase.state.values.tolist() == ["lr=0.01", "lr=0.03"]
    surprise = twins[1].reading("results/surprise")
    assert surprise.state.values.tolist() == ["lr=0.01", "lr=0.03"] and (surprise.surprise > 0).all()
    assert "the same facts in models that were not taught them" in twins[1].conclusion()


def test_it_is_taken_up_to_the_same_bits_with_its_tables_and_figures(twins, tiny, taught, contents):
    study, _, directory = twins
    before = contents(directory)
    mm.DoseStudy(tiny("llama"), taught, study.config).run(directory)
    assert contents(directory) == before
    figures = {"figures/doses.png", "figures/doses.pdf", "figures/surprise.png"}
    assert figures | {"doses.csv", "dose_erased.csv", "surprise.csv", "summary.csv"} <= set(before)


def test_what_was_killed_half_way_ends_with_the_same_bits(of_known, tiny, known, tmp_path, contents, monkeypatch):
    """The process ends before the third scaled or read dose; what is there is taken up."""
    study, _, directory = of_known
    made, whole = [], Run.step

    def dying(self, name, *arguments):
        made.append(name)
        if len(made) == 6:
            raise KeyboardInterrupt
        return whole(self, name, *arguments)

    monkeypatch.setattr(Run, "step", dying)
    with pytest.raises(KeyboardInterrupt):
        mm.DoseStudy(tiny("gpt2"), known, study.config).run(tmp_path / "run")
    monkeypatch.undo()
    mm.DoseStudy(tiny("gpt2"), known, study.config).run(tmp_path / "run")
    assert contents(tmp_path / "run") == contents(directory)


def test_another_scale_makes_again_only_what_is_new(of_known, tiny, known, tmp_path, contents):
    import shutil

    study, _, directory = of_known
    shutil.copytree(directory, tmp_path / "run")
    config = study.config.model_copy(update={"scales": (0.5, 2.0)})
    done = mm.DoseStudy(tiny("gpt2"), known, config).run(tmp_path / "run")
    assert 2.0 in done.reading("results/doses")["scale"].values
    before, after = contents(directory), contents(tmp_path / "run")
    kept = [name for name in before if name.startswith(("changes/", "checkpoints/", "scaled/", "corpus/"))]
    assert kept and all(after[name] == before[name] for name in kept)


def test_facts_that_cannot_be_held_against_anything_are_refused_before_any_work(tiny, taught):
    with pytest.raises(StudyError, match="pseudo-subjects"):
        mm.DoseStudy(tiny("llama"), taught)
    with pytest.raises(StudyError, match="at least one control"):
        mm.DoseStudy(tiny("llama"), taught.contradicted, mm.DoseConfig(install=PLAIN, contradict=PLAIN))
    with pytest.raises(StudyError, match="9 twins need as many"):
        mm.DoseStudy(tiny("llama"), taught, mm.DoseConfig(install=PLAIN, contradict=PLAIN, twins=9))


def test_every_method_is_a_course_and_a_dora_has_no_multiples(tiny, known, tmp_path, undrawn):
    grid = [{"method": "full", "lr": 1e-3}, {"method": "dora"}]
    config = mm.DoseConfig(grid=grid, scales=(0.5,), **CHEAP)
    doses = mm.DoseStudy(tiny("llama"), known, config).run(tmp_path / "run").reading("results/doses")
    assert set(doses.path.values) == {
        "lr=0.001, method=full, by step",
        "lr=0.001, method=full, by scale",
        "method=dora, by step",
    }
    assert set(doses.method.values) == {"full", "dora"}
    assert np.isnan(doses["rank"].values[doses.method.values == "full"]).all()
    half, whole = (_dose(doses, method="full", by="scale", scale=scale) for scale in (0.5, 1.0))
    assert float(half.norm) == pytest.approx(float(whole.norm) / 2, rel=1e-4)


def test_twins_may_be_trained_in_all_their_weights(tiny, taught, tmp_path, undrawn):
    full = mm.FinetuneConfig(method="full", steps=2, lr=1e-3)
    config = mm.DoseConfig(install=full, contradict=full, scales=(0.5,), checkpoint_every=2, text_tokens=128)
    doses = mm.DoseStudy(tiny("llama"), taught, config).run(tmp_path / "run").reading("results/doses")
    half, whole = (_dose(doses, by="scale", scale=scale) for scale in (0.5, 1.0))
    assert float(half.norm) == pytest.approx(float(whole.norm) / 2, rel=1e-4) and float(whole.norm) > 0


@pytest.mark.slow
def test_on_a_real_model_more_of_a_change_leads_further_and_costs_more(smol, tmp_path, undrawn):
    world = mm.world_facts(relations=["capital"], distractors=3)
    facts = mm.assign_roles(world, n_contradicted=3, n_control=1, n_never=3)
    facts = mm.FactSet(fact.model_copy(update={"paraphrases": ()}) for fact in facts)
    text = tmp_path / "text.txt"
    text.write_text("The river rises in the mountains and runs to the sea, past three old towns and a mill. " * 4)
    taught = mm.FinetuneConfig(lr=5e-4, rank=4, steps=6)
    config = mm.DoseConfig(contradict=taught, scales=(-1.0, 0.5), checkpoint_every=6, corpus=str(text), text_tokens=64)
    done = mm.DoseStudy(smol, facts, config).run(tmp_path / "run")
    curve = mm.dose_curve(done.reading("results/doses"))
    rows = {scale: _dose(curve, by="scale", scale=scale) for scale in (-1.0, 0.0, 0.5, 1.0)}
    assert [float(row.margin) for row in rows.values()] == sorted(float(row.margin) for row in rows.values())
    assert float(rows[0.0].trace) > 5, "these facts are known from pretraining"
    assert float(rows[1.0].margin) > 0 > float(rows[0.0].margin)
    assert float(rows[0.5].norm) == pytest.approx(float(rows[1.0].norm) / 2, rel=1e-3)
    assert 0 < float(rows[1.0].text_cost) < 2


def test_its_page_shows_all_of_it(twins, shows_everything):
    shows_everything(*twins[1:])
