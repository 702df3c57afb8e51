"""A LoRA layer in one step is peft's own, output and gradients, and is peft's own again afterwards."""

from __future__ import annotations

import contextlib

import pytest
import torch
from peft.tuners.lora import LoraLayer

from mechmask import FinetuneConfig
from mechmask.models.routes import encode_examples
from mechmask.write.adapter import injected
from mechmask.write.finetune import lora_config
from mechmask.write.lora_product import lora_in_one_step
from mechmask.write.objective import packed_targets, target_nll


def _randomised(factors):
    """A fresh adapter is the identity, which would hide half of what is computed."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for factor in factors.values():
            factor.copy_(0.1 * torch.randn(factor.shape, generator=generator))


def _layers(model):
    return [child for child in model.module.modules() if isinstance(child, LoraLayer)]


def _loss_and_gradients(model, factors, asked, context):
    with context:
        loss = sum(target_nll(model, part).mean() for part in asked)
    return loss.item(), dict(zip(factors, torch.autograd.grad(loss, list(factors.values())), strict=True))


def _compared(model, encoded, tolerance, **config):
    with injected(model, lora_config(model, FinetuneConfig(rank=3, alpha=5.0, **config))) as factors:
        _randomised(factors)
        asked = packed_targets(model, encoded)
        loss, gradients = _loss_and_gradients(model, factors, asked, lora_in_one_step(model.module))
        wanted_loss, wanted = _loss_and_gradients(model, factors, asked, contextlib.nullcontext())
    assert loss == pytest.approx(wanted_loss, rel=1e-5)
    for name, gradient in wanted.items():
        assert gradient.norm() > 0
        assert (gradients[name] - gradient).norm() < tolerance * gradient.norm(), name


@pytest.mark.parametrize("layers", [None, (1,)])
def test_it_is_pefts_layer(tiny, family, facts, tokenizer, layers):
    """With biases and with weights that are stored the other way round; with nothing below it that takes a gradient."""
    _compared(tiny(family), encode_examples(tokenizer, facts[:4].contradiction_examples()), 1e-4, layers=layers)


def test_it_is_pefts_layer_on_smollm2(smol):
    from mechmask import synthetic_facts

    _compared(smol, encode_examples(smol.tokenizer, synthetic_facts(4, seed=1).contradiction_examples()), 1e-3)


def test_afterwards_every_layer_is_pefts_own(tiny):
    model = tiny("llama")
    with injected(model, lora_config(model, FinetuneConfig())):
        fingerprint = model.fingerprint
        with pytest.raises(ZeroDivisionError), lora_in_one_step(model.module):
            assert all("forward" in vars(layer) for layer in _layers(model))
            raise ZeroDivisionError
        assert not any("forward" in vars(layer) for layer in _layers(model))
        assert model.fingerprint == fingerprint


@pytest.mark.parametrize(
    ("dtype", "config"), [(torch.bfloat16, {}), (torch.float64, {}), (torch.float32, {"dropout": 0.1})]
)
def test_what_it_does_not_compute_is_left_to_peft(tiny, dtype, config):
    model = tiny("llama", dtype)
    with injected(model, lora_config(model, FinetuneConfig(**config))), lora_in_one_step(model.module):
        assert not any("forward" in vars(layer) for layer in _layers(model))
