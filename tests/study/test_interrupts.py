"""Ctrl-C at any moment of a study: the model is as it was, and the study goes on to the same bits."""

from __future__ import annotations

import os
import random
import signal
import threading
import time

import pytest

import mechmask as mm

N_INTERRUPTS = 30


def small_study(model, facts, directory):
    config = mm.FinetuneConfig(steps=2, lr=1e-2, rank=2)
    with mm.Run(directory, model, facts) as run:
        watch = mm.Watch(lambda state: {"output": mm.read_logits(state, facts)}, every=1)
        install = mm.train(run, "install", facts.install_examples(), config, watch=watch)
        contradict = mm.train(run, "contradict", facts.contradiction_examples(), config, start=install)
        edits = {"ft_l": mm.FTLConfig(layer=1, clamp=0.05, steps=2)}
        edited = mm.each_edit(run, install, facts.contradicted.ids, edits)
        mm.read_states(run, {"before": install, "finetune": contradict, **edited}, mm.read_depth)


def looks(model):
    """What an adapter, an edit, a hook or a training that was left on would change."""
    module = model.module
    tree = [(name, type(child), child.training, sorted(vars(child))) for name, child in module.named_modules()]
    hooks = [len(child._forward_hooks) + len(child._forward_pre_hooks) for child in module.modules()]
    return model.fingerprint, tree, hooks, [(n, p.requires_grad, p.grad) for n, p in module.named_parameters()]


@pytest.fixture
def ctrl_c():
    """Python's handler of SIGINT, whatever stood there before."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends SIGINT to itself")
def test_interrupts_at_random_moments(tiny, small_facts, tmp_path, contents, ctrl_c):
    facts = small_facts
    small_study(tiny("llama"), facts, tmp_path / "warm")  # imports and caches, which take the longest the first time
    begun = time.monotonic()
    small_study(tiny("llama"), facts, tmp_path / "whole")
    seconds, wanted = time.monotonic() - begun, contents(tmp_path / "whole")
    model, moments = tiny("llama"), random.Random(5)
    before, roots, n = looks(model), [tmp_path / "0"], 0
    while n < N_INTERRUPTS:
        timer = threading.Timer(moments.uniform(0, seconds / 2), os.kill, (os.getpid(), signal.SIGINT))
        try:
            timer.start()
            small_study(model, facts, roots[-1])
            timer.cancel()
            timer.join()
            roots.append(tmp_path / str(len(roots)))
        except KeyboardInterrupt:
            n += 1
        assert looks(model) == before, n
    for root in roots:
        small_study(model, facts, root)
        assert contents(root) == wanted, root.name
