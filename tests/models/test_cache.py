"""Made once: by real processes that start together, and by one that dies."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from mechmask.models.cache import cache_root, made_once

MAKER = """
import sys, time
from mechmask.models.cache import cache_root, made_once
with made_once("thing") as directory:
    if directory is None:
        found = sorted(path.name for path in (cache_root() / "thing").iterdir())
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
    assert sorted(path.read_text() for path in (root / "thing").iterdir()) == list("01234")


def test_an_error_leaves_nothing_and_the_next_one_may_try(root):
    with pytest.raises(RuntimeError), made_once("thing") as directory:
        (directory / "half").write_text("half")
        raise RuntimeError
    assert directories(root) == []
    with made_once("thing") as directory:
        assert list(directory.iterdir()) == []
        (directory / "whole").write_text("whole")
    assert [path.name for path in (root / "thing").iterdir()] == ["whole"]


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
    assert len(list((root / "thing").iterdir())) == 5


def test_what_is_there_is_not_made_again(root):
    (root / "thing").mkdir(parents=True)
    with made_once("thing") as directory:
        assert directory is None
