"""Ctrl-C and errors at any moment of a change, a fine-tuning or an edit leave the module as it was."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable

import pytest
import torch
from peft.tuners.lora import LoraModel

from mechmask import FinetuneConfig, FTLConfig, edit, finetune, graft
from mechmask.write import precision
from mechmask.write.low_rank import low_rank_change
from mechmask.write.round_trip import round_trip

FAST = FinetuneConfig(steps=2, lr=1e-2, rank=2)
DORA = FinetuneConfig(method="dora", steps=2, lr=1e-2, rank=2)
NARROW = FinetuneConfig(method="full", steps=2, lr=1e-3, precision="bfloat16")
FULL = FinetuneConfig(method="full", steps=2, lr=1e-3)
EDIT = FTLConfig(layer=0, clamp=5e-2, lr=1e-2, steps=2)
DOWN = "model.layers.0.mlp.down_proj.weight"
pytestmark = pytest.mark.filterwarnings("ignore:The .* edit did not take")


@pytest.fixture
def model(tiny):
    """One block, in training mode in part, gradients asked of in part, so that a mode or a flag that is lost shows."""
    model = tiny("llama", num_hidden_layers=1)
    model.anatomy.blocks[0].train()
    for index, parameter in enumerate(model.module.parameters()):
        parameter.requires_grad_(index % 2 == 0)
    return model


@pytest.fixture
def works(model, facts, monkeypatch) -> dict[str, Callable[[], object]]:
    """What may be interrupted, by name."""
    monkeypatch.setattr(precision, "_multiplies_bfloat16", lambda device: True)
    install, second = (finetune(model, facts[i : i + 1], FAST) for i in (0, 1))
    edited = edit(model, facts[:1], config=EDIT)
    factors = low_rank_change(model, {DOWN: (torch.ones(32, 1), torch.ones(1, 64))}, "by hand", {})
    with install.applied(model):
        above = edit(model, facts[:1], config=EDIT)
        narrow = round_trip(model, "nf4")

    def apply(change, under=None):
        def work():
            state = change.on(model if under is None else under.on(model))
            with state.active() as changed, changed.inference():  # torch's own contexts in the module can be cut
                return changed.module(input_ids=torch.arange(5, 9)[None])

        return work

    return {
        "adapter": apply(install),
        "graft": lambda: apply(graft(install, second, [0]))(),
        "weights": apply(edited),
        "low_rank": apply(factors),
        "stacked": apply(above, install),
        "round_trip": apply(narrow, install),
        "finetune": lambda: finetune(model, facts[:1], FAST),
        "finetune_dora": lambda: finetune(model, facts[:1], DORA),
        "finetune_full": lambda: finetune(model, facts[:1], FULL),
        "finetune_bfloat16": lambda: finetune(model, facts[:1], NARROW),
        "edit": lambda: edit(install.on(model), facts[:1], config=EDIT),
    }


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs timers")
def test_hundreds_of_interrupts_at_random_moments_leave_no_trace(model, works, interrupts, traced):
    before, modes, wanted = traced(model.module), _modes(), model.fingerprint
    chance = random.Random(0)
    for name, times in {
        **dict.fromkeys(("adapter", "graft", "stacked"), 80), **dict.fromkeys(("weights", "low_rank"), 50),
        "round_trip": 50, "finetune": 60, "finetune_dora": 30, "finetune_full": 60, "finetune_bfloat16": 30, "edit": 40,
    }.items():  # fmt: skip
        began = time.perf_counter()
        works[name]()
        takes = time.perf_counter() - began
        enough = interrupts.raised + 3 * times // 4  # on a busy machine more of the timers come too late
        while interrupts.raised < enough:
            signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, takes))
            interrupts.run(works[name])
            signal.setitimer(signal.ITIMER_REAL, 0)
            assert traced(model.module) == before, name
            assert _modes() == modes, name
    assert interrupts.raised >= 300
    assert model.fingerprint == wanted


@pytest.mark.parametrize(
    ("name", "every"),
    [
        *[("weights", 3), ("low_rank", 7), ("adapter", 29), ("stacked", 83), ("round_trip", 83)],
        *[("finetune_full", 29), ("finetune_bfloat16", 13), ("edit", 13)],
    ],
)
def test_an_interrupt_at_any_line_leaves_no_trace(model, works, interrupts, traced, run_to_line, name, every):
    """Every so many lines that applying and undoing run through in the files that put on and take off."""
    before, modes = traced(model.module), _modes()
    counted = run_to_line(works[name])
    hit = 0
    for line in range(1, counted, every):
        hit += interrupts.run(lambda line=line: run_to_line(works[name], line))
        assert traced(model.module) == before, line
        assert _modes() == modes, line
    assert hit > 0.9 * counted / every, "an interrupt that waits is raised all the same"


def _modes() -> tuple[object, ...]:
    """What torch's own contexts set for all that runs after them: left on, autocast rounds readings."""
    torch.autocast_increment_nesting()
    nesting = torch.autocast_decrement_nesting()
    return nesting, torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled(), torch.is_grad_enabled()


def test_an_error_while_an_adapter_is_put_on_leaves_no_trace(model, works, traced, monkeypatch):
    before = traced(model.module)
    create = LoraModel._create_and_replace
    for fails_at in range(1, 8):
        calls = 0

        def failing(*args, fails_at=fails_at, **kwargs):
            nonlocal calls
            calls += 1
            if calls == fails_at:
                raise MemoryError
            return create(*args, **kwargs)

        monkeypatch.setattr(LoraModel, "_create_and_replace", failing)
        with pytest.raises(MemoryError):
            works["adapter"]()
        assert traced(model.module) == before
        calls = 0
        with pytest.raises(MemoryError):
            works["finetune"]()
        assert traced(model.module) == before


def test_an_error_in_the_middle_of_an_edit_leaves_no_trace(model, facts, traced, monkeypatch):
    before = traced(model.module)
    monkeypatch.setattr(torch.optim.Adam, "step", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        edit(model, facts[:1], config=EDIT)
    assert traced(model.module) == before
