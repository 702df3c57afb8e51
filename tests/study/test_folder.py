"""A study's directory: nobody else's is touched, one process at a time, nothing is overwritten."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr

from mechmask import FinetuneConfig, FTLConfig, MaskStudy, synthetic_facts
from mechmask.errors import StudyError
from mechmask.study.folder import StudyFolder

DESCRIPTION = {
    "schema_version": 1,
    "config": {"checkpoint_every": 2, "contradict": {"steps": 4}},
    "model": {"fingerprint": "abc"},
}


def _open(root, description, facts):
    with StudyFolder(root).opened(description, facts):
        pass


def test_a_new_directory_says_what_it_holds(tmp_path, small_facts):
    from mechmask import load_facts

    _open(tmp_path / "deep" / "run", DESCRIPTION, small_facts)
    assert load_facts(tmp_path / "deep" / "run" / "facts.jsonl") == small_facts
    _open(tmp_path / "deep" / "run", DESCRIPTION, small_facts)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"config": {"checkpoint_every": 3, "contradict": {"steps": 4}}}, ["config.checkpoint_every", "2", "3"]),
        ({"config": {"checkpoint_every": 2, "contradict": {"steps": 9}}}, ["config.contradict.steps", "4", "9"]),
        ({"config": {"checkpoint_every": 2}}, ["config.contradict"]),
        ({"model": {"fingerprint": "xyz"}}, ["model.fingerprint", "abc", "xyz"]),
        ({"schema_version": 2}, ["schema_version"]),
    ],
)
def test_another_study_is_refused_with_the_difference(tmp_path, small_facts, contents, change, named):
    _open(tmp_path, DESCRIPTION, small_facts)
    before = contents(tmp_path)
    with pytest.raises(StudyError, match="holds another study") as caught:
        _open(tmp_path, {**DESCRIPTION, **change}, small_facts)
    assert all(word in str(caught.value) for word in named)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("part", ["config", "facts", "model"])
def test_a_finished_study_is_not_overwritten_by_another(done, tiny, small_facts, small_config, contents, part):
    _, directory = done
    before = contents(directory)
    config, facts, model = small_config, small_facts, tiny("llama")
    if part == "config":
        config = small_config.model_copy(update={"contradict": FinetuneConfig(steps=4, lr=2e-2, rank=4)})
    elif part == "facts":
        facts = synthetic_facts(4, n_never=8, distractors=3, seed=6)
    else:
        model = tiny("llama", seed=1)
    wanted = {
        "config": r"config\.contradict\.lr is 0\.01 there and 0\.02 here",
        "facts": "facts is",
        "model": r"model\.fingerprint is",
    }
    with pytest.raises(StudyError, match=wanted[part]):
        MaskStudy(model, facts, config).run(directory)
    assert contents(directory) == before


@pytest.mark.parametrize("name", ["notes.txt", "facts.jsonl", "results", ".hidden", "study.json.bak"])
def test_a_directory_of_something_else_is_refused_and_left_untouched(tmp_path, small_facts, name):
    """A file of facts too: it may be the user's only copy of the ones that the study was started with."""
    root = tmp_path / "mine"
    root.mkdir()
    (root / name).mkdir() if name == "results" else (root / name).write_text("mine\n")
    with pytest.raises(StudyError, match="holds no study"):
        _open(root, DESCRIPTION, small_facts)
    assert [path.name for path in root.iterdir()] == [name]
    assert name == "results" or (root / name).read_text() == "mine\n"


@pytest.mark.parametrize("text", ["{", "", "[1]", '"text"', "\u0000", "{}"])
def test_a_study_json_of_something_else_is_refused(tmp_path, small_facts, text):
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(StudyError):
        _open(tmp_path, DESCRIPTION, small_facts)
    assert (tmp_path / "study.json").read_text() == text


