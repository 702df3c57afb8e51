"""A run's directory: steps are taken up or made, never mixed; nobody else's files are touched."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import xarray as xr
from pydantic import BaseModel

from mechmask.errors import StudyError
from mechmask.measure.reading import save_reading
from mechmask.study.card import CARD, ROOMS
from mechmask.study.results import StudyResults
from mechmask.study.run import Run
from mechmask.study.step import MANIFEST, NO_SETTINGS, Settings


class Model:
    """What a run asks of a model, without torch."""

    fingerprint, name, family, dtype = "abc", "tiny", "llama", "float32"


class Older(BaseModel):
    lr: float = 0.1
    steps: int = 3


class Newer(Older):
    momentum: float = 0.9


class ChangedDefault(BaseModel):
    lr: float = 0.2
    steps: int = 3


def opened(root, facts, model=None):
    return Run(root, model or Model(), facts)  # pyright: ignore[reportArgumentType]


class Maker:
    """Writes a file and counts how often."""

    def __init__(self, text="one", details=None):
        self.text, self.details, self.n = text, details, 0

    def __call__(self, directory: Path):
        self.n += 1
        (directory / "deep").mkdir()
        (directory / "deep" / "made.txt").write_text(self.text)
        return self.details


def test_a_step_is_made_once(tmp_path, small_facts):
    make = Maker(details={"steps": 4})
    for _ in range(2):
        with opened(tmp_path / "run", small_facts) as run:
            step = run.step("changes/one", Settings.of(Older()), {"model": "abc"}, make)
            assert (step.directory / "deep" / "made.txt").read_text() == "one"
            assert step.details == {"steps": 4} and step.name == "changes/one"
    assert make.n == 1


@pytest.mark.parametrize(
    ("settings", "inputs", "made"),
    [
        (Settings.of(Older(steps=3)), {"a": "1"}, 1),
        (Settings.of(Newer()), {"a": "1"}, 1),
        (Settings.of(Newer(momentum=0.5)), {"a": "1"}, 2),
        (Settings.of(Older(steps=4)), {"a": "1"}, 2),
        (Settings.of(ChangedDefault()), {"a": "1"}, 2),
        (Settings.of(Older()), {"a": "2"}, 2),
        (Settings.of(Older()), {"a": "1", "b": "1"}, 2),
    ],
    ids=[
        "the same",
        "a new field with its default",
        "a new field with another value",
        "another value",
        "a default that has changed",
        "another input",
        "one more input",
    ],
)
def test_a_step_is_taken_up_where_settings_and_inputs_are_the_same(tmp_path, small_facts, settings, inputs, made):
    make = Maker()
    with opened(tmp_path / "run", small_facts) as run:
        run.step("changes/one", Settings.of(Older()), {"a": "1"}, make)
        run.step("changes/one", settings, inputs, make)
    assert make.n == made


def test_a_step_of_other_settings_comes_back_when_it_is_asked_for_again(tmp_path, small_facts):
    first, second = Maker("first"), Maker("second")
    with opened(tmp_path / "run", small_facts) as run:
        for _ in range(2):
            one = run.step("changes/one", Settings.of(Older()), {}, first)
            assert (one.directory / "deep" / "made.txt").read_text() == "first"
            two = run.step("changes/one", Settings.of(Older(lr=1.0)), {}, second)
            assert (two.directory / "deep" / "made.txt").read_text() == "second"
            assert one.digest != two.digest
    assert (first.n, second.n) == (1, 1)


def test_options_of_a_call_with_their_defaults_are_as_good_as_none():
    def reading(model, facts, score="sequence", *, phrasings="prompt", batch_size=32): ...

    settings = Settings.of_call(reading, {"score": "sequence", "batch_size": 8}, leave_out=frozenset({"batch_size"}))
    assert settings.chosen == {}
    assert settings.whole == {"score": "sequence", "phrasings": "prompt"}
    assert Settings.of_call(reading, {"phrasings": "all"}).chosen == {"phrasings": "all"}


def _damaged(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "removed":
        path.unlink()
    elif how == "emptied":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2])
    else:
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])


@pytest.mark.parametrize("name", ["deep/made.txt", MANIFEST])
@pytest.mark.parametrize("how", ["removed", "emptied", "cut", "flipped"])
def test_a_damaged_step_is_made_again(tmp_path, small_facts, name, how):
    make = Maker("some text")
    with opened(tmp_path / "run", small_facts) as run:
        step = run.step("changes/one", NO_SETTINGS, {}, make)
        _damaged(step.directory / name, how)
        again = run.step("changes/one", NO_SETTINGS, {}, make)
        assert (again.directory / "deep" / "made.txt").read_text() == "some text"
        assert again.digest == step.digest
    assert make.n == 2


def test_a_step_that_fails_leaves_nothing(tmp_path, small_facts):
    def fail(directory):
        (directory / "half.txt").write_text("half")
        raise RuntimeError("no")

    make = Maker()
    with opened(tmp_path / "run", small_facts) as run:
        kept = run.step("changes/one", Settings.of(Older()), {}, make)
        with pytest.raises(RuntimeError):
            run.step("changes/one", Settings.of(Older(lr=1.0)), {}, fail)
        assert run.step("changes/one", Settings.of(Older()), {}, make).digest == kept.digest
    assert make.n == 1
    assert not list(tmp_path.rglob("half.txt")) and not list(tmp_path.rglob("*unfinished*"))


def test_what_a_killed_process_left_is_swept_away(tmp_path, small_facts):
    with opened(tmp_path / "run", small_facts):
        pass
    (tmp_path / "run" / "changes" / ".unfinished-123").mkdir(parents=True)
    with opened(tmp_path / "run", small_facts):
        assert not list(tmp_path.rglob("*unfinished*"))


def test_what_other_programs_and_the_holder_of_the_lock_write_stays(tmp_path, small_facts):
    leftovers = [".run.json.ab12cd_9.json", "figures/.depth.pdf.k1ll3d00.pdf", "changes/..unfinished-12.ab/x.txt"]
    strangers = [
        ".DS_Store",
        ".notes.settings",
        ".summary.csv.swp",
        ".ipynb_checkpoints/run-checkpoint.json",
        "a.b.csv",
    ]
    root = tmp_path / "run"
    with opened(root, small_facts):
        for name in [*leftovers, *strangers]:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
        with pytest.raises(StudyError, match="Another process"):
            opened(root, small_facts).__enter__()
        assert all((root / name).exists() for name in [*leftovers, *strangers])
    with opened(root, small_facts):
        assert [name for name in [*leftovers, *strangers] if (root / name).exists()] == strangers


BAD_NAMES = ["../out", "/tmp/out", "changes/../../out", "", "changes/", ".lock", "a/.b", "superseded/a", "run.json"]
BAD_NAMES += ["facts.jsonl", "a\\b", "a\0b", "a\nb", "a\ud800", "a/" + "b" * 201]


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_names_that_lead_elsewhere_are_refused(tmp_path, small_facts, name):
    make = Maker()
    with opened(tmp_path / "run", small_facts) as run, pytest.raises(StudyError, match="cannot be the name of a step"):
        run.step(name, NO_SETTINGS, {}, make)
    assert make.n == 0 and [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize("names", [("changes/ft_l", "changes/ft_l/0000"), ("changes/ft_l/0000", "changes/ft_l")])
def test_no_step_lies_within_another(tmp_path, small_facts, names):
    make = Maker()
    with opened(tmp_path / "run", small_facts) as run:
        first = run.step(names[0], NO_SETTINGS, {}, make)
        with pytest.raises(StudyError, match="in one directory with"):
            run.step(names[1], NO_SETTINGS, {}, make)
        assert run.step(names[0], NO_SETTINGS, {}, make).digest == first.digest
    assert make.n == 1


def test_a_step_is_not_made_from_one_that_was_replaced(tmp_path, small_facts):
    with opened(tmp_path / "run", small_facts) as run:
        first = run.step("changes/one", Settings.of(Older()), {}, Maker("first"))
        second = run.step("changes/one", Settings.of(Older(lr=1.0)), {}, Maker("second"))
        with pytest.raises(StudyError, match="taken its place"):
            run.step("readings/one", NO_SETTINGS, {"changes/one": first.digest}, Maker())
        run.step("readings/one", NO_SETTINGS, {"changes/one": second.digest}, Maker())


def test_settings_that_lead_to_the_same_files_do_not_take_each_other_s_place(tmp_path, small_facts):
    make = Maker("alike")
    first, second = Settings.of(Older()), Settings.of(Older(lr=1.0))
    for settings in (first, second, first, second, first):
        with opened(tmp_path / "run", small_facts) as run:
            run.step("changes/one", settings, {}, make)
    assert make.n == 2


@pytest.mark.parametrize("room", ROOMS)
def test_a_run_whose_card_was_lost_is_no_stranger(tmp_path, small_facts, room):
    make = Maker()
    name = "before/one" if room == "superseded" else f"{room}/one"
    for settings in (Older(), Older(lr=1.0)):
        with opened(tmp_path / "run", small_facts) as run:
            run.step(name, Settings.of(settings), {}, make)
        (tmp_path / "run" / CARD).unlink()
    assert make.n == 2


def test_the_tree_leaves_out_what_has_gone_out_of_date(tmp_path, small_facts):
    def reading(directory):
        save_reading(xr.Dataset({"n": 1}), directory / "reading.nc")

    root = tmp_path / "run"
    with opened(root, small_facts) as run:
        first = run.step("changes/one", Settings.of(Older()), {}, Maker("first"))
        run.step("results/early", NO_SETTINGS, {"changes/one": first.digest}, reading)
    assert list(StudyResults(root).tree["results"]) == ["early"]
    with opened(root, small_facts) as run:
        second = run.step("changes/one", Settings.of(Older(lr=1.0)), {}, Maker("second"))
        run.step("results/late", NO_SETTINGS, {"changes/one": second.digest}, reading)
    assert list(StudyResults(root).tree["results"]) == ["late"]


def test_options_are_compared_as_they_are_written(tmp_path):
    def reading(model, layers=(1, 2), weights=None): ...

    assert Settings.of_call(reading, {"layers": [1, 2]}).chosen == {}
    assert Settings.of_call(reading, {"layers": (1, 3)}).chosen == {"layers": [1, 3]}
    with pytest.raises(StudyError, match="The option weights is of the type object"):
        Settings.of_call(reading, {"weights": object()})


def test_an_export_is_written_anew_where_it_or_its_source_changed(tmp_path, small_facts):
    written = []

    def make(path):
        written.append(path)
        path.write_text("table")

    with opened(tmp_path / "run", small_facts) as run:
        for source in ("1", "1", "2"):
            assert run.export("summary.csv", {"results/erase": source}, make).read_text() == "table"
        assert len(written) == 2
        (tmp_path / "run" / "summary.csv").write_text("tampered")
        assert run.export("summary.csv", {"results/erase": "2"}, make).read_text() == "table"


@pytest.mark.parametrize("what", ["model", "facts"])
def test_a_study_of_another_model_or_of_other_facts_is_refused(tmp_path, small_facts, contents, what):
    from mechmask import synthetic_facts

    with opened(tmp_path / "run", small_facts):
        pass
    before = contents(tmp_path / "run")
    model = Model()
    model.fingerprint = "xyz" if what == "model" else "abc"
    facts = synthetic_facts(4, n_never=8, distractors=3, seed=6) if what == "facts" else small_facts
    with pytest.raises(StudyError, match=f"holds a study of .*{what}"):
        opened(tmp_path / "run", facts, model).__enter__()
    assert contents(tmp_path / "run") == before


@pytest.mark.parametrize("name", ["notes.txt", "facts.jsonl", "results", ".hidden", "run.json.bak"])
def test_a_directory_of_something_else_is_refused_and_left_untouched(tmp_path, small_facts, name):
    """A file of facts too: it may be the user's only copy of the ones that the study was started with."""
    root = tmp_path / "mine"
    root.mkdir()
    (root / name).mkdir() if name == "results" else (root / name).write_text("mine\n")
    with pytest.raises(StudyError, match="holds no study"):
        opened(root, small_facts).__enter__()
    assert [path.name for path in root.iterdir()] == [name]
    assert name == "results" or (root / name).read_text() == "mine\n"


