"""Every file of a finished study cut, emptied and flipped: the same bits again, or one sentence that names the file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import mechmask as mm
from mechmask.errors import MechmaskError, StudyError
from mechmask.study.run import Run
from mechmask.study.step import MANIFEST, require_whole

DAMAGES = {
    "cut": lambda content: content[: len(content) // 2],
    "emptied": lambda _: b"",
    "flipped": lambda content: (
        content[: len(content) // 2] + bytes([content[len(content) // 2] ^ 1]) + content[len(content) // 2 + 1 :]
    ),
}
HOW = list(DAMAGES)


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    """A study as small as one can be that has every kind of file, and its directory."""
    taught = mm.FinetuneConfig(steps=1, lr=1e-2, rank=2)
    edits = (mm.FTLConfig(layer=1, clamp=0.05, steps=2),)
    config = mm.StudyConfig(install=None, contradict=taught, edits=edits)
    study = mm.MaskStudy(tiny("llama"), mm.synthetic_facts(2, n_never=3, distractors=2, seed=5), config)
    directory = tmp_path_factory.mktemp("finished") / "run"
    study.run(directory)
    return study, directory


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    return shutil.copytree(finished[1], tmp_path / "run")


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.write_bytes(DAMAGES[how](content))
    assert path.read_bytes() != content, path


def steps_in(root: Path) -> list[Path]:
    return sorted(path.parent for path in root.rglob(MANIFEST))


def files_of(step: Path) -> list[Path]:
    return sorted(path for path in step.rglob("*") if path.is_file())


def readable(root: Path) -> dict[str, object]:
    """What an opened study gives for each of its results: the dataset, or the sentence."""
    results, given = mm.open_study(root), {}
    for step in steps_in(root):
        name = step.relative_to(root).as_posix()
        if name.startswith(("results", "readings")):
            try:
                given[name] = results.reading(name)
            except MechmaskError as error:
                given[name] = str(error)
    return given


def test_a_damaged_file_of_a_step_is_never_taken_for_whole(finished):
    """Each alone, in every way; the sentence names the file and what may be deleted."""
    for step in steps_in(finished[1]):
        for path in files_of(step):
            content = path.read_bytes()
            for how in HOW:
                damage(path, how)
                try:
                    with pytest.raises(StudyError) as caught:
                        require_whole(step)
                finally:
                    path.write_bytes(content)
                assert str(path) in str(caught.value), how
                assert f"Delete {step} and run the study again" in str(caught.value), how


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(len(HOW)))
def test_damaged_steps_are_made_again_with_the_same_bits(finished, copied, contents, turn):
    """One file of every step at a time, and in three turns each file in every way."""
    study, directory = finished
    wanted, whole = contents(directory), readable(directory)
    longest = max(len(files_of(step)) for step in steps_in(directory))
    for number in range(longest):
        damaged = [files_of(step)[number] for step in steps_in(copied) if number < len(files_of(step))]
        for i, path in enumerate(damaged):
            damage(path, HOW[(i + turn) % len(HOW)])
        names = [str(path) for path in damaged]
        for name, given in readable(copied).items():
            if isinstance(given, str):
                assert any(path in given for path in names), given
            else:
                assert given.identical(whole[name]), name
        study.run(copied)
        states = [path for path in damaged if path.is_relative_to(copied / "training")]
        for path in states:  # looked at when a longer training asks for it, which test_training tries
            if path.read_bytes() != wanted[str(path.relative_to(copied))]:
                with pytest.raises(StudyError, match="Delete"):
                    require_whole(path.parent)
                path.write_bytes(wanted[str(path.relative_to(copied))])
        assert contents(copied) == wanted, number


@pytest.mark.parametrize("how", HOW)
def test_a_damaged_card_is_named_and_written_anew_once_it_is_deleted(finished, copied, contents, how):
    study, directory = finished
    damage(copied / "run.json", how)
    for use in (study.run, mm.open_study):
        with pytest.raises(StudyError, match=r"run\.json"):
            use(copied)
    (copied / "run.json").unlink()
    study.run(copied)
    assert contents(copied) == contents(directory)


def test_no_flipped_bit_of_the_card_passes(finished, copied):
    """A model's name or a setting with one letter changed is JSON still."""
    content = (copied / "run.json").read_bytes()
    for place in range(0, len(content), 37):
        (copied / "run.json").write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(StudyError, match=r"run\.json"):
            mm.open_study(copied)


@pytest.mark.parametrize("how", HOW)
def test_damaged_facts_are_named_and_written_anew(finished, copied, contents, how):
    study, directory = finished
    damage(copied / "facts.jsonl", how)
    with pytest.raises(StudyError, match=r"facts\.jsonl is damaged"):
        _ = mm.open_study(copied).facts
    study.run(copied)
    assert contents(copied) == contents(directory)


@pytest.mark.slow
def test_damaged_figures_and_tables_are_written_anew(finished, copied, contents):
    """Each in another way; every way of every one by the same method in the next test, whose file is drawn quickly."""
    study, directory = finished
    for i, path in enumerate([*sorted((copied / "figures").iterdir()), *sorted(copied.glob("*.csv"))]):
        damage(path, HOW[i % len(HOW)])
    damage(copied / "provenance.json", "flipped")
    study.run(copied)
    assert contents(copied) == contents(directory)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", ["figures/one.pdf", "exports.json"])
def test_a_damaged_export_or_list_of_exports(finished, tmp_path, contents, how, name):
    study, _ = finished

    def export():
        with Run(tmp_path / "run", study.model, study.facts) as run:
            for file in ("figures/one.pdf", "table.csv"):
                run.export(file, {"results/erase": "1"}, lambda path: path.write_text("drawn"))

    export()
    wanted = contents(tmp_path / "run")
    damage(tmp_path / "run" / name, how)
    export()
    assert contents(tmp_path / "run") == wanted


def test_a_lock_with_something_in_it_is_a_lock(finished, copied, contents):
    study, directory = finished
    (copied / ".lock").write_bytes(b"\x00junk")
    study.run(copied)
    assert contents(copied) == contents(directory)


def test_a_finished_study_that_may_only_be_read_is_given_as_it_is(finished, copied, contents, monkeypatch):
    """The superuser may write anywhere, so that the refusal of the lock is made by hand."""
    from filelock import FileLock

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    study, directory = finished
    monkeypatch.setattr(FileLock, "acquire", refuse)
    for path in [*copied.rglob("*"), copied]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert study.run(copied).erase.identical(mm.open_study(directory).erase)
    assert contents(copied) == contents(directory)
    path = copied / "readings" / "read_logits" / "before" / "reading.nc"
    path.chmod(0o644)
    damage(path, "flipped")
    with pytest.raises(StudyError, match="is damaged"):
        study.run(copied)
    assert path.is_file()
