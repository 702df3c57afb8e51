"""A whole study on a tiny llama: what it says equals what its parts say when they are called by hand."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from mechmask import (
    FinetuneConfig,
    FTLConfig,
    MaskStudy,
    StudyConfig,
    commit_layer,
    erase_index,
    load_change,
    read_depth,
    read_logits,
)
from mechmask.errors import MechmaskError, StudyError
from mechmask.write.edit import edit
from mechmask.write.finetune import Finetuning

ROOMS = ("results", "changes", "checkpoints", "readings", "training")
EXACT = ("logprob", "margin", "standing", "rank", "ceiling", "entropy", "recalled")


def _same(left, right, names):
    for name in names:
        np.testing.assert_array_equal(left[name].values, right[name].values, err_msg=name)


def test_the_model_is_left_as_it_was(done, studied, tiny):
    """``done`` is what a model looks like after a study; a fresh one is what it looked like before."""
    module, fresh = studied.model.module, tiny("llama").module
    assert studied.model.fingerprint == tiny("llama").fingerprint
    assert [(name, type(child)) for name, child in module.named_modules()] == [
        (n, type(c)) for n, c in fresh.named_modules()
    ]
    assert [sorted(vars(child)) for child in module.modules()] == [sorted(vars(child)) for child in fresh.modules()]
    assert [child.training for child in module.modules()] == [child.training for child in fresh.modules()]
    assert [p.requires_grad for p in module.parameters()] == [p.requires_grad for p in fresh.parameters()]
    assert not [name for name, p in module.named_parameters() if p.grad is not None]


def test_every_result_is_there(done, studied, small_facts):
    study, directory = done
    contradicted = [fact.id for fact in small_facts.contradicted]
    assert list(study.before.fact.values) == list(study.after.fact.values) == list(small_facts.ids)
    assert study.before.sizes["phrasing"] == 4
    assert list(study.depth.state.values) == ["before", "finetune", "ft_l"]
    assert list(study.erase.state.values) == ["finetune", "ft_l"]
    assert list(study.depth.fact.values) == list(study.erase.fact.values) == contradicted
    assert list(study.depth.layer.values) == [0, 1, 2, 3]
    assert list(study.commit.dims) == ["state", "fact"]
    tables = ("summary.csv", "overview.csv", "surprise.csv", "figures/surprise.png")
    for name in (*tables, "provenance.json", "run.json", "facts.jsonl"):
        assert (directory / name).stat().st_size
    assert json.loads((directory / "provenance.json").read_text())["fingerprint"] == studied.model.fingerprint


def test_surprise_is_of_the_readings(done, small_facts):
    study, contradicted = done[0], list(small_facts.contradicted.ids)
    found = study.reading("results/surprise").sel(state="finetune")
    before, after = (one.sel(fact=contradicted, phrasing=0) for one in (study.before, study.after))
    np.testing.assert_allclose(found.surprise, -before.logprob.sel(route="new"))
    np.testing.assert_allclose(found.margin, after.margin)
    assert found.subject.values.tolist() == [fact.subject for fact in small_facts.contradicted]


def test_dimensions_are_those_of_the_design(done):
    """margin[fact, layer], logprob[fact, route, layer]; a study adds state and phrasing, nothing else."""
    study, _ = done
    assert set(study.depth.logprob.dims) == {"state", "fact", "phrasing", "route", "layer"}
    assert set(study.depth.margin.dims) == {"state", "fact", "phrasing", "layer"}
    assert set(study.trajectory.logprob.dims) == {"step", "fact", "route"}
    assert set(study.trajectory.margin.dims) == {"step", "fact"}
    assert set(study.depth_trajectory.logprob.dims) == {"step", "fact", "route", "layer"}
    assert set(study.depth_trajectory.margin.dims) == {"step", "fact", "layer"}
    assert set(study.erase["index"].dims) == {"state", "fact"}


def test_the_trajectory_runs_through_both_phases(done):
    study, _ = done
    trajectory = study.trajectory
    assert list(trajectory.step.values) == [0, 2, 4, 6, 8]
    assert list(trajectory.phase.values) == ["install"] * 3 + ["contradict"] * 2
    assert int(trajectory.attrs["onset_step"]) == study.depth_trajectory.attrs["onset_step"] == 4
    assert list(study.depth_trajectory.step.values) == [0, 2, 4, 6, 8]
    assert set(trajectory.generation.dims) == {"step", "fact"}


def test_the_trajectory_equals_a_fine_tuning_run_by_hand(done, tiny, small_facts, small_config):
    study, _ = done
    model = tiny("llama")

    def read():
        return read_logits(model, small_facts), read_depth(model, small_facts.contradicted)

    readings = {0: read()}
    with Finetuning(model, small_facts.install_examples(), small_config.install) as run:
        for step in (1, 2, 3, 4):
            run.advance(1)
            readings[step] = read()
        install = run.change()
    with Finetuning(model, small_facts.contradiction_examples(), small_config.contradict, install) as run:
        for step in (5, 6, 7, 8):
            run.advance(1)
            readings[step] = read()
    for step in (0, 2, 4, 6, 8):
        output, layers = readings[step]
        _same(study.trajectory.sel(step=step), output, EXACT)
        for name in ("logprob", "margin"):  # read in the pass of the output: the same up to rounding
            np.testing.assert_allclose(study.depth_trajectory.sel(step=step)[name], layers[name], rtol=1e-5, atol=1e-5)


def test_a_notebook_shows_the_outcome(done, tiny, small_facts, small_config):
    study, directory = done
    assert str(directory) in repr(study)
    page = study._repr_html_()
    assert study.conclusion()[:40] in page and f"{study.overview()['index'].iloc[0]:.2f}" in page
    assert "12 facts" in repr(MaskStudy(tiny("llama"), small_facts, small_config))


def test_as_many_phrasings_are_taught_as_the_config_says(tiny, small_facts, small_config, tmp_path, undrawn):
    config = small_config.model_copy(update={"taught_phrasings": 2, "edits": ()})
    study = MaskStudy(tiny("llama"), small_facts, config).run(tmp_path / "two")
    model = tiny("llama")
    with Finetuning(model, small_facts.install_examples(2), config.install) as run:
        run.advance(4)
        install = run.change()
    with Finetuning(model, small_facts.contradiction_examples(2), config.contradict, install) as run:
        run.advance(4)
        _same(study.trajectory.sel(step=8), read_logits(model, small_facts), EXACT)


def test_before_and_after_equal_readings_under_the_changes_in_the_folder(done, tiny, small_facts):
    study, directory = done
    model = tiny("llama")
    for name, reading, state in (("install", study.before, "before"), ("contradict", study.after, "finetune")):
        with load_change(directory / "changes" / name / "change").applied(model):
            _same(reading, read_logits(model, small_facts, phrasings="all"), EXACT)
            by_hand = read_depth(model, small_facts.contradicted, phrasings="all")
        np.testing.assert_array_equal(study.depth.logprob.sel(state=state).values, by_hand.logprob.values)


def test_the_erase_index_of_ft_l_equals_edits_made_by_hand(done, tiny, small_facts, small_config):
    """Each fact alone, on the installed model, against controls and never facts under the same edit."""
    study, directory = done
    model = tiny("llama")
    others = [*small_facts.control, *small_facts.never]
    with load_change(directory / "changes" / "install" / "change").applied(model):
        before = read_logits(model, small_facts, phrasings="all")
        for fact in small_facts.contradicted:
            with edit(model, [fact], "ft_l", small_config.edits[0]).applied(model):
                after = read_logits(model, [fact, *others], phrasings="all")
                depth = read_depth(model, [fact], phrasings="all")
            by_hand = erase_index(before.sel(fact=after.fact), after, cutoff_nats=small_config.cutoff_nats)
            mine = study.erase.sel(state="ft_l", fact=fact.id)
            for name in by_hand.data_vars:
                value = by_hand[name].values.ravel()[0]
                assert (
                    mine[name].item() == pytest.approx(value, nan_ok=True)
                    if by_hand[name].dtype.kind in "fi"
                    else mine[name].item() == value
                )
            commit = commit_layer(depth).sel(fact=fact.id).values
            np.testing.assert_array_equal(mine.commit_layer.values, commit[0])
            assert mine.recalled.item() == after.recalled.sel(fact=fact.id, route="new", phrasing=0).item()
            if not np.isnan(commit).all():
                assert (mine.commit_low.item(), mine.commit_high.item()) == (np.nanmin(commit), np.nanmax(commit))


def test_the_erase_index_of_the_fine_tuning_is_the_paper_s_formula(done):
    """EI_i = (ref_i - end_i) - mean over controls (ref_c - end_c), on the prompt itself (paper 2F)."""
    study, _ = done
    drop = (study.before.logprob - study.after.logprob).sel(route="old", phrasing=0)
    roles = study.before.role.values
    index = drop.values[roles == "contradicted"] - drop.values[roles == "control"].mean()
    np.testing.assert_allclose(study.erase["index"].sel(state="finetune").values, index, rtol=1e-12)


def test_summary_overview_and_conclusion_say_the_same(done):
    study, directory = done
    summary, overview, conclusion = study.summary(), study.overview(), study.conclusion()
    assert summary.index.names == ["state", "fact"]
    assert len(summary) == 4
    for state in ("finetune", "ft_l"):
        rows = summary.loc[state]
        assert overview.loc[state, "index"] == pytest.approx(rows["index"].mean())
        assert overview.loc[state, "n"] == 2
        for verdict in ("masked", "erased", "suppressed", "undecided"):
            assert overview.loc[state, verdict] == (rows.verdict == verdict).sum()
        erased = (rows.paper_verdict == "erased").sum()
        assert f"{'fine-tuning' if state == 'finetune' else 'FT-L'} erases {erased} of 2 old values" in conclusion
        assert f"mean index {rows['index'].mean():.1f} nats" in conclusion
    stored = pd.read_csv(directory / "summary.csv", index_col=["state", "fact"])
    pd.testing.assert_frame_equal(stored, summary, check_dtype=False)
    stored = pd.read_csv(directory / "overview.csv", index_col="state")
    pd.testing.assert_frame_equal(stored, overview, check_dtype=False)


def _times(root):
    return {
        str(p.relative_to(root)): p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file() and p.name != ".lock"
    }


@pytest.fixture(scope="module")
def again(done, tiny, small_facts, small_config, contents):
    """The finished study run once more: itself, and contents and times before and after."""
    directory = done[1]
    before, times = contents(directory), _times(directory)
    study = MaskStudy(tiny("llama"), small_facts, small_config).run(directory)
    return study, (before, contents(directory)), (times, _times(directory))


def test_running_again_gives_the_same_datasets_and_files(done, again):
    for name in ("before", "after", "trajectory", "depth", "erase"):
        xr.testing.assert_identical(getattr(again[0], name), getattr(done[0], name))
    before, after = again[1]
    assert after == before


def test_running_again_makes_no_reading_and_no_change(again):
    before, after = (
        {
            k: v
            for k, v in times.items()
            if k.startswith(("results", "changes", "checkpoints", "readings", "training", "run", "facts"))
        }
        for times in again[2]
    )
    assert len(before) > 20
    assert after == before


def test_running_again_writes_no_file(again):
    """Not even the same text or figure: provenance is of when the work was done."""
    before, after = again[2]
    assert sorted(name for name in after if after[name] != before.get(name)) == []


def test_nothing_but_the_results_is_left(done):
    _, directory = done
    assert not [p for p in directory.rglob(".*") if p.name != ".lock"]
    states = sorted(path.parent.name for path in directory.rglob("state.safetensors"))
    assert states == ["000004", "000004"]  # the last of each training, from which a longer one goes on


def test_facts_that_the_model_holds_need_no_installation(llama, small_facts, tmp_path, undrawn):
    """Read by another score, which every reading at the output then has."""
    config = StudyConfig(
        install=None, contradict=FinetuneConfig(steps=2, lr=1e-2, rank=2), checkpoint_every=1, edits=(), score="mean"
    )
    study = MaskStudy(llama, small_facts, config).run(tmp_path / "run")
    assert list(study.trajectory.step.values) == [0, 1, 2]
    assert list(study.trajectory.phase.values) == ["contradict"] * 3
    assert int(study.trajectory.attrs["onset_step"]) == 0
    assert list(study.erase.state.values) == ["finetune"]
    _same(study.before, read_logits(llama, small_facts, "mean", phrasings="all"), ["logprob", "standing"])
    assert {r.attrs["score"] for r in (study.before, study.after, study.trajectory, study.erase)} == {"mean"}
    assert [p.name for p in (tmp_path / "run" / "changes").iterdir()] == ["contradict"]


def test_installation_ends_when_the_values_are_recalled(llama, small_facts, tmp_path, undrawn):
    """Half of the taught facts: at the first checkpoint with that recall, before the last step."""
    few = StudyConfig(
        install=FinetuneConfig(steps=60, lr=1e-2),
        install_recall=0.5,
        contradict=FinetuneConfig(steps=1, lr=1e-3),
        checkpoint_every=5,
        edits=(),
    )
    study = MaskStudy(llama, small_facts, few).run(tmp_path / "run")
    trajectory = study.trajectory
    onset = int(trajectory.attrs["onset_step"])
    taught = (
        trajectory.recalled.sel(route="old", fact=trajectory.role != "never")
        .mean("fact")
        .sel(step=slice(None, onset))
        .values
    )
    assert onset < 60
    assert taught[-1] >= 0.5
    assert (taught[:-1] < 0.5).all()


@pytest.mark.parametrize("roles", [("contradicted",), ("control",), ("never",), ("contradicted", "never")])
def test_facts_of_both_roles_are_needed(llama, small_facts, small_config, roles):
    facts = small_facts.select([fact.id for fact in small_facts if fact.role in roles])
    with pytest.raises(StudyError, match="needs contradicted and control facts"):
        MaskStudy(llama, facts, small_config)


@pytest.mark.parametrize(
    "field",
    [
        {"lens": "crystal"},
        {"backend": "hooks"},
        {"edits": (FTLConfig(layer=7, clamp=0.1),)},
        {"install": FinetuneConfig(steps=1, layers=(9,))},
        {"contradict": FinetuneConfig(steps=1, layers=(9,))},
        {"contradict": FinetuneConfig(steps=1, rank=1)},
        {"contradict": FinetuneConfig(steps=1, rank=8)},
        {"contradict": FinetuneConfig(steps=1, projections="mlp")},
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused_before_work_starts(llama, small_facts, small_config, tmp_path, field):
    """What needs no training to be known is not found out after an hour of it."""
    config = small_config.model_copy(update=field)
    with pytest.raises(MechmaskError):
        MaskStudy(llama, small_facts, config).run(tmp_path / "run")
    assert not list(tmp_path.rglob("*.nc"))


def test_a_nan_stops_it_and_names_the_fact(llama, small_facts, small_config, tmp_path):
    import torch

    with torch.no_grad():
        llama.module.model.norm.weight[0] = float("nan")
    with pytest.raises(MechmaskError, match=r"NaN|not a number") as caught:
        MaskStudy(llama, small_facts, small_config).run(tmp_path / "run")
    assert any(fact.id in str(caught.value) for fact in small_facts)


def test_what_was_installed_is_contradicted_by_the_method_that_installed_it(llama, small_facts):
    install, contradict = FinetuneConfig(method="full", steps=2), FinetuneConfig(steps=2)
    with pytest.raises(StudyError, match=r"method, rank, alpha, .* install has {'method': 'full'"):
        MaskStudy(llama, small_facts, StudyConfig(install=install, contradict=contradict))


@pytest.mark.parametrize("method", ["dora", "full"])
def test_a_study_of_another_method_continues_what_it_installed(tiny, small_facts, tmp_path, method, undrawn):
    taught = FinetuneConfig(method=method, steps=2, lr=1e-3)
    config = StudyConfig(install=taught, contradict=taught, checkpoint_every=2, edits=())
    MaskStudy(tiny("llama"), small_facts, config).run(tmp_path / "run")
    first, second = (load_change(tmp_path / "run" / "changes" / n / "change") for n in ("install", "contradict"))
    assert first.method == second.method == method
    assert first.base == second.base == tiny("llama").fingerprint
