"""The cause that is named is the one that is there."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model

import mechmask as mm
from mechmask.errors import ModelError
from mechmask.models.diagnosis import likely_cause
from mechmask.models.offloaded import missing_weight
from mechmask.models.quantised import quantised_layers


def shifted(_module, _arguments, output):
    return output + 1


def test_a_hook_of_the_users(tiny):
    model = tiny("llama")
    model.module.model.layers[1].mlp.register_forward_hook(shifted)
    assert likely_cause(model).startswith("Check the forward hook shifted on model.layers.1.mlp")


def test_hooks_of_transformers_are_not_blamed(tiny, family):
    model = tiny(family)
    with model.inference():
        model.module(torch.tensor([[1, 2]]), output_hidden_states=True)
    model.module.enable_input_require_grads()
    assert "hook" not in likely_cause(model)
    assert f"a {model.family} model is built as" in likely_cause(model)


def test_training_mode_with_dropout(tiny):
    model = tiny("llama", attention_dropout=0.5)
    model.module.train()
    assert "it is in training mode. Call module.eval()" in likely_cause(model)


def test_adapters_merged_and_not(tiny):
    model = tiny("llama")
    wrapped = get_peft_model(model.module, LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)).eval()
    assert "switch it off" in likely_cause(model)
    wrapped.merge_adapter()
    assert "merged into the weights" in likely_cause(model)


def test_weights_that_are_not_there(tiny_module, tokenizer):
    with pytest.raises(ModelError, match="has no values yet"):
        mm.load_model(tiny_module("llama").to("meta"), tokenizer=tokenizer)
    assert missing_weight(tiny_module("llama")) == ""


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_codes_that_nothing_computes_with_are_refused(tiny_module, tokenizer, dtype):
    module = tiny_module("llama")
    assert quantised_layers(module) == []
    linear = module.model.layers[1].mlp.down_proj
    linear.weight = torch.nn.Parameter(linear.weight.detach().to(dtype), requires_grad=False)
    with pytest.raises(ModelError, match=rf"is quantised .*down_proj is stored as {str(dtype)[6:]}.* cannot run here"):
        mm.load_model(module, tokenizer=tokenizer)
