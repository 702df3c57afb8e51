"""Made once: by real processes that start together, and by one that dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from mechmask.errors import FileError
from mechmask.models.cache import cache_root, made_once

MAKER = """
import sys, time
from mechmask.errors import FileError
from mechmask.models.cache import cache_root, made_once
with made_once("thing") as directory:
    if directory is None:
        found = sorted(path.name for path in (cache_root() / "thing").glob("part*"))
        print("found", len(found))
    else:
        for i in range(5):
            (directory / f"part{i}").write_text(str(i))
            print("writing", flush=True)
            time.sleep(float(sys.argv[1]))
        print("made")
"""


@pytest.fixture(autouse=True)
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("MECHMASK_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def start(seconds):
    return subprocess.Popen(
        [sys.executable, "-c", MAKER, str(seconds)], stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    )


def directories(root):
    return sorted(path.name for path in root.iterdir() if path.is_dir())


def test_the_root_is_the_variable_or_the_users_cache(root, monkeypatch):
    assert cache_root() == root
    monkeypatch.delenv("MECHMASK_CACHE")
    assert "mechmask" in str(cache_root())
    monkeypatch.setenv("MECHMASK_CACHE", "")
    assert "mechmask" in str(cache_root())


def test_processes_that_start_together_make_it_once_and_all_find_it_whole(root):
    workers = [start(0.2) for _ in range(3)]
    said = [worker.communicate(timeout=60)[0].splitlines()[-1] for worker in workers]
    assert sorted(said) == ["found 5", "found 5", "made"]
    assert directories(root) == ["thing"]
    assert sorted(path.read_text() for path in (root / "thing").glob("part*")) == list("01234")


def test_an_error_leaves_nothing_and_the_next_one_may_try(root):
    with pytest.raises(RuntimeError), made_once("thing") as directory:
        (directory / "half").write_text("half")
        raise RuntimeError
    assert directories(root) == []
    with made_once("thing") as directory:
        assert list(directory.iterdir()) == []
        (directory / "whole").write_text("whole")
    assert sorted(path.name for path in (root / "thing").iterdir()) == ["digests.json", "whole"]


def test_a_process_that_is_killed_leaves_nothing_under_the_name(root):
    worker = start(5)
    assert worker.stdout.readline() == "writing\n"
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    worker.stdout.close()
    assert not (root / "thing").exists()
    begun = time.monotonic()
    said = start(0).communicate(timeout=60)[0]
    assert said.endswith("made\n") and time.monotonic() - begun < 30  # its lock died with it
    assert (root / "thing").is_dir()
    assert len(list((root / "thing").glob("part*"))) == 5


def make(name="thing"):
    """Whether it had to be made."""
    with made_once(name) as directory:
        if directory is not None:
            (directory / "weights").write_bytes(bytes(range(256)) * 64)
            (directory / "config").write_text("{}")
    return directory is not None


def test_what_is_there_is_not_made_again(root):
    assert [make() for _ in range(3)] == [True, False, False]


def flipped(directory):
    path = directory / "weights"
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "one flipped bit": flipped,
    "cut": lambda directory: (directory / "weights").write_bytes(b"half"),
    "emptied": lambda directory: (directory / "config").write_bytes(b""),
    "a file is gone": lambda directory: (directory / "config").unlink(),
    "a file too many": lambda directory: (directory / "more").write_text("more"),
    "no digests": lambda directory: (directory / "digests.json").unlink(),
    "other digests": lambda directory: (directory / "digests.json").write_text("{}"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_is_made_again(root, damage):
    make()
    DAMAGE[damage](root / "thing")
    assert make()
    assert (root / "thing" / "weights").read_bytes() == bytes(range(256)) * 64
    assert sorted(path.name for path in (root / "thing").iterdir()) == ["config", "digests.json", "weights"]
    assert not make()


def test_a_cache_that_is_a_file(root):
    root.write_text("a file")
    with pytest.raises(FileError, match=r"Cannot write .*Choose a path of which every parent is a directory"):
        make()
    root.unlink()
    root.mkdir()
    (root / "lenses").write_text("a file")
    with pytest.raises(FileError, match="Cannot write"):
        make("lenses/one")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_that_may_not_be_written(root):
    root.mkdir(mode=0o500)
    with pytest.raises(FileError, match="Choose a place that you may write to"):
        make()


def test_a_name_that_is_too_long(root):
    with pytest.raises(FileError, match="Choose a shorter name"):
        make("x" * 260)
