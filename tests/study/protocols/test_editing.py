"""Editors side by side on a tiny model: every number of the table against edits and readings made by hand."""

from __future__ import annotations

import subprocess
import sys
import warnings
from contextlib import contextmanager

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import mechmask as mm
from mechmask.errors import ChangeError, ModelError, StudyError
from mechmask.measure.generations import text_entropy
from mechmask.measure.verdict import took
from mechmask.study.editing.methods import methods_with_presets
from mechmask.study.protocols.editing import EditStudy
from mechmask.study.states import edit_settings
from mechmask.study.toml import study_from_file
from mechmask.write.edit import METHODS

FTL = mm.FTLConfig(layer=1, clamp=1.0, lr=2e-2, steps=20)
KEYED = {"layers": (1,), "value_lr": 0.3, "value_clamp": 30.0, "value_decay": 0.0, "value_kl": 0.0, "value_stop": 0.2}
ALPHA = mm.AlphaEditConfig(**KEYED, value_steps=10, moment_tokens=512, null_space_threshold=1.0, ridge=1e-3)
SMALL = {"n_tokens": 16, "text_tokens": 128}
MEASURED = ("costs/", "results/cost/", "editing.csv", "exports.json", "figures/", "run.json")


@pytest.fixture(scope="module")
def facts():
    """Three contradicted facts of several prompts, the second a neighbor of the others; controls, pseudo-subjects."""
    world = mm.world_facts(relations=["capital"], distractors=3, neighbors=2)
    drawn = mm.assign_roles(world, n_contradicted=3, n_control=2, n_never=5, seed=1)
    first, second, third = drawn.contradicted
    edited = mm.Neighbor(prompt=second.paraphrases[0], value=second.old)
    first = first.model_copy(update={"paraphrases": first.paraphrases[:1], "neighbors": (edited, *first.neighbors[:1])})
    third = third.model_copy(update={"neighbors": (third.neighbors[0], edited)})
    return mm.FactSet([first, second, third, *(fact for fact in drawn if fact.role != "contradicted")])


@pytest.fixture(scope="module")
def model(knowing, facts):
    return knowing(facts)


@pytest.fixture(scope="module")
def config(model, facts):
    """FT-L stops early, so that one fact, whose new value has the least loss, is nothing to be edited."""
    nll = mm.read_editing(model, facts.contradicted).nll.sel(route="new").isel(prompt=0)
    least, second, _ = np.sort(nll.values)
    stopping = FTL.model_copy(update={"loss_stop": float(least + second) / 2})
    return mm.EditingConfig(edits=(FTL, ALPHA, stopping), text="model", **SMALL)


@pytest.fixture(scope="module")
def done(model, facts, config, tmp_path_factory):
    directory = tmp_path_factory.mktemp("editing") / "run"
    return EditStudy(model, facts, config).run(directory), directory


@pytest.fixture(scope="module")
def states(model, facts, done):
    """The state of every fact under the first two editors, made without a study."""
    configs = dict(zip(("ft_l", "alphaedit"), (FTL, ALPHA), strict=True))
    with quiet():
        return {
            name: {fact.id: mm.edit(model, [fact], config=config).on(model) for fact in facts.contradicted}
            for name, config in configs.items()
        }


