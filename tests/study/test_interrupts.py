"""Ctrl-C at any moment of a study: the model is as it was, and the study goes on to the same bits.

In a process of its own, without the run-time check of shapes that the tests switch on: it wraps every function, those
that put an interrupt off included, and where an interrupt falls would be another question.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

SCRIPT = """
import json, os, random, signal, sys, threading, time
from pathlib import Path
import transformer_lens.model_bridge
import mechmask as mm

place, n_wanted = Path(sys.argv[1]), int(sys.argv[2])
signal.signal(signal.SIGINT, signal.default_int_handler)
facts = mm.load_facts(place / "facts.jsonl")
config = mm.FinetuneConfig(steps=2, lr=1e-2, rank=2)


def study(model, directory):
    with mm.Run(directory, model, facts) as run:
        watch = mm.Watch(lambda state: {"output": mm.read_logits(state, facts)}, every=1)
        install = mm.train(run, "install", facts.install_examples(), config, watch=watch)
        contradict = mm.train(run, "contradict", facts.contradiction_examples(), config, start=install)
        edited = mm.each_edit(
            run, install, facts.contradicted.ids, {"ft_l": mm.FTLConfig(layer=1, clamp=0.05, steps=2)}
        )
        mm.read_states(run, {"before": install, "finetune": contradict, **edited}, mm.read_depth)


def contents(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.name != ".lock"}


def looks(model):
    # what an adapter, an edit, a hook or a training that was left on would change
    children = list(model.module.named_modules())
    tree = [(name, type(child), child.training, sorted(vars(child))) for name, child in children]
    hooks = [len(child._forward_hooks) + len(child._forward_pre_hooks) for _, child in children]
    return model.fingerprint, tree, hooks, [(n, p.requires_grad, p.grad) for n, p in model.module.named_parameters()]


study(mm.load_model(place / "model"), place / "warm")  # imports and caches take the longest the first time
begun = time.monotonic()
study(mm.load_model(place / "model"), place / "whole")
seconds, wanted = time.monotonic() - begun, contents(place / "whole")

model, moments = mm.load_model(place / "model"), random.Random(5)
before, roots, n, changed = looks(model), [place / "0"], 0, []
while n < n_wanted:
    timer = threading.Timer(moments.uniform(0, seconds / 2), os.kill, (os.getpid(), signal.SIGINT))
    try:
        timer.start()
        study(model, roots[-1])
        timer.cancel()
        timer.join()
        roots.append(place / str(len(roots)))
    except KeyboardInterrupt:
        n += 1
    if looks(model) != before:
        changed.append(n)
different = []
for root in roots:
    study(model, root)
    different += [root.name] if contents(root) != wanted else []
print(json.dumps({"changed": changed, "different": different, "n": n, "n_studies": len(roots)}))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT to itself")
def test_thirty_interrupts_at_random_moments(tiny, tmp_path):
    import mechmask as mm

    model = tiny("llama")
    model.module.save_pretrained(tmp_path / "model")
    model.tokenizer.save_pretrained(tmp_path / "model")
    mm.synthetic_facts(2, n_never=3, distractors=2, seed=5).to_jsonl(tmp_path / "facts.jsonl")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path), "30"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert (outcome["n"], outcome["changed"], outcome["different"]) == (30, [], []), outcome
