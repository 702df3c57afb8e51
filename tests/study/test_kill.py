"""A study that is killed at any moment ends with the same bytes as one that nobody disturbed.

Every kill is a SIGKILL of a process of its own. The killed ones are forks of one process that has done the imports, so
that twenty of them take seconds; the undisturbed study and the one that goes on to the end are new processes, each with
another hash seed, as restarts of a user's have.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forks")]

SCRIPT = """
import json, os, random, signal, sys, time
from pathlib import Path
import transformer_lens.model_bridge
import mechmask as mm
from mechmask.errors import MechmaskError

mode, place, out, amount = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
model, facts = mm.load_model(place / "model"), mm.load_facts(place / "facts.jsonl")
config = mm.StudyConfig.model_validate_json((place / "config.json").read_text())


def run():
    mm.MaskStudy(model, facts, config).run(out)


def forked(before=lambda: None):
    pid = os.fork()
    if not pid:
        try:
            before()
            run()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(3)
        os._exit(0)
    return pid


def ended(pid):
    status = os.waitpid(pid, 0)[1]
    if os.WIFSIGNALED(status):
        return "killed"
    return {0: "whole"}.get(os.WEXITSTATUS(status), "failed")


def die_at_rename(number):
    # os.replace and os.rename both raise this event before they do it; tables and figures are made anew in every run
    def hook(event, arguments):
        nonlocal number
        if event == "os.rename" and not str(arguments[1]).endswith((".pdf", ".png", ".csv", "provenance.json")):
            number -= 1
            if not number:
                os.kill(os.getpid(), signal.SIGKILL)

    return lambda: sys.addaudithook(hook)


ends, whole = [], 0
if mode == "whole":
    run()
elif mode == "moments":  # twenty kills, each at most `amount` seconds after the start
    moments = random.Random(7)
    while ends.count("killed") < 20 and "failed" not in ends:
        pid = forked()
        time.sleep(moments.uniform(0.02, amount))
        os.kill(pid, signal.SIGKILL)
        ends.append(ended(pid))
        if ends[-1] == "whole":  # take the next kills from the beginning
            out.rename(out.with_name(f"{out.name}-{whole}"))
            whole += 1
elif mode == "renames":  # die with each file written but not in its place yet
    while "whole" not in ends and "failed" not in ends and len(ends) < 60:
        ends.append(ended(forked(die_at_rename(int(amount)))))
print(json.dumps(ends))
"""


@pytest.fixture(scope="module")
def place(tiny, small_facts, small_config, tmp_path_factory) -> Path:
    """Model, facts and configuration as files."""
    place = tmp_path_factory.mktemp("place")
    model = tiny("llama")
    model.module.save_pretrained(place / "model")
    model.tokenizer.save_pretrained(place / "model")
    small_facts.to_jsonl(place / "facts.jsonl")
    (place / "config.json").write_text(small_config.model_dump_json())
    (place / "script.py").write_text(SCRIPT)
    return place


def _run(place, mode, out, amount=0.0, hash_seed=0):
    command = [sys.executable, str(place / "script.py"), mode, str(place), str(out), str(amount)]
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    ends = json.loads(done.stdout.splitlines()[-1])
    assert "failed" not in ends, done.stderr[-3000:]
    return ends


def _finished(root):
    """Bytes of every file in its place."""
    files = [p for p in sorted(root.rglob("*")) if p.is_file()]
    return {
        str(p.relative_to(root)): p.read_bytes()
        for p in files
        if not any(part.startswith(".") for part in p.relative_to(root).parts)
    }


def _different(root, wanted):
    found = _finished(root)
    return sorted(name for name in found.keys() | wanted.keys() if found.get(name) != wanted.get(name))


@pytest.fixture(scope="module")
def undisturbed(place, tmp_path_factory):
    """The bytes of a study that nobody killed, and about how long it takes."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    start = time.monotonic()
    _run(place, "whole", out, hash_seed=1)
    return _finished(out), time.monotonic() - start


def test_another_process_writes_the_same_bytes(place, undisturbed):
    _run(place, "whole", place / "again", hash_seed=2)
    assert _different(place / "again", undisturbed[0]) == []


def test_twenty_kills_at_random_moments(place, undisturbed, tmp_path):
    wanted, seconds = undisturbed
    ends = _run(place, "moments", tmp_path / "run", max(0.5, seconds / 5), hash_seed=3)
    assert ends.count("killed") == 20
    _run(place, "whole", tmp_path / "run", hash_seed=4)
    for root in tmp_path.iterdir():
        assert _different(root, wanted) == [], root.name


def test_a_kill_before_every_file_takes_its_place(place, undisturbed, tmp_path):
    """Each process puts two files in their places and dies with the third written beside its own."""
    ends = _run(place, "renames", tmp_path / "run", 3, hash_seed=5)
    assert ends[-1] == "whole"
    assert ends.count("killed") > 10
    assert _different(tmp_path / "run", undisturbed[0]) == []
