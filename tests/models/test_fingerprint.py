"""The fingerprint sees one flipped bit and every setting that is computed with, and nothing else."""

from __future__ import annotations

import random

import pytest
import torch
from peft import LoraConfig, get_peft_model

from mechmask import load_model
from mechmask.errors import ModelError
from mechmask.models.fingerprint import base_fingerprint, canonical_name, digest, fingerprint


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


def lora(module, name="a", **options):
    """A PEFT model with an adapter that does something."""
    torch.manual_seed(0)
    config = LoraConfig(**{"r": 2, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False, **options})
    return get_peft_model(module, config, adapter_name=name)


def logits(module):
    with torch.no_grad():
        return module(torch.tensor([[5, 9, 300, 17]])).logits


def of_eps(module):
    module.model.norm.variance_epsilon = 0.1


def of_inv_freq(module):
    module.model.rotary_emb.inv_freq = module.model.rotary_emb.inv_freq * 0.5


def of_activation(module):
    module.model.layers[1].mlp.act_fn = torch.nn.ReLU()


def of_scaling(module):
    module.model.layers[0].self_attn.scaling *= 0.5


def of_hook(module):
    module.model.layers[1].register_forward_hook(lambda _m, _a, output: output * 0.5)


def of_pre_hook(module):
    module.model.layers[1].mlp.register_forward_pre_hook(lambda _m, args: (args[0] * 0.5,))


def of_forward(module):
    layer = module.model.layers[1].mlp
    whole = layer.forward
    layer.forward = lambda x: whole(x) * 0.5


class Halved(torch.nn.Module):
    def forward(self, weight):
        return weight * 0.5


def of_parametrization(module):
    torch.nn.utils.parametrize.register_parametrization(module.model.layers[1].mlp.down_proj, "weight", Halved())


@pytest.mark.parametrize(
    "changed",
    [of_eps, of_inv_freq, of_activation, of_scaling, of_hook, of_pre_hook, of_forward, of_parametrization],
)
def test_whatever_changes_the_output_counts(tiny_module, changed):
    module = tiny_module("llama")
    before, at_first = fingerprint(module), logits(module)
    changed(module)
    assert not torch.allclose(logits(module), at_first)
    assert fingerprint(module) != before


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("llama", {"rms_norm_eps": 1e-3}),
        ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
        ("llama", {"hidden_act": "gelu"}),
        ("gemma2", {"final_logit_softcapping": 5.0}),
        ("gemma2", {"attn_logit_softcapping": 50.0}),
        ("gemma2", {"sliding_window": 7}),
        ("gemma2", {"query_pre_attn_scalar": 12}),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    ],
)
def test_settings_count(tiny_module, name, settings):
    assert fingerprint(tiny_module(name, **settings)) != fingerprint(tiny_module(name))


def test_a_hook_counts_by_what_it_does(tiny_module):
    """The same steering in another process is the same; another strength of it is not."""

    def steered(strength):
        module = tiny_module("llama")
        module.model.layers[1].register_forward_hook(lambda _m, _a, output: output + strength)
        return fingerprint(module)

    assert steered(1.0) == steered(1.0) != steered(2.0)
    assert steered(torch.ones(32)) == steered(torch.ones(32)) != steered(2 * torch.ones(32))


def test_a_hook_that_is_removed_counts_no_more(tiny_module):
    module = tiny_module("llama")
    before = fingerprint(module)
    handle = module.model.layers[0].register_forward_hook(lambda _m, _a, output: output)
    assert fingerprint(module) != before
    handle.remove()
    assert fingerprint(module) == before


def test_what_computes_nothing_does_not_count(tiny_module, tmp_path, family):
    """Watching hooks of transformers, gradients, dropout, names, token ids; a copy from disk, another attention."""
    module = tiny_module(family)
    before = fingerprint(module)
    module(torch.tensor([[1, 2, 3]]), output_hidden_states=True, output_attentions=True)
    module.enable_input_require_grads()
    module.train()
    module.config.pad_token_id, module.config.use_cache, module.config.written_by_another_tool = 7, False, "yes"
    module.config._name_or_path = "elsewhere"
    assert fingerprint(module) == before
    module.save_pretrained(tmp_path)
    for attention in {"eager", module.config._attn_implementation}:
        copy = type(module).from_pretrained(tmp_path, attn_implementation=attention)
        assert fingerprint(copy) == before
    assert fingerprint(tiny_module(family, attention_dropout=0.5)) == before


def test_device_map_does_not_count(tiny_module, tokenizer, tmp_path):
    tiny_module("llama").save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert load_model(tmp_path, device_map="cpu").fingerprint == load_model(tmp_path).fingerprint


def test_which_adapters_are_on_their_order_and_scale(tiny_module):
    module = tiny_module("llama")
    base = fingerprint(module)
    wrapped = lora(module, "a")
    alone = fingerprint(module)
    wrapped.add_adapter("b", LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    assert fingerprint(module) == alone, "an adapter that is there and not on"
    seen = {base, alone}
    wrapped.set_adapter("b")
    seen.add(fingerprint(module))
    for order in (["a", "b"], ["b", "a"]):
        wrapped.base_model.set_adapter(order)
        seen.add(fingerprint(module))
    layer = module.model.layers[0].self_attn.q_proj
    layer.scaling["a"] *= 2
    seen.add(fingerprint(module))
    assert len(seen) == 6
    assert base_fingerprint(module) == base
    with wrapped.disable_adapter():
        assert fingerprint(module) == base
    layer.scaling["a"] /= 2
    wrapped.set_adapter("a")
    assert fingerprint(module) == alone


def test_dropout_of_an_adapter_does_not_count(tiny_module):
    assert fingerprint(lora(tiny_module("llama")).base_model.model) == fingerprint(
        lora(tiny_module("llama"), lora_dropout=0.3).base_model.model
    )


def test_dora_and_rslora_count(tiny_module):
    variants = [{}, {"use_dora": True}, {"use_rslora": True}, {"lora_alpha": 3}]
    assert len({fingerprint(lora(tiny_module("llama"), **v).base_model.model) for v in variants}) == len(variants)


def test_a_merged_adapter(tiny_module):
    module = tiny_module("llama")
    wrapped = lora(module)
    on = fingerprint(module)
    wrapped.merge_adapter()
    merged = fingerprint(module)
    assert merged != on
    with pytest.raises(ModelError, match=r"An adapter is merged into model.layers.0"):
        base_fingerprint(module)
    next(p for n, p in module.named_parameters() if "lora_A" in n).data[0, 0] += 1
    assert fingerprint(module) == merged, "its factors take no part any more"


def test_modules_to_save(tiny_module):
    module = tiny_module("llama", tie_word_embeddings=False)
    base = fingerprint(module)
    wrapped = lora(module, modules_to_save=["lm_head"])
    on = fingerprint(module)
    under = module.lm_head.original_module.weight.data
    before = under.clone()
    under[0, 0] += 1
    assert fingerprint(module) == on, "the copy in its place is computed with"
    under.copy_(before)
    module.lm_head.modules_to_save["a"].weight.data[0, 0] += 1
    assert fingerprint(module) != on
    assert base_fingerprint(module) == base
    with wrapped.disable_adapter():
        assert fingerprint(module) == base


def test_what_a_layer_prints_of_itself_does_not_count(tiny):
    model = tiny("llama")
    before = model.fingerprint
    model.module.model.layers[0].mlp.up_proj.extra_repr = lambda: "quantised"
    assert model.fingerprint == before
