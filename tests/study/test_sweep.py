"""A sweep is its studies: each as it would be alone, whichever way they are run, gathered by what was varied."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

import mechmask as mm
from mechmask import draw
from mechmask.errors import StudyError
from mechmask.study.sweep import Sweep

pytestmark = pytest.mark.usefixtures("all_undrawn")


@pytest.fixture(scope="session")
def model_directory(tiny_module, tokenizer, tmp_path_factory) -> Path:
    """A tiny model as a user has one: a directory."""
    directory = tmp_path_factory.mktemp("models") / "tiny"
    tiny_module("llama").save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tables(model_directory):
    """Tables of a sweep over two draws and two learning rates."""
    taught = {"steps": 4, "lr": 1e-2, "rank": 4}
    return {
        "model": {"source": str(model_directory)},
        "facts": {"synthetic": {"n": 4, "n_never": 8, "distractors": 3}},
        "study": {"protocol": "correction", "contradict": taught, "checkpoint_every": 2, "edits": []},
        "sweep": {"draw": [0, 1], "study": {"contradict": {"lr": [1e-3, 1e-2]}}},
    }


def test_every_combination_is_a_study_named_by_what_it_is(tables):
    sweep = Sweep(tables)
    assert repr(sweep) == "Sweep(4 studies: draw x lr)"
    assert [point.name for point in sweep.points] == [f"draw={d},lr={lr}" for d in (0, 1) for lr in (0.001, 0.01)]
    configs = [point.description.file.study for point in sweep.points]
    assert [config.contradict.lr for config in configs] == [1e-3, 1e-2] * 2
    assert all(config.contradict.steps == 4 for config in configs)


def test_axes_are_called_by_the_last_part_of_their_path_where_that_is_theirs_alone(tables):
    lists = {"study": {"contradict": {"lr": [1e-3]}, "install": {"lr": [1e-3, 1e-2]}}, "model": ["a", "b"]}
    mask = {**tables, "study": {}, "sweep": lists}
    assert list(Sweep(mask).axes) == ["study.contradict.lr", "study.install.lr", "model"]
    models = [point.description.file.model.source for point in Sweep(mask).points]
    assert models == ["a", "a", "b", "b"]  # those of one model follow one another: it is loaded once
    assert Sweep({**mask, "sweep": {"study.edits": [[], ["ft_l"], ["ft_l", "rome"]]}}).axes == {
        "edits": ["none", "ft_l", "ft_l+rome"]
    }


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sweep": {}}, "has no table [sweep]"),
        ({"sweep": {"draw": 3}}, "draw is no list of values"),
        ({"sweep": {"draw": [0, 0]}}, "draw holds the same value twice"),
        ({"sweep": {"seed": [0.5]}}, "seed holds something else than numbers from 0 on"),
        ({"sweep": {"lr": [1e-3]}}, "lr is no key of the file"),
        ({"sweep": {"study.contradict.lr": [1e-3, -1]}}, "lr=-1: sweep.toml: study.contradict.lr"),
        ({"sweep": {"study.protocol": ["mask", "nothing"]}}, "protocol=nothing: sweep.toml: no protocol is called"),
        ({"facts": {}, "study": {"protocol": "paper"}, "sweep": {"seed": [0]}}, "Sweep over a protocol that it"),
        ({"draws": {"n": 2}}, "Give draw or seed under [sweep]"),
        ({"facts": {"path": "facts.jsonl"}}, "the facts of a file are one draw"),
    ],
)
def test_what_cannot_be_swept_is_refused_before_the_first_study(tables, change, said, tmp_path):
    with pytest.raises(StudyError) as caught:
        Sweep({**tables, **change})
    assert said in str(caught.value)


@pytest.fixture(scope="session")
def swept(tables, tmp_path_factory):
    """The sweep run here: its results."""
    return Sweep(tables).run(tmp_path_factory.mktemp("sweep") / "run")


def test_each_study_is_what_it_would_be_alone(swept, tables, model_directory, tmp_path):
    one = swept.studies["draw=1,lr=0.01"]
    facts = mm.synthetic_facts(4, n_never=8, distractors=3, seed=1)
    taught = mm.FinetuneConfig(steps=4, lr=1e-2, rank=4)
    config = mm.CorrectionConfig(contradict=taught, checkpoint_every=2, edits=())
    alone = mm.CorrectionStudy(mm.load_model(model_directory), facts, config).run(tmp_path / "alone")
    assert one.erase.equals(alone.erase) and one.config == alone.config


def test_cells_pool_their_draws_and_stand_beside_each_other(swept):
    assert swept.between == ["lr"] and swept.missing == []
    cells = swept.each("results/erase")
    assert list(cells) == [(0.001,), (0.01,)]
    for (lr,), erase in cells.items():
        alone = {d: swept.studies[f"draw={d},lr={lr}"].erase for d in (0, 1)}
        np.testing.assert_array_equal(erase["index"], np.concatenate([alone[d]["index"] for d in (0, 1)], axis=-1))
        assert erase["seed"].values.tolist() == ["0"] * alone[0].sizes["fact"] + ["1"] * alone[1].sizes["fact"]
        row = swept.overview().loc[lr]
        assert row.equals(mm.overview(erase).loc[row.index]) and (row.draws == 2).all()
        gathered = swept.gathered.sel(lr=lr)
        np.testing.assert_array_equal(gathered["normalised"].sel(state=row.index), row["normalised"])
        assert gathered.verdict.sel(state=row.index).values.tolist() == row.verdict.tolist()


def test_it_opens_without_its_file_and_is_drawn_printed_and_shown(swept, tmp_path, mechmask):
    again = mm.open_results(swept.directory)
    assert again.gathered.equals(swept.gathered)
    assert again.conclusion().startswith("2 cells (lr), old values of each as a group: ")
    figure = draw.sweep(again.gathered)
    labels = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(labels) == int(again.gathered.n.notnull().sum()) and all(label.startswith("lr 0.0") for label in labels)
    assert "lr" in again.to_markdown() and "draw" in again.to_markdown(table="labels")
    page = draw.report(again, tmp_path / "page.html").read_text()
    assert "A sweep of 4 studies: draw x lr" in page and "draw=1,lr=0.01" in page
    assert mm.export_tables(again, tmp_path / "tables") == []
    assert (tmp_path / "tables" / "draw=1,lr=0.01" / "summary.csv").is_file()
    shown = mechmask("status", swept.directory)
    assert shown.code == 0 and "studies/draw=0,lr=0.001/results/erase" in shown.out


def test_taken_up_again_nothing_is_made_anew_and_a_new_value_joins(swept, tables, tmp_path, contents):
    directory = tmp_path / "run"
    shutil.copytree(swept.directory, directory)
    before = contents(directory)
    Sweep(tables).run(directory)
    assert contents(directory) == before
    more = {**tables, "sweep": {"draw": [0, 1, 2], "study": {"contradict": {"lr": [1e-2]}}}}
    results = Sweep(more).run(directory)
    assert list(results.studies) == [f"draw={d},lr=0.01" for d in (0, 1, 2)]


def test_a_study_of_an_earlier_file_is_not_taken_for_one_of_this(swept, tables, tmp_path):
    directory = tmp_path / "run"
    shutil.copytree(swept.directory, directory)
    changed = {**tables, "study": {**tables["study"], "checkpoint_every": 4}}
    sweep = Sweep(changed)
    first = sweep.points[:1]
    sweep.points = ()
    with pytest.raises(StudyError, match="is finished yet"):
        sweep.run(directory)
    object.__setattr__(sweep, "points", first)
    assert list(sweep.run(directory).studies) == [first[0].name]


def test_a_study_that_cannot_be_done_does_not_keep_the_others_from_it(tables, tmp_path, mechmask):
    broken = {**tables, "sweep": {"draw": [0], "model": ["nowhere/at-all", tables["model"]["source"]]}}
    with pytest.raises(StudyError, match="1 of 2 studies could not be done") as caught:
        Sweep(broken).run(tmp_path / "run")
    assert "nowhere" in str(caught.value)
    results = mm.open_results(tmp_path / "run")
    assert len(results.studies) == 1 and len(results.missing) == 1
    assert "1 studies are not finished" in results.conclusion()


def test_a_directory_that_holds_something_else_is_left_alone(tables, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StudyError, match="holds no sweep"):
        Sweep(tables).run(tmp_path)
    with pytest.raises(StudyError, match="cannot run on 'slurm'"):
        Sweep(tables).run(tmp_path / "run", "slurm")  # pyright: ignore[reportArgumentType]
    with pytest.raises(StudyError, match="are Ray's"):
        Sweep(tables).run(tmp_path / "run", workers=2)


def _killed_once(directory: Path, killed: list[int]) -> None:
    """Kill the worker of Ray that has made the first step of a study."""
    while not killed:
        time.sleep(0.05)
        if any(directory.glob("studies/*/readings/*/*/step.json")) or any(directory.glob("studies/*/checkpoints/*/*")):
            for process in psutil.Process().children(recursive=True):
                if any("_study_done" in part for part in process.cmdline()):
                    os.kill(process.pid, signal.SIGKILL)
                    killed.append(process.pid)
                    return


def test_on_ray_a_killed_worker_is_taken_up_to_the_same_bits(swept, tables, tmp_path, contents):
    pytest.importorskip("ray")
    killed: list[int] = []
    killer = threading.Thread(target=_killed_once, args=(tmp_path / "run", killed), daemon=True)
    killer.start()
    of_one_rate = {**tables, "sweep": {"draw": [0, 1], "study": {"contradict": {"lr": [1e-2]}}}}
    results = Sweep(of_one_rate).run(tmp_path / "run", on="ray", workers=2)
    killer.join(timeout=1)
    assert killed and list(results.studies) == ["draw=0,lr=0.01", "draw=1,lr=0.01"]
    for name, study in results.studies.items():
        assert study.erase.equals(swept.studies[name].erase), name
    assert results.gathered.sel(lr=0.01).equals(swept.gathered.sel(lr=0.01))


def test_what_ray_has_no_room_for_is_refused(tables, tmp_path):
    pytest.importorskip("ray")
    with pytest.raises(StudyError, match="A study asks for 1 GPUs and Ray has 0"):
        Sweep(tables).run(tmp_path / "run", on="ray", workers=1, gpus=1)
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1"):
        with pytest.raises(StudyError, match=r"cannot be started or reached \(ConnectionRefusedError"):
            Sweep(tables).run(tmp_path / "run", on="ray", address=address)


def test_the_command_runs_the_file(tables, model_directory, tmp_path, mechmask):
    (tmp_path / "sweep.toml").write_text(
        f"""
        [model]
        source = {json.dumps(str(model_directory))}
        [facts.synthetic]
        n = 4
        n_never = 8
        distractors = 3
        [study]
        protocol = "correction"
        contradict = {{ steps = 4, rank = 4 }}
        checkpoint_every = 2
        edits = []
        [sweep]
        study.contradict.lr = [1e-2]
        """
    )
    shown = mechmask("sweep", tmp_path / "sweep.toml", "--out", tmp_path / "run", "--json")
    assert shown.code == 0
    assert json.loads(shown.out)["summary"][0]["lr"] == 0.01
