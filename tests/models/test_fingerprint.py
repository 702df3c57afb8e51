"""The fingerprint sees one flipped bit, and nothing that is not a weight."""

from __future__ import annotations

import random

import pytest
import torch
from peft import LoraConfig, get_peft_model

from mechmask.models.fingerprint import canonical_name, digest, fingerprint


def test_one_flipped_bit_of_any_parameter(tiny_module, family):
    module = tiny_module(family)
    before = fingerprint(module)
    seen = {before}
    for parameter in module.parameters():
        bits = parameter.data.view(torch.int32).view(-1)
        bits[-1] ^= 1
        seen.add(fingerprint(module))
        bits[-1] ^= 1
    assert len(seen) == 1 + sum(1 for _ in module.parameters())
    assert fingerprint(module) == before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtype_counts(tiny_module, dtype):
    assert fingerprint(tiny_module("llama", dtype)) != fingerprint(tiny_module("llama"))
    assert fingerprint(tiny_module("llama", dtype)) == fingerprint(tiny_module("llama", dtype))


def test_the_same_weights_elsewhere_have_the_same(tiny_module, family):
    assert fingerprint(tiny_module(family)) == fingerprint(tiny_module(family))
    assert fingerprint(tiny_module(family)) != fingerprint(tiny_module(family, seed=1))


def test_order_plays_no_part():
    tensors = [(f"w{i}", torch.randn(3, i + 1)) for i in range(6)]
    assert len({digest(random.Random(seed).sample(tensors, 6)) for seed in range(5)}) == 1


def test_names_and_shapes_and_who_has_which_count():
    a, b = torch.tensor([1.0, 2]), torch.tensor([3.0, 4])
    variants = [
        [("a", a), ("b", b)],
        [("a", b), ("b", a)],
        [("a", a), ("c", b)],
        [("a", a), ("b", b[None])],
        [("a", a), ("b", b.to(torch.float64))],
        [("a", a)],
    ]
    assert len({digest(tensors) for tensors in variants}) == len(variants)


def test_views_and_strides_are_read_by_value():
    whole = torch.randn(4, 6)
    assert digest([("w", whole.T)]) == digest([("w", whole.T.contiguous())])
    assert digest([("w", whole[1:3])]) == digest([("w", whole[1:3].clone())])
    assert digest([("w", whole), ("v", whole.T.contiguous().T)]) == digest([("w", whole.clone()), ("v", whole.clone())])


def test_two_views_that_begin_at_the_same_place():
    """Same pointer, shape and type, other strides: other numbers."""
    square = torch.arange(9.0).reshape(3, 3)
    assert digest([("a", square), ("b", square.T)]) == digest([("a", square.clone()), ("b", square.T.contiguous())])


def test_tensors_without_elements_and_without_axes():
    assert digest([("a", torch.empty(0, 3))]) != digest([("a", torch.empty(3, 0))])
    assert digest([("a", torch.tensor(1.0))]) != digest([("a", torch.tensor(2.0))])


def test_tied_weights(tiny_module):
    """Tied or as two equal copies: the model computes the same."""
    tied = tiny_module("gpt2")
    assert tied.lm_head.weight is tied.transformer.wte.weight
    before = fingerprint(tied)
    tied.lm_head.weight = torch.nn.Parameter(tied.lm_head.weight.detach().clone())
    assert fingerprint(tied) == before
    with torch.no_grad():
        tied.lm_head.weight[0, 0] += 1
    assert fingerprint(tied) != before


def test_a_change_through_data_is_seen(tiny):
    model = tiny("llama")
    before = model.fingerprint
    weight = model.module.model.layers[1].mlp.down_proj.weight
    kept = weight.data.clone()
    weight.data[0, 0] += 1
    assert model.fingerprint != before
    weight.data = kept
    assert model.fingerprint == before


def test_modes_gradients_and_configs_do_not_count(tiny):
    model = tiny("llama")
    before = model.fingerprint
    model.module.train()
    model.module.requires_grad_(False)
    model.module.config.name_or_path = "another"
    assert model.fingerprint == before


def test_an_adapter_counts_while_it_is_on(tiny, family):
    model = tiny(family)
    base = model.fingerprint
    torch.manual_seed(0)
    wrapped = get_peft_model(model.module, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    on = model.fingerprint
    assert on != base
    with model.without_adapter():
        assert model.fingerprint == base
    assert model.fingerprint == on
    factor = next(p for n, p in model.module.named_parameters() if "lora_B" in n)
    factor.data[0, 0] += 1
    assert model.fingerprint != on
    wrapped.unload()
    assert model.fingerprint == base


def test_names_are_those_without_an_adapter():
    assert canonical_name("model.layers.0.mlp.down_proj.base_layer.weight") == "model.layers.0.mlp.down_proj.weight"
    assert canonical_name("model.layers.0.mlp.down_proj.weight") == "model.layers.0.mlp.down_proj.weight"