@contextmanager
def quiet():
    """That an edit did not take is looked at, not warned of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def estimates(results, state):
    return results.editing.estimate.sel(state=state).to_series()


def scores(readings):
    """ES, PS and NS from the bare log-probabilities, a record at a time."""
    shares = {"rewrite": [], "paraphrase": [], "neighborhood": []}
    for reading in readings:
        for group, of in shares.items():
            at = reading.nll.isel(fact=0, prompt=np.flatnonzero(reading.group.values == group))
            old, new = at.sel(route="old").values, at.sel(route="new").values
            asked = ~np.isnan(old) & ~np.isnan(new)
            if asked.any():
                of.append(np.mean((old < new if group == "neighborhood" else new < old)[asked]))
    return [float(np.mean(of)) for of in shares.values()]


@pytest.mark.parametrize("name", ["before", "ft_l", "alphaedit"])
def test_the_field_s_scores_are_those_of_each_fact_under_its_own_edit(done, model, states, facts, name):
    found = estimates(done[0], name)
    of = states.get(name, dict.fromkeys(facts.contradicted.ids, model))
    three = scores([mm.read_editing(state, facts.select([fact])) for fact, state in of.items()])
    assert [found[f"{kind}_score"] for kind in ("efficacy", "paraphrase", "neighborhood")] == pytest.approx(three)
    assert done[0].editing.attrs["n_edited_neighbors"] == 0
    assert found["harmonic_score"] == pytest.approx(stats.hmean(three) if min(three) else 0.0)
    entropies = []
    for fact, state in of.items():
        texts = mm.read_generations(state, facts.select([fact]), n_tokens=SMALL["n_tokens"]).text.values[0]
        entropies.append(np.mean([text_entropy(text) for text in texts]))
    assert found["generation_entropy"] == pytest.approx(np.mean(entropies))


@pytest.mark.parametrize("name", ["ft_l", "alphaedit"])
def test_what_is_left_of_old_is_that_of_each_fact_under_its_own_edit(done, model, states, facts, name):
    results, found = done[0], estimates(done[0], name)
    rest = [*facts.control.ids, *facts.never.ids]
    corpus = mm.held_out_text(model, n_tokens=SMALL["text_tokens"])
    standings, layers, back, kl, after, before, judged = [], [], [], [], [], [], 0
    for fact, state in states[name].items():
        asked = facts.select([fact, *rest])
        readings = [mm.read_logits(one, asked, phrasings="all") for one in (model, state)]
        erased = mm.erase_index(*readings)
        own = results.erase.sel(state=name, fact=fact)
        for variable in ("index", "trace_before", "trace_after", "normalised"):
            assert float(own[variable]) == pytest.approx(float(erased[variable][0]), abs=1e-3, nan_ok=True)
        assert str(results.verdicts.verdict.sel(state=name, fact=fact).values) == str(erased.verdict.values[0])
        logprob = readings[1].logprob.sel(fact=fact)
        rivals = [route for route in logprob.route.values if route.startswith("distractor")]
        prompt = logprob.isel(phrasing=0)
        mean = np.log(np.mean(np.exp(prompt.sel(route=rivals).values)))
        standings.append(float(prompt.sel(route="old")) - mean)
        layers.append(float(mm.commit_layer(mm.read_depth(state, facts.select([fact])))[0]))
        assert float(own.commit_layer) == pytest.approx(layers[-1], nan_ok=True)
        if bool(took(readings[1].isel(phrasing=0)).sel(fact=fact)):
            judged += 1
            leads = (logprob.sel(route="old") > logprob.sel(route="new")).values[1:]
            back += leads[logprob.sel(route="new").notnull().values[1:]].tolist()
            before.append(float(erased.trace_before[0]))
            after.append(float(erased.trace_after[0]))
        drift = mm.read_divergence(model, state, corpus)
        kl.append(float((drift.kl * drift.n_tokens).sum() / drift.n_tokens.sum()))
    row = results.summary().loc[name]
    assert row["took"] == judged == int(results.verdicts.n_took.sel(state=name))
    assert found["standing"] == pytest.approx(np.mean(standings), abs=1e-3)
    assert found["erase_index"] == pytest.approx(float(results.erase["index"].sel(state=name).mean()), abs=1e-6)
    assert found["kl"] == pytest.approx(np.mean(kl), rel=1e-3)
    if name == "alphaedit":  # it does not take here, and what did not take is not judged
        assert (judged, row["verdict"], row["why"]) == (0, "undecided", "the edit did not take")
        assert np.isnan([row["EI*"], row["rebound"]]).all()
        assert np.isnan([found["commit_layer"], *layers]).all()
        return
    assert judged == 3
    assert found["commit_layer"] == pytest.approx(np.nanmean(layers))
    assert found["paraphrase_rebound"] == pytest.approx(np.mean(back))
    assert found["normalised"] == row["EI*"] == pytest.approx(1 - np.sum(after) / np.sum(before), rel=1e-3)


def test_a_fact_that_an_editor_cannot_edit_is_kept_with_its_sentence_and_counts_as_it_was(done):
    results = done[0]
    failed = results.failures()
    assert set(failed.index.get_level_values("state")) == {"ft_l_2"} and len(failed) == 1
    (fact,) = failed.index.get_level_values("fact")
    assert failed.failure.iloc[0].startswith("The ft_l change changes nothing")
    verdicts = results.verdicts.sel(state="ft_l_2", fact=fact)
    assert (str(verdicts.verdict.values), str(verdicts.reason.values)) == ("undecided", "did_not_take")
    answers = results.reading("results/answers").nll.sel(fact=fact)
    np.testing.assert_array_equal(answers.sel(state="ft_l_2"), answers.sel(state="before"))
    row = results.summary().loc["ft_l_2"]
    assert (row["failed"], row["n"]) == (1, 3)
    assert float(results.erase["index"].sel(state="ft_l_2", fact=fact)) == 0


def test_depths_stand_before_and_after(done, model, states, facts):
    depth = done[0].depth
    assert depth.state.values.tolist() == ["before", "ft_l", "alphaedit", "ft_l_2"]
    for fact in facts.contradicted.ids:
        for name, state in (("before", model), ("ft_l", states["ft_l"][fact])):
            expected = mm.read_depth(state, facts.select([fact])).margin.isel(fact=0)
            np.testing.assert_allclose(depth.margin.sel(state=name, fact=fact, phrasing=0), expected, atol=1e-3)


def test_costs_are_measured_and_no_result_is_made_from_them(done):
    cost = done[0].cost
    assert (cost.estimate.sel(metric="seconds") > 0).all() and cost.n.sel(metric="seconds").values.tolist() == [3, 3, 2]
    for name in ("editing", "verdicts", "erase"):
        assert not [source for source in done[0].step(f"results/{name}").inputs if source.startswith("costs")]


@pytest.fixture(scope="module")
def few(facts):
    """Two contradicted facts, a control, and pseudo-subjects."""
    two = facts.contradicted.ids[1:]
    return facts.select([*two, facts.control.ids[0], *(fact.id for fact in facts.never if fact.stands_for in two)])


@pytest.fixture(scope="module")
def kept(contents):
    """Every file of a run but what was measured, and what is made from that."""
    return lambda root: {name: of for name, of in contents(root).items() if not name.startswith(MEASURED)}


@pytest.fixture
def plain():
    return mm.EditingConfig(edits=(ALPHA,), generation=False, **SMALL)


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_bits(
    model, few, plain, tmp_path, contents, kept, killed_after_every
):
    study = EditStudy(model, few, plain.model_copy(update={"edits": (FTL,), "generation": True}))
    study.run(tmp_path / "whole")
    assert killed_after_every(4, study, tmp_path / "run") > 1
    left, right = kept(tmp_path / "run"), kept(tmp_path / "whole")
    assert left.keys() == right.keys() and not [name for name in right if left[name] != right[name]]
    before = contents(tmp_path / "run")
    study.run(tmp_path / "run")
    assert contents(tmp_path / "run") == before
    assert all(row.state == "done" for row in mm.study_status(tmp_path / "run"))


def test_another_model_and_other_facts_are_refused(done, tiny, facts, config, model):
    with pytest.raises(StudyError, match="a study of another model"):
        EditStudy(tiny("llama", seed=1), facts, config).run(done[1])
    with pytest.raises(StudyError, match="a study of other facts"):
        EditStudy(model, facts.select(facts.ids[1:]), config).run(done[1])


def test_it_opens_without_torch(done):
    code = (
        "import sys, mechmask as mm\n"
        f"results = mm.open_edits({str(done[1])!r})\n"
        f"print(results.summary().loc['ft_l', 'ES'], mm.open_study({str(done[1])!r}).erase.sizes['state'])\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr
    assert float(shown.stdout.split()[0]) == done[0].summary().loc["ft_l", "ES"] and shown.stdout.split()[1] == "3"


def test_the_tables_are_written_as_csv(done):
    table = pd.read_csv(done[1] / "editing.csv", index_col="state")
    assert list(table.index) == ["before", "ft_l", "alphaedit", "ft_l_2"]
    assert table["S"].to_numpy() == pytest.approx(done[0].summary()["S"].to_numpy(), nan_ok=True)
    assert {"metrics.csv", "verdicts.csv", "summary.csv", "provenance.json"} <= {p.name for p in done[1].iterdir()}
    assert "ALPHAEDIT" in done[0]._repr_html_().upper() and "EditResults" in repr(done[0])
    latex = done[0].to_latex()
    assert latex.count("FT-L") == 2 and "EI*" in latex and "why" not in latex
    assert done[0].to_latex(table="failures").count(r"\\") == 1 + len(done[0].failures())
    assert "ft_l" in done[0].conclusion() or "FT-L" in done[0].conclusion()


def test_together_is_one_edit_of_all(model, facts, plain, tmp_path, undrawn):
    config = plain.model_copy(update={"edited": "together"})
    results = EditStudy(model, facts, config).run(tmp_path / "run")
    with quiet():
        state = mm.edit(model, facts.contradicted, config=ALPHA).on(model)
    expected = mm.erase_index(*(mm.read_logits(one, facts, phrasings="all") for one in (model, state)))
    np.testing.assert_allclose(results.erase["index"].sel(state="alphaedit"), expected["index"], atol=1e-3)
    assert (results.erase.verdict.sel(state="alphaedit").values == expected.verdict.values).all()
    for name, one in (("before", model), ("alphaedit", state)):
        found = mm.editing_scores(mm.read_editing(one, facts.contradicted))
        assert found.attrs["n_edited_neighbors"] == results.editing.attrs["n_edited_neighbors"] >= 2
        for metric in ("harmonic_score", "neighborhood_magnitude", "specificity"):
            assert estimates(results, name)[metric] == pytest.approx(float(found.estimate.sel(metric=metric)), rel=1e-3)
    assert int(results.cost.n.sel(state="alphaedit", metric="seconds")) == 1


@pytest.mark.slow
def test_a_sequence_goes_on_from_its_own_edits_and_says_how_the_model_wears_down(
    model, few, plain, tmp_path, undrawn, kept, killed_after_every
):
    config = plain.model_copy(update={"edited": "sequence", "read_every": 1, "text": "model"})
    results = EditStudy(model, few, config).run(tmp_path / "run")
    editor, corpus = mm.prepare(model, config=ALPHA), mm.held_out_text(model, n_tokens=SMALL["text_tokens"])
    found = results.sequence.estimate.sel(state="alphaedit")
    written = pd.read_csv(tmp_path / "run" / "sequence.csv", index_col=["state", "edits", "metric"])
    pd.testing.assert_frame_equal(written, results.sequence.to_dataframe())
    assert found.edits.values.tolist() == [0, 1, 2]
    with quiet():
        for number, fact in enumerate(few.contradicted, 1):
            editor.edit([fact], progress=False)
            answers, edited = mm.read_editing(editor.state, few.contradicted), few.contradicted.ids[:number]
            scores_of_all = mm.editing_scores(answers, edited=edited)
            n_left_out = results.reading("results/sequence").n_edited_neighbors.sel(edits=number)
            assert int(n_left_out) == scores_of_all.attrs["n_edited_neighbors"] >= 1
            whole = scores_of_all.estimate
            so_far = mm.editing_scores(mm.read_editing(editor.state, few.contradicted[:number])).estimate
            drift = mm.text_drift(mm.read_divergence(model, editor.state, corpus)).estimate
            at = found.sel(edits=number)
            for metric, of in (("neighborhood_score", whole), ("efficacy_score", so_far), ("perplexity_ratio", drift)):
                assert float(at.sel(metric=metric)) == pytest.approx(float(of.sel(metric=metric)), rel=1e-3)
    expected = mm.erase_index(*(mm.read_logits(one, few, phrasings="all") for one in (model, editor.state)))
    np.testing.assert_allclose(results.erase["index"].sel(state="alphaedit"), expected["index"], atol=1e-3)
    killed_after_every(4, EditStudy(model, few, config), tmp_path / "killed")
    assert kept(tmp_path / "killed") == kept(tmp_path / "run")


@pytest.mark.slow
def test_every_other_method_of_the_registry_goes_through_a_study(model, few, plain, tmp_path, undrawn):
    keyed = {**KEYED, "value_steps": 3, "moment_tokens": 512}
    edits = {
        "ft": mm.FTConfig(layer=1, lr=2e-2, steps=3),
        "ft_prompt_last": mm.FTPromptLastConfig(layer=1, lr=2e-2, steps=3),
        "rome": mm.ROMEConfig(**keyed),
        "r_rome": mm.RROMEConfig(**keyed),
        "memit": mm.MEMITConfig(**keyed, moment_weight=1e-3),
        "emmet": mm.EMMETConfig(**keyed, ridge=1e-3),
        "malmen": mm.MALMENConfig(layers=(1,), hypernetwork="identity", lr=0.3),
    }
    assert set(edits) | {"ft_l", "alphaedit"} == set(METHODS)  # those two are the studies of the other tests
    config = plain.model_copy(update={"edits": tuple(edits.values())})
    few = few.select([fact.id for fact in few if fact.role != "contradicted" or fact == few.contradicted[0]])
    results = EditStudy(model, few, config).run(tmp_path / "run")
    assert list(results.summary().index) == ["before", *edits]
    for name, edit in edits.items():
        with quiet():
            states = {fact.id: mm.edit(model, [fact], config=edit).on(model) for fact in few.contradicted}
        by_hand = scores([mm.read_editing(state, few.select([fact])) for fact, state in states.items()])
        found = estimates(results, name)
        assert [found[f"{kind}_score"] for kind in ("efficacy", "paraphrase", "neighborhood")] == pytest.approx(by_hand)


@pytest.mark.slow
def test_installed_facts_are_held_against_the_twin_that_was_not_taught_them(tiny, facts, plain, tmp_path, undrawn):
    few = facts.select([*sorted(facts.contradicted.ids), facts.control.ids[0], *facts.never.ids])
    install = mm.FinetuneConfig(steps=4, lr=1e-2, rank=4)
    short = FTL.model_copy(update={"steps": 4})
    config = plain.model_copy(update={"install": install, "edits": (short,)})
    model = tiny("llama")
    study = EditStudy(model, few, config)
    results = study.run(tmp_path / "run")
    assert results.erase.attrs["reference"] == "twins" and set(study.shares) == {"twin_0_0", "twin_0_1"}
    dealt = [fact for share in study.shares.values() for fact in share]
    assert dealt != list(few.contradicted.ids) == results.reading("results/answers").fact.values.tolist()
    assert results.editing.n.sel(state="ft_l", metric="locality") == 3
    twins = {
        name: mm.finetune(model, few.select([*share, *few.control.ids]).install_examples(), install).on(model)
        for name, share in study.shares.items()
    }
    for name, share in study.shares.items():
        other = next(twin for twin in twins if twin != name)
        for fact in share:
            one = few.select([fact, *few.control.ids])
            old = []
            for twin in (name, other):
                with quiet():
                    state = mm.edit(twins[twin], few.select([fact]), config=short).on(twins[twin])
                logprob = mm.read_logits(state, one, phrasings="all").logprob.sel(fact=fact)
                rivals = [route for route in logprob.route.values if route.startswith("distractor")]
                standing = logprob.sel(route="old") - logprob.sel(route=rivals).mean("route")
                old.append(float(standing.mean("phrasing")))
                if twin == name:
                    answers = mm.read_editing(state, few.select([fact])).nll.isel(fact=0, prompt=0)
                    own = results.reading("results/answers").nll.sel(state="ft_l", fact=fact).isel(prompt=0)
                    np.testing.assert_allclose(own, answers, atol=1e-3)
            found = float(results.erase.trace_after.sel(state="ft_l", fact=fact))
            assert found == pytest.approx(old[0] - old[1], abs=2e-3)


def test_it_runs_from_a_file(tiny, few, tmp_path):
    model = tiny("llama")
    for part in (model.module, model.tokenizer):
        part.save_pretrained(tmp_path / "model")
    few.to_jsonl(tmp_path / "facts.jsonl")
    (tmp_path / "study.toml").write_text(
        "[model]\nsource = 'model'\n[facts]\npath = 'facts.jsonl'\n"
        "[study]\nprotocol = 'editing'\nedited = 'sequence'\nread_every = 2\ntext = 'model'\n"
        "[[study.edits]]\nmethod = 'ft_l'\nlayer = 1\nclamp = 1.0\n"
    )
    study = study_from_file(tmp_path / "study.toml")
    assert isinstance(study, EditStudy) and study.facts == few
    assert (study.config.edited, study.config.read_every, study.config.text) == ("sequence", 2, "model")
    assert study.edits == {"ft_l": mm.FTLConfig(layer=1, clamp=1.0)}


REFUSED = [
    ({"edits": ()}, "edits"),
    ({"edits": ("rime",)}, "there is no edit method 'rime'"),
    ({"edited": "one"}, "edited"),
    ({"read_every": 0}, "read_every"),
    ({"n_tokens": 0}, "n_tokens"),
    ({"install": mm.FinetuneConfig(method="dora")}, "Nothing can be stacked"),
    ({"install": mm.FinetuneConfig(), "twins": 9}, "9 twins need as many"),
]


@pytest.mark.parametrize(("settings", "said"), REFUSED, ids=lambda of: str(of)[:24])
def test_what_makes_no_study_is_refused_before_any_work(tiny, facts, settings, said):
    with pytest.raises(StudyError, match=said):
        EditStudy(tiny("llama"), facts, mm.EditingConfig(**{"edits": (FTL,), **settings}))


def test_an_editor_that_does_not_fit_the_model_is_refused(tiny, facts):
    model = tiny("llama")
    for edits in ((FTL.model_copy(update={"layer": 9}),), (ALPHA.model_copy(update={"layers": (1, 7)}),)):
        with pytest.raises(ModelError, match="blocks 0 to 2"):
            EditStudy(model, facts, mm.EditingConfig(edits=edits))
    with pytest.raises(ChangeError, match="setting is known"):
        EditStudy(model, facts)
    with pytest.raises(ChangeError, match="No edit method has a preset"):
        methods_with_presets(model)
    assert list(edit_settings(model, (FTL, ALPHA, FTL))) == ["ft_l", "alphaedit", "ft_l_2"]


def test_all_methods_are_those_that_need_no_training():
    named = methods_with_presets(mm.load_model("smollm2-135m"))
    assert named == [name for name in METHODS if name != "malmen"]


def test_facts_without_a_role_or_a_distractor_are_refused(tiny, facts):
    for role in ("contradicted", "control", "never"):
        with pytest.raises(StudyError, match=f"0 {role}"):
            EditStudy(
                tiny("llama"), mm.FactSet(fact for fact in facts if fact.role != role), mm.EditingConfig(edits=(FTL,))
            )
    bare = mm.FactSet(fact.model_copy(update={"distractors": ()}) for fact in facts)
    with pytest.raises(StudyError, match="log_odds"):
        EditStudy(tiny("llama"), bare, mm.EditingConfig(edits=(FTL,)))


def test_a_text_that_is_not_there_is_refused(tiny, facts, tmp_path):
    config = mm.EditingConfig(edits=(FTL,), text=str(tmp_path / "none.txt"))
    with pytest.raises(mm.MechmaskError, match="none"):
        EditStudy(tiny("llama"), facts, config).run(tmp_path / "run")


def test_its_page_shows_all_of_it(done, shows_everything):
    shows_everything(*done)