@pytest.mark.parametrize("leftover", [".facts.jsonl.k1ll3d.jsonl", ".study.json.k1ll3d.json", "facts.jsonl"])
def test_a_study_killed_while_it_began_begins_again(tmp_path, small_facts, leftover):
    """Each of these is what a kill between two lines of the beginning leaves."""
    if leftover == "facts.jsonl":
        small_facts.to_jsonl(tmp_path / leftover)
    else:
        (tmp_path / leftover).write_text("")
    (tmp_path / ".lock").touch()
    _open(tmp_path, DESCRIPTION, small_facts)
    assert (tmp_path / "study.json").is_file()


def test_a_file_is_no_directory(tmp_path, small_facts):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StudyError, match=r"file is a file"):
        _open(tmp_path / "file", DESCRIPTION, small_facts)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_directory_under_a_file_is_an_error_of_ours(tmp_path, small_facts):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StudyError):
        _open(tmp_path / "file" / "run", DESCRIPTION, small_facts)


HOLDER = """
import sys
from mechmask import load_facts
from mechmask.study.folder import StudyFolder
with StudyFolder(sys.argv[1]).opened({"schema_version": 1}, load_facts(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_do_not_write_at_once(tmp_path, small_facts):
    small_facts.to_jsonl(tmp_path / "facts.jsonl")
    root = tmp_path / "run"
    command = [sys.executable, "-c", HOLDER, str(root), str(tmp_path / "facts.jsonl")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(StudyError, match="Another process is at work"):
            _open(root, {"schema_version": 1}, small_facts)
        holder.kill()
        holder.wait()
    _open(root, {"schema_version": 1}, small_facts)


def test_the_lock_is_given_back_after_an_error(tmp_path, small_facts):
    with pytest.raises(RuntimeError), StudyFolder(tmp_path / "run").opened(DESCRIPTION, small_facts):
        raise RuntimeError
    _open(tmp_path / "run", DESCRIPTION, small_facts)


def _reading(value):
    return xr.Dataset(
        {"logprob": (("fact", "route"), np.full((1, 2), value))},
        {"fact": ["a"], "route": ["old", "new"]},
        {"schema_version": 1},
    )


def test_a_reading_is_made_once(tmp_path):
    folder = StudyFolder(tmp_path)
    assert float(folder.reading("results/one", lambda: _reading(1.5)).logprob[0, 0]) == 1.5
    assert float(folder.reading("results/one", lambda: pytest.fail("made again")).logprob[0, 0]) == 1.5


def test_a_reading_that_fails_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        StudyFolder(tmp_path).reading("one", lambda: 1 / 0)
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_come_in_the_order_of_steps(tmp_path):
    folder = StudyFolder(tmp_path)
    for step in (10, 0, 100000, 2):
        folder.checkpoint("install", step, lambda step=step: _reading(float(step)))
    (tmp_path / "checkpoints" / "install" / ".000004.nc.k1ll3d.nc").write_text("half of one")
    assert [(step, float(reading.logprob[0, 0])) for step, reading in folder.checkpoints("install")] == [
        (s, s) for s in (0, 2, 10, 100000)
    ]
    assert folder.checkpoints("contradict") == []


def test_a_state_comes_back_and_is_dropped(tmp_path):
    import torch

    folder = StudyFolder(tmp_path)
    assert folder.state("install") is None
    folder.save_state("install", {"step": torch.tensor(3), "x": torch.randn(2, 3)})
    state = {"step": torch.tensor(5), "x": torch.randn(2, 3), "losses": torch.zeros(0)}
    folder.save_state("install", state)
    assert all(torch.equal(folder.state("install")[name], tensor) for name, tensor in state.items())
    folder.drop_state("install")
    folder.drop_state("install")
    assert folder.state("install") is None


def test_a_description_takes_what_json_takes(tmp_path, small_facts):
    """Tuples become lists on the way to the file: that is no difference."""
    description = {"config": {"layers": (0, 1), "edit": FTLConfig(layer=1, clamp=0.1).model_dump(mode="json")}}
    _open(tmp_path, description, small_facts)
    _open(tmp_path, description, small_facts)
