"""Layers of codes are told apart, their codes are part of the fingerprint, and nothing writes into them."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.ao.quantization import float_qparams_weight_only_qconfig, per_channel_dynamic_qconfig, quantize_dynamic

import mechmask as mm
from mechmask.errors import ChangeError, ModelError, WeightsError
from mechmask.models.anatomy import LAYOUTS
from mechmask.models.quantised import is_read_alone, quantised_layers
from mechmask.read.weights import effective_weights
from mechmask.write.finetune_config import FinetuneConfig
from mechmask.write.low_rank import low_rank_change
from mechmask.write.methods.ft_l import FTLConfig
from mechmask.write.methods.rome import ROMEConfig

pytestmark = pytest.mark.filterwarnings("ignore:torch.quantize_per")


@pytest.fixture
def codes(tiny_module, tokenizer):
    """``codes(family, seed, spec)``: a tiny model whose linear maps torch quantised."""

    def make(name="llama", seed=0, spec=None):
        module = quantize_dynamic(tiny_module(name, seed=seed), spec or {nn.Linear}, dtype=torch.qint8)
        return mm.load_model(module, tokenizer=tokenizer)

    return make


class PackedLinear(nn.Module):
    """Four-bit codes, two to a byte, in a buffer, as GPTQ and AWQ keep them."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 7
        codes = (linear.weight.detach() / scale).round().to(torch.int64) + 8
        self.register_buffer("qweight", codes[:, ::2] * 16 + codes[:, 1::2])
        self.register_buffer("scales", scale)

    def forward(self, x):
        codes = torch.stack([self.qweight // 16, self.qweight % 16], -1).flatten(1) - 8
        return nn.functional.linear(x, codes * self.scales)


def packed_by_hand(module):
    for name, child in list(module.named_modules()):
        if type(child) is nn.Linear and "lm_head" not in name:
            parent, _, last = name.rpartition(".")
            setattr(module.get_submodule(parent), last, PackedLinear(child))
    return module


def test_numbers_are_no_codes(tiny):
    model = tiny("llama")
    assert quantised_layers(model.module) == []
    assert not model.is_read_alone
    get_peft_model(model.module, LoraConfig(r=2, target_modules=["q_proj"]))
    assert quantised_layers(model.module) == []


def test_kinds_are_named(codes, tiny_module, tokenizer):
    found = quantised_layers(codes().module)
    assert len(found) == 3 * 7 + 1
    assert {(layer.kind, layer.alone) for layer in found} == {("is a DynamicQuantizedLinear of torch", True)}
    packed = mm.load_model(packed_by_hand(tiny_module("llama")), tokenizer=tokenizer)
    assert {layer.kind for layer in quantised_layers(packed.module)} == {"is stored as int64"}
    assert packed.is_read_alone  # what is not known to quantise nothing but weights


def test_a_configuration_alone_says_it(tiny_module):
    module = tiny_module("llama")
    module.config.quantization_config = {"quant_method": "unheard of"}
    assert is_read_alone(module)


def test_a_family_that_is_not_known_is_worked_out_under_codes(codes, monkeypatch):
    known = codes("qwen3").anatomy.layout
    monkeypatch.delitem(LAYOUTS, "qwen3")
    with pytest.warns(UserWarning, match="'qwen3' family is not known"):
        assert codes("qwen3").anatomy.layout == known


def _move_a_code(layer, what):
    """One code, one scale or one zero point of a packed layer is another afterwards."""
    weight, bias = layer._weight_bias()
    scales, zeros, axis = weight.q_per_channel_scales(), weight.q_per_channel_zero_points(), weight.q_per_channel_axis()
    whole = weight.int_repr().clone()
    scales, zeros = scales.clone(), zeros.clone()
    {"code": whole.view(-1), "scale": scales, "zero": zeros}[what][0] += 1
    moved = torch._make_per_channel_quantized_tensor(whole, scales, zeros, axis)
    layer.set_weight_bias(moved, bias)


@pytest.mark.parametrize("what", ["code", "scale", "zero"])
def test_one_number_of_a_packed_weight_is_another_fingerprint(codes, what):
    spec = {nn.Linear: per_channel_dynamic_qconfig}
    model, same = codes(spec=spec), codes(spec=spec)
    before = model.fingerprint
    assert before == same.fingerprint
    mm.read_logits(model, mm.synthetic_facts(1, seed=0, n_never=0))
    assert model.fingerprint == before  # packages move things about at the first pass
    _move_a_code(model.module.model.layers[1].mlp.up_proj, what)
    assert model.fingerprint != before


def test_a_packed_bias_counts(codes):
    model = codes("gpt_neox")
    before = model.fingerprint
    layer = model.module.gpt_neox.layers[0].mlp.dense_h_to_4h
    weight, bias = layer._weight_bias()
    layer.set_weight_bias(weight, bias + torch.eye(len(bias))[0])
    assert model.fingerprint != before


def test_a_packed_embedding_counts(codes):
    spec = {nn.Embedding: float_qparams_weight_only_qconfig}
    model, other = codes(spec=spec), codes(seed=1, spec=spec)
    assert not model.is_read_alone  # nothing but a table is quantised
    before = model.fingerprint
    assert codes(spec=spec).fingerprint == before
    model.module.model.embed_tokens = other.module.model.embed_tokens
    assert model.fingerprint != before


def test_a_change_is_bound_to_its_codes(codes, tiny, facts):
    change = mm.finetune(tiny("llama"), facts[:1], FinetuneConfig(steps=1), progress=False)
    with pytest.raises(ChangeError, match="not those that this change was made on"):
        mm.read_logits(change.on(codes()), facts[:1])


WRITES = {
    "lora": lambda model, facts: mm.finetune(model, facts, FinetuneConfig(steps=1)),
    "full": lambda model, facts: mm.finetune(model, facts, FinetuneConfig(steps=1, method="full")),
    "ft_l": lambda model, facts: mm.edit(model, facts, config=FTLConfig(layer=1, clamp=0.1, steps=1)),
    "rome": lambda model, facts: mm.prepare(model, "rome", ROMEConfig.model_construct(method="rome", layer=1)),
    "moments": lambda model, facts: mm.second_moments(model, [1], "text"),
    "low_rank": lambda model, facts: low_rank_change(model, {}, "low rank", {}),
    "round_trip": lambda model, facts: mm.round_trip(model, "int8"),
    "attribution": lambda model, facts: mm.attribute(model, facts),
    "lens": lambda model, facts: mm.fit_lens(model, ["a text"]),
    "weights": lambda model, facts: list(effective_weights(model)),
}


@pytest.mark.parametrize("name", WRITES)
def test_what_needs_numbers_refuses_in_a_sentence(codes, facts, name):
    model = codes()
    before = model.fingerprint
    with pytest.raises(
        WeightsError, match=r"is quantised \(.*DynamicQuantizedLinear.*float32, bfloat16 or float16\.$"
    ) as caught:
        WRITES[name](model, facts[:1])
    assert "\n" not in str(caught.value)
    assert model.fingerprint == before


def test_an_adapter_is_refused_where_peft_has_none_and_nothing_is_left_behind(codes, tiny_module, tmp_path, facts):
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(tiny_module("llama"), config).save_pretrained(tmp_path)
    model = codes()
    before, modules = model.fingerprint, [name for name, _ in model.module.named_modules()]
    with pytest.raises(ChangeError, match=r"peft puts no adapter on .* DynamicQuantizedLinear"):
        mm.load_change(tmp_path, model)
    assert (model.fingerprint, [name for name, _ in model.module.named_modules()]) == (before, modules)


def test_packed_by_others_an_adapter_is_the_cure(tiny_module, tokenizer, facts):
    model = mm.load_model(packed_by_hand(tiny_module("llama")), tokenizer=tokenizer)
    with pytest.raises(WeightsError, match=r"train an adapter with peft and read it with load_change\.$"):
        mm.finetune(model, facts[:1], FinetuneConfig(steps=1))


def test_no_blocks_are_grafted(codes):
    with pytest.raises(WeightsError, match="graft of weights needs"):
        mm.graft(codes(), codes(seed=1), [0])


def test_codes_that_do_not_run_here_are_refused(tiny_module, tokenizer):
    module = packed_by_hand(tiny_module("llama"))
    module.model.layers[0].mlp.up_proj.scales = module.model.layers[0].mlp.up_proj.scales[:3]
    with pytest.raises(ModelError, match=r"is quantised .* cannot run here"):
        mm.load_model(module, tokenizer=tokenizer)
