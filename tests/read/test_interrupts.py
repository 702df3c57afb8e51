"""Ctrl-C at any moment of a reading leaves the module as it was, and the next reading is right."""

from __future__ import annotations

import signal
import time
from contextlib import contextmanager

import numpy as np
import pytest
import xarray as xr

import mechmask as mm

ROUNDS = 50

pytestmark = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")


@pytest.fixture(scope="module")
def states(tiny, facts):
    """A model, and the states that two trainings made of it."""
    model = tiny("llama")
    config = mm.FinetuneConfig(steps=3, lr=2e-2, rank=2)
    old, new = facts[:4].install_examples(), facts[:4].contradiction_examples()
    return model, *(mm.finetune(model, examples, config).on(model) for examples in (old, new))


def what_is_on(model):
    module = model.module
    return {
        "modules": [(name, type(child), id(child)) for name, child in module.named_modules()],
        "tensors": [(name, id(tensor), tensor.requires_grad) for name, tensor in module.named_parameters()],
        "hooks": [
            (name, len(hooks))
            for name, child in module.named_modules()
            for kind, hooks in vars(child).items()
            if kind.endswith("_hooks") and isinstance(hooks, dict)
        ],
        "training": [child.training for child in module.modules()],
        "attributes": sorted(vars(module)),
        "fingerprint": model.fingerprint,
    }


class _CtrlC:
    """SIGINT that is raised only while a work runs: one that comes too late reaches nobody."""

    def __init__(self) -> None:
        self._armed = False

    def handle(self, *_: object) -> None:
        if self._armed:
            self._armed = False
            raise KeyboardInterrupt

    def cuts(self, seconds, work) -> bool:
        """Run ``work`` with Ctrl-C after a while; whether it was cut short."""
        try:
            self._armed = True
            signal.setitimer(signal.ITIMER_REAL, seconds)
            work()
            self._armed = False
        except KeyboardInterrupt:
            return True
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return False


@contextmanager
def ctrl_c():
    """Ctrl-C by a timer, with the handlers of before put back afterwards."""
    made = _CtrlC()
    before = signal.signal(signal.SIGINT, made.handle)
    alarm = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        yield made
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, alarm)
        signal.signal(signal.SIGINT, before)


def survives(model, work, check):
    before = what_is_on(model)
    work()
    start = time.perf_counter()
    work()
    whole = time.perf_counter() - start
    moments = np.random.default_rng(0).uniform(1e-5, whole, 10 * ROUNDS)
    n_cut = 0
    with ctrl_c() as interrupts:
        for number, moment in enumerate(moments):
            if number >= ROUNDS and n_cut > ROUNDS // 3:  # on a busy machine more of the timers come too late
                break
            n_cut += interrupts.cuts(moment, work)
            assert what_is_on(model) == before
    assert n_cut > ROUNDS // 3
    check()


def test_patching_between_two_states(states, awkward):
    model, old, new = states
    few = awkward[1:3]
    expected = mm.patch_residual(new, old, few, progress=False)

    def work():
        mm.patch_residual(new, old, few, progress=False)

    survives(model, work, lambda: xr.testing.assert_equal(mm.patch_residual(new, old, few, progress=False), expected))


@pytest.mark.parametrize("backend", ["transformer_lens", "nnsight"])
def test_depth_inside_a_state(states, awkward, backend):
    model, old, _ = states
    few = awkward[1:3]
    expected = mm.read_depth(old, few, backend=backend)

    def work():
        mm.read_depth(old, few, backend=backend)

    survives(model, work, lambda: xr.testing.assert_equal(mm.read_depth(old, few, backend=backend), expected))
