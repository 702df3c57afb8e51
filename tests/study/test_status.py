"""The status of a study: what its directory says, without a model and without torch."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from mechmask.errors import StudyError
from mechmask.study.status import study_status


@pytest.fixture
def copied(done, tmp_path):
    """A copy of the finished study that may be changed."""
    shutil.copytree(done[1], tmp_path / "run")
    return tmp_path / "run"


def _by_name(directory):
    return {row.step: row for row in study_status(directory)}


def test_of_a_finished_study_every_step_is_done(done, small_facts):
    rows = _by_name(done[1])
    assert {row.state for row in rows.values()} == {"done"}
    edits = [f"ft_l/{n:04d}" for n in range(len(small_facts.contradicted))]
    for name in (
        *("changes/install", "changes/contradict"),
        *(f"changes/{edit}" for edit in edits),
        *(f"readings/{r}/{s}" for r in ("read_logits", "read_depth") for s in ("before", "finetune", *edits)),
        *("results/trajectory", "results/depth_trajectory", "results/depth", "results/erase"),
    ):
        assert name in rows
    assert rows["changes/contradict"].detail == "4 steps"


def test_what_was_not_made_is_missing_and_a_training_says_how_far_it_is(copied):
    shutil.rmtree(copied / "results" / "erase")
    shutil.rmtree(copied / "changes" / "contradict")
    shutil.rmtree(next((copied / "checkpoints" / "contradict").glob("*4")))
    rows = _by_name(copied)
    assert (rows["results/erase"].state, rows["results/erase"].detail) == ("missing", "")
    assert rows["changes/contradict"].state == "under way"
    assert rows["changes/contradict"].detail == "step 2 of at most 4 has been read"
    assert rows["changes/install"].state == "done"


@pytest.mark.parametrize("harm", ["cut", "emptied", "flipped", "removed"])
@pytest.mark.parametrize("name", ["reading.nc", "step.json"])
def test_what_was_altered_is_damaged_by_name(copied, harm, name):
    path = copied / "readings" / "read_logits" / "before" / name
    content = bytearray(path.read_bytes())
    if harm == "removed":
        path.unlink()
    else:
        middle = len(content) // 2
        content[middle] ^= 1
        path.write_bytes({"cut": content[:middle], "emptied": b"", "flipped": content}[harm])
    row = _by_name(copied)["readings/read_logits/before"]
    assert row.state == "damaged"
    assert str(path) in row.detail
    assert "run the study again" in row.detail


def test_what_was_made_from_another_step_is_out_of_date(copied):
    """The reading before is swapped for that of another state, whole in itself."""
    before = copied / "readings" / "read_logits" / "before"
    shutil.rmtree(before)
    shutil.copytree(copied / "readings" / "read_logits" / "finetune", before)
    row = _by_name(copied)["results/erase"]
    assert (row.state, row.detail) == ("out of date", "readings/read_logits/before has since been made again")


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"schema_version": 3}', "[" * 100_000])
def test_what_holds_no_study_is_refused_in_one_sentence(tmp_path, content):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(StudyError) as caught:
        study_status(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_prints_a_line_a_step_or_json_and_needs_no_torch(done):
    code = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "peft"):
            raise ImportError(f"{name} is refused")
sys.meta_path.insert(0, Refuse())
from mechmask.cli import main
main()
"""
    shown, as_json = (
        subprocess.run(
            [sys.executable, "-c", code, "status", str(done[1]), *option], capture_output=True, text=True, check=False
        )
        for option in ([], ["--json"])
    )
    assert (shown.returncode, shown.stderr) == (as_json.returncode, as_json.stderr) == (0, "")
    rows = json.loads(as_json.stdout)
    assert rows == [row._asdict() for row in study_status(done[1])]
    lines = shown.stdout.splitlines()
    assert len(lines) == len(rows) + 1
    assert lines[-1] == f"{len(rows)} of {len(rows)} steps are done."