def test_a_directory_of_mechmask_0_1_is_refused_in_one_sentence(tmp_path, small_facts):
    (tmp_path / "study.json").write_text('{"schema_version": 2}')
    with pytest.raises(StudyError, match=r"mechmask 0\.1\.0.*new directory"):
        opened(tmp_path, small_facts).__enter__()


@pytest.mark.parametrize("text", ["{", "", "[1]", '"text"', "\u0000", "{}", '{"schema_version": 99}', "[" * 9999])
def test_a_damaged_card_is_refused_by_name(tmp_path, small_facts, text):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(StudyError, match=r"run\.json"):
        opened(tmp_path, small_facts).__enter__()
    assert (tmp_path / "run.json").read_text() == text


def test_without_its_card_a_run_goes_on(tmp_path, small_facts):
    make = Maker()
    for _ in range(2):
        with opened(tmp_path / "run", small_facts) as run:
            run.step("changes/one", NO_SETTINGS, {}, make)
            run.export("table.csv", {"changes/one": "1"}, lambda path: path.write_text("table"))
        (tmp_path / "run" / "run.json").unlink()
    assert make.n == 1
    (tmp_path / "run" / "facts.jsonl").write_text("other facts, perhaps the only copy\n")
    with pytest.raises(StudyError, match=r"facts\.jsonl"):
        opened(tmp_path / "run", small_facts).__enter__()


