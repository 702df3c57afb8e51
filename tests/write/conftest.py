"""What a change has to leave as it was: every bit, class, attribute, gradient and mode of a module."""

from __future__ import annotations

import contextlib
import random
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.amp import autocast_mode
from torch.autograd import grad_mode

import mechmask
from mechmask.errors import ChangeError

if TYPE_CHECKING:
    from mechmask.models.model import Model
    from mechmask.write.weights import WeightChange

_ROOT = Path(mechmask.__file__).parent
# where something is put on or taken off; what only looks (fingerprints, say) has many lines and nothing to leave behind
WATCHED = (
    *(str(_ROOT / name) for name in ("write", "interrupts.py")),
    *(str(_ROOT / f"models/{name}.py") for name in ("gradients", "lock", "model", "paths", "prepack", "states")),
    contextlib.__file__,
    autocast_mode.__file__,
    grad_mode.__file__,
)


def bits(tensor: Tensor) -> bytes:
    """Bytes, so that NaN equals itself and -0.0 does not equal 0.0."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def trace(module: nn.Module) -> dict[str, Any]:
    """Everything of a module that a change could leave behind."""
    children = dict(module.named_modules())
    return {
        "bits": {name: bits(tensor) for name, tensor in module.state_dict().items()},
        "classes": {name: type(child) for name, child in children.items()},
        "attributes": {name: sorted(vars(child)) for name, child in children.items()},
        "hooks": {
            name: [len(v) for k, v in sorted(vars(child).items()) if k.endswith("_hooks")]
            for name, child in children.items()
        },
        "training": {name: child.training for name, child in children.items()},
        "asked": {name: p.requires_grad for name, p in module.named_parameters()},
        "grads": {name: None if p.grad is None else bits(p.grad) for name, p in module.named_parameters()},
        "places": {name: p.data_ptr() for name, p in module.named_parameters()},
        "config": module.config.to_dict(),
        "configs": {name: id(child.config) for name, child in children.items() if hasattr(child, "config")},
    }


def rng_states() -> tuple[object, ...]:
    """The states of the generators that belong to the caller."""
    return bits(torch.get_rng_state()), str(np.random.get_state()), random.getstate()


@pytest.fixture(scope="session")
def traced() -> Callable[[nn.Module], dict[str, Any]]:
    return trace


@pytest.fixture(scope="session")
def bits_of() -> Callable[[Tensor], bytes]:
    return bits


@pytest.fixture(scope="session")
def rngs() -> Callable[[], tuple[object, ...]]:
    return rng_states


@pytest.fixture(scope="session")
def logits_of() -> Callable[..., Tensor]:
    """Logits of the plain module on one fixed row of tokens."""

    def logits(model: Model | nn.Module) -> Tensor:
        module = model if isinstance(model, nn.Module) else model.module
        with torch.no_grad():
            return module(input_ids=torch.arange(5, 29)[None], use_cache=False).logits

    return logits


@pytest.fixture(scope="session")
def reweighted() -> Callable[..., WeightChange]:
    """``reweighted(model, {name: tensor})``: a change to new values that the test chose, made on the model as it is."""
    from mechmask.models.fingerprint import canonical_name
    from mechmask.write.weights import WeightChange, tensor_digest

    def make(model: Model, after: Mapping[str, Tensor], details: Mapping[str, Any] | None = None) -> WeightChange:
        there = {canonical_name(name): parameter for name, parameter in model.module.named_parameters()}
        before = {name: tensor_digest(there[name]) for name in after}
        return WeightChange(after, before, model.fingerprint, "by hand", details or {})

    return make


@pytest.fixture
def refused() -> Callable[..., Any]:
    """``with refused(pattern)``: a ``ChangeError`` of one sentence that says what to do."""
    return lambda pattern: pytest.raises(ChangeError, match=pattern)


class _Interrupts:
    """SIGINT that is raised only while a work runs, and counted."""

    def __init__(self) -> None:
        self.armed = False
        self.raised = 0

    def handle(self, *_: object) -> None:
        if self.armed:
            self.armed = False
            self.raised += 1
            raise KeyboardInterrupt

    def run(self, work: Callable[[], object]) -> bool:
        """Whether the work was interrupted."""
        try:
            self.armed = True
            work()
            self.armed = False
        except KeyboardInterrupt:
            return True
        return False


@pytest.fixture
def interrupts() -> Iterator[_Interrupts]:
    made = _Interrupts()
    before = signal.signal(signal.SIGINT, made.handle)
    alarm = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    yield made
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, alarm)
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def run_to_line() -> Callable[..., int]:
    """``run_to_line(work, number)``: see ``_run_to_line``."""
    return _run_to_line


def _run_to_line(work: Callable[[], object], number: int = 0) -> int:
    """Run ``work``, with SIGINT before its ``number``-th line in what is watched. How many lines ran."""
    count = 0

    def trace(frame, event, _argument):
        nonlocal count
        if not frame.f_code.co_filename.startswith(WATCHED):
            return None
        if event == "line":
            count += 1
            if count == number:
                signal.raise_signal(signal.SIGINT)
        return trace

    previous = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(previous)
    return count
