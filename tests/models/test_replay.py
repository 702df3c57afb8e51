"""What is run again from a layer is what the whole model computes, by plain hooks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mechmask.errors import ModelError
from mechmask.models.replay import Replay

IDS = torch.arange(5, 29).reshape(2, 12)


def blocks_of(module):
    return next(m for m in module.modules() if isinstance(m, nn.ModuleList) and len(m) == _height(module))


def _height(module):
    return module.config.num_hidden_layers


def first(value):
    return value[0] if isinstance(value, tuple) else value


@torch.no_grad()
def with_residual(module, ids, layer, residual):
    """What the unembedding reads when block ``layer`` is given ``residual``, by one hook on a whole pass."""
    blocks = blocks_of(module)

    def enter(_, args, kwargs):
        if args:
            return (residual, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": residual}

    def leave(_, args, output):
        return (residual, *output[1:]) if isinstance(output, tuple) else residual

    if layer < len(blocks):
        hook = blocks[layer].register_forward_pre_hook(enter, with_kwargs=True)
    else:
        hook = blocks[-1].register_forward_hook(leave)
    try:
        return module.base_model(ids, use_cache=False).last_hidden_state
    finally:
        hook.remove()


@torch.no_grad()
def test_every_layer_is_that_of_the_model(tiny, family):
    model = tiny(family)
    replay = Replay(model, {"input_ids": IDS})
    states = model.module(IDS, output_hidden_states=True, use_cache=False).hidden_states
    for layer in range(model.n_layers):
        torch.testing.assert_close(replay.residual(layer), states[layer], atol=1e-6, rtol=0)
    last = replay.residual(model.n_layers)
    torch.testing.assert_close(model.anatomy.final_norm(last), states[-1], atol=1e-5, rtol=0)
    assert not torch.allclose(last, states[-1], atol=1e-2), "hidden_states[-1] is normed, the residual is not"


@torch.no_grad()
def test_from_any_layer_on_another_residual(tiny, family):
    model = tiny(family)
    replay = Replay(model, {"input_ids": IDS})
    for layer in range(model.n_layers + 1):
        own = replay.residual(layer)
        assert torch.equal(replay.from_layer(layer, own), replay.residual(model.n_layers)), "the same bits"
        other = own + torch.randn(own.shape, generator=torch.Generator().manual_seed(layer))
        naive = with_residual(model.module, IDS, layer, other)
        found = model.anatomy.final_norm(replay.from_layer(layer, other))
        torch.testing.assert_close(found, naive, atol=1e-4, rtol=0)
        assert torch.equal(replay.residual(layer), own)


def test_gradients_are_the_callers_own(tiny):
    model = tiny("llama")
    replay = Replay(model, {"input_ids": IDS}, first=1)
    assert not replay.residual(1).requires_grad
    residual = replay.residual(1).clone().requires_grad_(True)
    replay.from_layer(1, residual).sum().backward()
    assert residual.grad is not None
    assert residual.grad.abs().max() > 0
    with torch.no_grad():
        assert not replay.from_layer(1, residual).requires_grad


def test_a_weight_changed_in_place_is_seen(tiny):
    model = tiny("gpt2")
    replay = Replay(model, {"input_ids": IDS}, first=1)
    with torch.no_grad():
        model.anatomy.mlp_output(1).weight.mul_(-1)
        found = replay.from_layer(1, replay.residual(1))
        torch.testing.assert_close(found, Replay(model, {"input_ids": IDS}).residual(model.n_layers))


def test_no_hook_is_left(tiny):
    model = tiny("llama")
    Replay(model, {"input_ids": IDS})
    with pytest.raises(RuntimeError):
        Replay(model, {"input_ids": IDS.float()})
    left = [n for m in model.module.modules() for n, v in vars(m).items() if n.endswith("_hooks") and len(v)]
    assert not left


@pytest.mark.parametrize("layer", [0, 1, 4])
def test_a_layer_that_was_not_kept(tiny, layer):
    replay = Replay(tiny("llama"), {"input_ids": IDS}, first=2)
    with pytest.raises(ModelError, match=rf"Layer {layer} was not kept by this pass: it holds layers 2 to 3\."):
        replay.residual(layer)
    with pytest.raises(ModelError, match="was not kept"):
        replay.from_layer(layer, torch.zeros(2, 12, 32))


@torch.no_grad()
def test_a_pass_that_stops_early_runs_no_further_and_agrees(tiny, family):
    model = tiny(family)
    height = model.n_layers
    whole = Replay(model, {"input_ids": IDS})
    ran = []
    hooks = [block.register_forward_hook(lambda *_, i=i: ran.append(i)) for i, block in enumerate(model.anatomy.blocks)]
    part = Replay(model, {"input_ids": IDS}, first=0, last=height - 1)
    for hook in hooks:
        hook.remove()
    assert ran == list(range(height - 1))
    for layer in range(height):
        assert torch.equal(part.residual(layer), whole.residual(layer))
    assert torch.equal(part.from_layer(0, part.residual(0), 1), whole.residual(1))
    with pytest.raises(ModelError, match=f"holds layers 0 to {height - 1}"):
        part.residual(height)