@pytest.mark.parametrize("leftover", [".facts.jsonl.k1ll3d.jsonl", ".run.json.k1ll3d.json", "facts.jsonl"])
def test_a_run_killed_while_it_began_begins_again(tmp_path, small_facts, leftover):
    """Each of these is what a kill between two lines of the beginning leaves."""
    if leftover == "facts.jsonl":
        small_facts.to_jsonl(tmp_path / leftover)
    else:
        (tmp_path / leftover).write_text("")
    (tmp_path / ".lock").touch()
    with opened(tmp_path, small_facts):
        pass


def test_two_processes_do_not_work_in_one_directory(tmp_path, small_facts):
    script = """
import sys
from mechmask import load_facts
from mechmask.errors import StudyError
from mechmask.study.run import Run
class Model: fingerprint, name, family, dtype = "abc", "tiny", "llama", "float32"
try:
    with Run(sys.argv[1], Model(), load_facts(sys.argv[2])): print("held")
except StudyError as error:
    print(error)
"""
    small_facts.to_jsonl(tmp_path / "facts.jsonl")
    arguments = [sys.executable, "-c", script, str(tmp_path / "run"), str(tmp_path / "facts.jsonl")]
    with opened(tmp_path / "run", small_facts):
        done = subprocess.run(arguments, capture_output=True, text=True, check=True)
        assert "Another process is at work" in done.stdout
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout == "held\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_directory_that_may_only_be_read_takes_up_what_is_there(tmp_path, small_facts):
    make = Maker()
    with opened(tmp_path / "run", small_facts) as run:
        run.step("changes/one", NO_SETTINGS, {}, make)
    (tmp_path / "run" / ".lock").unlink(missing_ok=True)
    for path in [*(tmp_path / "run").rglob("*"), tmp_path / "run"]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    with opened(tmp_path / "run", small_facts) as run:
        run.step("changes/one", NO_SETTINGS, {}, make)
        with pytest.raises(StudyError, match="cannot be written"):
            run.step("changes/two", NO_SETTINGS, {}, make)
    assert make.n == 1


