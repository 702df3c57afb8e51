"""A study that is killed at any moment ends with the same bytes as one that nobody disturbed.

Every kill is a SIGKILL of a process of its own. The killed ones are forks of one process that has done the imports, so
that forty of them take seconds; each such process has another hash seed, as restarts of a user's have.
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
import json, os, random, re, signal, sys, time
from pathlib import Path
import transformer_lens.model_bridge
import mechmask as mm
from mechmask.errors import MechmaskError

mode, place, out, amount = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), float(sys.argv[4])
model, facts = mm.load_model(place / "model"), mm.load_facts(place / "facts.jsonl")
config = mm.StudyConfig.model_validate_json((place / "config.json").read_text())
died_at = out.with_name(out.name + "-died-at.txt")
died_at.touch()


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


def die_at_a_new_kind_of_rename():
    # os.replace and os.rename both raise this event before they do it. A kind: in which room of the study, onto what
    def hook(event, arguments):
        if event != "os.rename" or not Path(arguments[1]).is_relative_to(out):
            return
        path = Path(arguments[1]).relative_to(out)
        name = path.suffix if path.name.startswith(".") or path.parts[0] == "figures" else path.name
        kind = f"{path.parent.parts[0] if path.parent.parts else 'top'} {re.sub('[0-9]+', '#', name)}"
        if kind not in died_at.read_text().splitlines():
            with died_at.open("a") as file:
                file.write(kind + "\\n")
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


ends, whole = [], 0
if mode == "whole":
    run()
elif mode == "moments":  # forty kills, each at most `amount` seconds after the start; then one that nobody disturbs
    moments = random.Random(7)
    while ends.count("killed") < 40 and "failed" not in ends:
        pid = forked()
        time.sleep(moments.uniform(0.02, amount))
        os.kill(pid, signal.SIGKILL)
        ends.append(ended(pid))
        if ends[-1] == "whole":  # take the next kills from the beginning
            out.rename(out.with_name(f"{out.name}-{whole}"))
            whole += 1
    ends.append(ended(forked()))
elif mode == "renames":  # die with each kind of file written but not in its place yet
    while "whole" not in ends and "failed" not in ends and len(ends) < 90:
        ends.append(ended(forked(die_at_a_new_kind_of_rename)))
print(json.dumps(ends))
"""


@pytest.fixture(scope="module")
def place(tiny, tmp_path_factory) -> Path:
    """Model, facts and configuration of a small study as files."""
    import mechmask as mm

    taught = mm.FinetuneConfig(steps=2, lr=1e-2, rank=2)
    edits = (mm.FTLConfig(layer=1, clamp=0.05, steps=2),)
    config = mm.StudyConfig(install=taught, contradict=taught, checkpoint_every=1, edits=edits)
    place = tmp_path_factory.mktemp("place")
    model = tiny("llama")
    model.module.save_pretrained(place / "model")
    model.tokenizer.save_pretrained(place / "model")
    mm.synthetic_facts(2, n_never=3, distractors=2, seed=5).to_jsonl(place / "facts.jsonl")
    (place / "config.json").write_text(config.model_dump_json())
    (place / "script.py").write_text(SCRIPT)
    return place


def _run(place, mode, out, amount=0.0, hash_seed=0):
    command = [sys.executable, str(place / "script.py"), mode, str(place), str(out), str(amount)]
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    ends = json.loads(done.stdout.splitlines()[-1])
    assert "failed" not in ends, done.stderr[-3000:]
    return ends


def _finished(root):
    """Bytes of every file but the lock: what killed processes left has to be swept."""
    return {
        str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file() and p.name != ".lock"
    }


def _different(root, wanted):
    there = _finished(root)
    return sorted(name for name in there.keys() | wanted.keys() if there.get(name) != wanted.get(name))


@pytest.fixture(scope="module")
def undisturbed(place, tmp_path_factory):
    """The bytes of a study that nobody killed, and about how long it takes."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    start = time.monotonic()
    _run(place, "whole", out, hash_seed=1)
    return _finished(out), time.monotonic() - start


def test_forty_kills_at_random_moments(place, undisturbed, tmp_path):
    wanted, seconds = undisturbed
    ends = _run(place, "moments", tmp_path / "run", max(0.5, seconds / 10), hash_seed=3)
    assert (ends.count("killed"), ends[-1]) == (40, "whole")
    for root in (path for path in tmp_path.iterdir() if path.is_dir()):
        assert _different(root, wanted) == [], root.name


def test_a_kill_before_every_kind_of_file_takes_its_place(place, undisturbed, tmp_path):
    """Each process goes on to the first kind of file that none died at yet, and dies with it written beside its place.

    Both directories above have other hash seeds than the undisturbed one: that the bytes are the same proves that too.
    """
    ends = _run(place, "renames", tmp_path / "run", hash_seed=5)
    assert ends[-1] == "whole"
    kinds = (tmp_path / "run-died-at.txt").read_text().split("\n")
    rooms = {kind.split(" ")[0] for kind in kinds if kind}
    assert rooms >= {"top", "changes", "checkpoints", "training", "readings", "results", "figures"}
    assert ends.count("killed") == len(kinds) - 1 > 25
    assert _different(tmp_path / "run", undisturbed[0]) == []
