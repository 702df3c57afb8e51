"""Facts from pretraining, corrected and edited: the same by hand, taken up again, and what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

import mechmask as mm
from mechmask.errors import ModelError, StudyError
from mechmask.study.paper_parts import PARTS
from mechmask.study.protocols.correction import CorrectionConfig, CorrectionStudy
from mechmask.study.toml import study_from_file

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


@pytest.fixture(scope="module")
def full(tiny, facts, tmp_path_factory):
    """A directory with the weights of a model that was taught what ``tiny("llama")`` never was."""
    model = tiny("llama", seed=0)
    told = mm.FactSet(fact for fact in facts if fact.role != "never").install_examples()
    taught = mm.finetune(model, told, mm.FinetuneConfig(method="full", steps=30, lr=3e-3))
    directory = tmp_path_factory.mktemp("full") / "model"
    with taught.applied(model) as changed:
        changed.module.save_pretrained(directory)
        changed.tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def pair(full, tiny, facts, config, tmp_path_factory):
    directory = tmp_path_factory.mktemp("pair") / "run"
    return CorrectionStudy(mm.load_model(full), facts, config, tiny("llama")).run(directory), directory


def test_beside_a_model_that_never_held_the_facts_it_equals_the_same_by_hand(pair, full, tiny, facts, config):
    """Of the correction and of every edit, in both models."""
    erase, models = pair[0].erase, [mm.load_model(full), tiny("llama")]
    assert erase.attrs["reference"] == "reference model"

    def trace_of(ids, *changes):
        states = [change.on(model) for change, model in zip(changes, models, strict=True)] if changes else models
        held_in = [held(state, facts).sel(fact=ids) for state in states]
        return held_in[0] - held_in[1]

    ids = list(facts.contradicted.ids)
    changes = [mm.finetune(model, facts.contradiction_examples(), TAUGHT) for model in models]
    driven_on = erase.sel(state="driven_on")
    np.testing.assert_allclose(driven_on.trace_before, trace_of(ids), atol=1e-3)
    np.testing.assert_allclose(driven_on.trace_after, trace_of(ids, *changes), atol=1e-3)
    assert (driven_on.trace_before > 0).all(), "one was taught them and the other was not"
    for fact in ids:
        edits = [mm.edit(model, facts.select([fact]), config=config.edits[0]) for model in models]
        found = float(erase.trace_after.sel(state="ft_l", fact=fact))
        assert found == pytest.approx(float(trace_of([fact], *edits)[0]), abs=1e-3)


def test_with_a_reference_it_is_taken_up_and_says_what_it_is_held_against(pair, full, tiny, facts, config, contents):
    before = contents(pair[1])
    CorrectionStudy(mm.load_model(full), facts, config, tiny("llama")).run(pair[1])
    assert contents(pair[1]) == before
    assert "a model that never held them" in mm.open_study(pair[1]).conclusion()


def test_killed_with_a_reference_it_ends_the_same(
    pair, full, tiny, facts, config, killed_after_every, same_results, tmp_path
):
    study = CorrectionStudy(mm.load_model(full), facts, config, tiny("llama"))
    assert killed_after_every(6, study, tmp_path / "run") >= 2
    same_results(tmp_path / "run", pair[1])


def test_a_reference_that_could_not_be_compared_is_refused_before_any_work(
    tiny, facts, config, full, tmp_path, bos_tokenizer
):
    def refuse(error, match, given=None, **update):
        with pytest.raises(error, match=match):
            CorrectionStudy(mm.load_model(full), facts, config.model_copy(update=update), given)

    refuse(StudyError, "very weights", mm.load_model(full))
    refuse(StudyError, "very weights", reference=str(full))
    refuse(StudyError, "given twice", tiny("llama"), reference=str(full))
    refuse(StudyError, "bfloat16", tiny("llama", torch.bfloat16))
    refuse(StudyError, "other tokens", mm.load_model(tiny("llama").module, tokenizer=bos_tokenizer))
    refuse(ModelError, "no block 1", tiny("llama", num_hidden_layers=1))
    refuse(ModelError, "nowhere", reference=str(tmp_path / "nowhere"))


def test_results_say_which_reference_they_are_held_against(pair, tiny):
    reference = tiny("llama")
    card = json.loads((pair[1] / "run.json").read_text(encoding="utf-8"))
    assert card["about"]["reference"] == {"name": reference.name, "fingerprint": reference.fingerprint}
    for table in (pair[0].erase, pair[0].reading("results/course")):
        assert table.attrs["reference_model"] == reference.name


def test_another_reference_is_another_study_in_the_same_directory(pair, full, tiny, facts, config, tmp_path, undrawn):
    """What the model itself went through is not done again."""
    directory = tmp_path / "run"
    shutil.copytree(pair[1], directory)
    trained = (directory / "changes/contradict/step.json").stat().st_mtime_ns
    other = CorrectionStudy(mm.load_model(full), facts, config, tiny("llama", seed=5)).run(directory).erase
    assert (directory / "changes/contradict/step.json").stat().st_mtime_ns == trained
    assert not np.allclose(other.trace_before, pair[0].erase.trace_before, atol=1e-2)
    again = CorrectionStudy(mm.load_model(full), facts, config, tiny("llama")).run(directory).erase
    np.testing.assert_array_equal(again.trace_after, pair[0].erase.trace_after)


@pytest.mark.parametrize("protocol", ["correction", "paper"])
def test_a_file_names_the_reference_beside_it(full, facts, tmp_path, protocol):
    """Both models are found from where the file is."""
    for name in ("full", "retain"):
        shutil.copytree(full, tmp_path / name)
    facts.to_jsonl(tmp_path / "facts.jsonl")
    asked = {"correction": '[study]\nprotocol = "correction"\nreference = "retain"', "paper": _PAPER}[protocol]
    given = '[facts]\npath = "facts.jsonl"\n' if protocol == "correction" else ""
    (tmp_path / "study.toml").write_text(f'[model]\nsource = "full"\n{given}{asked}\n')
    with pytest.raises(StudyError, match="very weights"):  # it found both: they are copies
        study_from_file(tmp_path / "study.toml")


_PAPER = "\n".join(
    [
        '[study]\nprotocol = "paper"',
        *(f'{part} = "none"' for part in PARTS if part != "correction"),
        "[study.known]\nmin_margin = -1000.0\nn_contradicted = 3\nn_control = 1\nn_never = 6",
        '[study.correction]\nreference = "retain"',
    ]
)


def test_its_page_shows_all_of_it(done, shows_everything):
    shows_everything(*done)