def test_run_and_results_need_no_torch(tmp_path, small_facts):
    script = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "peft", "transformer_lens", "nnsight", "tuned_lens"):
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
import mechmask.study.run, mechmask.study.results, mechmask.study.status, mechmask.study.tables, mechmask.draw
print("without torch")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "without torch\n", done.stderr


def test_a_drop_that_is_interrupted_leaves_nothing_behind(tmp_path, small_facts, monkeypatch):
    """One file is gone and the rest is there: not as a part of the step, and not after the run is opened again."""

    def half(directory, **_):
        next(Path(directory).rglob("made.txt")).unlink()
        raise KeyboardInterrupt

    with opened(tmp_path / "run", small_facts) as run:
        run.step("training/000001", NO_SETTINGS, {}, Maker())
        monkeypatch.setattr("mechmask.study.run.shutil.rmtree", half)
        with pytest.raises(KeyboardInterrupt):
            run.drop("training/000001")
        monkeypatch.undo()
        assert not (tmp_path / "run/training/000001").exists() and run.steps_below("training") == []
        run.drop("training/000001")  # and what is not there is none to drop
    with opened(tmp_path / "run", small_facts):
        assert [path.name for path in (tmp_path / "run/training").iterdir()] == []


def test_a_second_model_in_a_run_leaves_its_card_alone(tiny, facts, tmp_path):
    model, other = tiny("llama"), tiny("llama", seed=1)
    with Run(tmp_path / "run", model, facts) as run:
        beside = run.with_model(other)
        assert beside.inputs["model"] == other.fingerprint
        beside.plan({"anything": None})
    with Run(tmp_path / "run", model, facts):
        pass
