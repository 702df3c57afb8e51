"""LoRA adapters leave no trace on a module, sit on every projection, and are peft's own on disk."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer

from mechmask import FinetuneConfig, finetune, load_change

# Written from the architectures, not from mechmask's layouts.
_LLAMA = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
PROJECTIONS = {
    "gpt2": ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"),
    "gptj": ("attn.k_proj", "attn.v_proj", "attn.q_proj", "attn.out_proj", "mlp.fc_in", "mlp.fc_out"),
    "gpt_neox": ("attention.query_key_value", "attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h"),
    "opt": ("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj", "fc1", "fc2"),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text"), _LLAMA),
    "phi": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.dense", "mlp.fc1", "mlp.fc2"),
    "phi3": ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj"),
}
BLOCKS = {
    "gpt2": "transformer.h",
    "gptj": "transformer.h",
    "gpt_neox": "gpt_neox.layers",
    "opt": "model.decoder.layers",
}

FAST = FinetuneConfig(steps=2, lr=1e-2)


@pytest.fixture
def examples(facts):
    return facts[:4].contradiction_examples()


def _expected(family, n_layers):
    blocks = BLOCKS.get(family, "model.layers")
    return {f"{blocks}.{i}.{name}" for i in range(n_layers) for name in PROJECTIONS[family]}


def test_a_module_that_was_trained_shows_no_trace_of_it(tiny, family, examples, traced):
    model = tiny(family)
    before, fingerprint = traced(model.module), model.fingerprint
    adapter = finetune(model, examples, FAST)
    assert model.fingerprint == fingerprint
    assert traced(model.module) == before
    with adapter.applied(model):
        assert model.fingerprint != fingerprint
    assert model.fingerprint == fingerprint
    assert traced(model.module) == before


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_modes_and_gradients_that_the_user_chose_come_back(tiny, family, examples, traced):
    model = tiny(family)
    model.module.train()
    for index, (_, parameter) in enumerate(model.module.named_parameters()):
        parameter.requires_grad_(index % 2 == 0)
        parameter.grad = torch.ones_like(parameter) if index % 4 == 0 else None
    model.anatomy.blocks[0].eval()
    before = traced(model.module)
    adapter = finetune(model, examples, FAST)
    assert traced(model.module) == before
    with adapter.applied(model):
        pass
    assert traced(model.module) == before


def test_applied_it_changes_logits_and_leaving_undoes_them_bit_for_bit(tiny, family, examples, logits_of):
    model = tiny(family)
    bare = logits_of(model)
    adapter = finetune(model, examples, FAST)
    assert torch.equal(logits_of(model), bare)
    with adapter.applied(model) as changed:
        assert changed is model
        first = logits_of(model)
        assert (first - bare).abs().max() > 1e-3
    assert torch.equal(logits_of(model), bare)
    with adapter.applied(model):
        assert torch.equal(logits_of(model), first)


def test_what_is_saved_loads_in_plain_peft_with_the_same_logits(tiny, family, examples, logits_of, tmp_path):
    model = tiny(family)
    base = copy.deepcopy(model.module)
    adapter = finetune(model, examples, FAST)
    adapter.save(tmp_path / "adapter")
    with adapter.applied(model):
        wanted = logits_of(model)
    loaded = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    assert torch.equal(logits_of(loaded), wanted)


def test_every_projection_of_every_block_carries_an_adapter_and_nothing_else_does(tiny, family, examples):
    model = tiny(family)
    adapter = finetune(model, examples, FinetuneConfig(steps=1, lr=1e-2))
    with adapter.applied(model):
        adapted = {name: child for name, child in model.module.named_modules() if isinstance(child, LoraLayer)}
    assert set(adapted) == _expected(family, model.n_layers)
    for child in adapted.values():
        assert list(child.r.values()) == [16]
        assert list(child.lora_alpha.values()) == [32]
        assert list(child.scaling.values()) == [2.0]
    factors = {name.rsplit(".lora_", 1)[0] for name in adapter.tensors}
    assert factors == set(adapted)


def test_the_update_is_alpha_over_rank_times_b_a(tiny, examples, logits_of):
    """Every layer's update added to its weight by hand gives the adapted model."""
    for family in ("gpt2", "llama"):
        model = tiny(family)
        adapter = finetune(model, examples, FinetuneConfig(steps=3, lr=1e-2, rank=3, alpha=5.0))
        merged = copy.deepcopy(model.module)
        with torch.no_grad():
            for name in _expected(family, model.n_layers):
                a, b = (adapter.tensors[f"{name}.lora_{factor}.weight"] for factor in "AB")
                update = 5.0 / 3 * b @ a
                merged.get_submodule(name).weight += update.T if family == "gpt2" else update
        with adapter.applied(model):
            assert torch.allclose(logits_of(model), logits_of(merged), atol=1e-4)


def test_the_base_weights_are_one_copy(tiny, family, examples):
    model = tiny(family)
    before = {name: parameter.data_ptr() for name, parameter in model.module.named_parameters()}
    with finetune(model, examples, FAST).applied(model):
        inside = {
            name.replace(".base_layer", ""): p.data_ptr()
            for name, p in model.module.named_parameters()
            if "lora_" not in name
        }
        assert inside == before


def test_the_adapter_is_as_small_as_its_rank(tiny, examples):
    model = tiny("llama")
    adapter = finetune(model, examples, FinetuneConfig(steps=1, lr=1e-2, rank=5))
    for name, tensor in adapter.tensors.items():
        assert tensor.shape[0 if "lora_A" in name else 1] == 5
        assert tensor.dtype == torch.float32


def test_a_bfloat16_model_is_trained_by_float32_factors_and_keeps_its_bits(tiny, examples, traced, logits_of):
    model = tiny("llama", torch.bfloat16)
    before, bare = traced(model.module), logits_of(model)
    adapter = finetune(model, examples, FAST)
    assert {tensor.dtype for tensor in adapter.tensors.values()} == {torch.float32}
    with adapter.applied(model):
        assert not torch.equal(logits_of(model), bare)
    assert traced(model.module) == before


def test_nothing_applied_asks_for_gradients(tiny, examples):
    model = tiny("llama")
    with finetune(model, examples, FAST).applied(model):
        assert not [name for name, p in model.module.named_parameters() if "lora_" in name and p.requires_grad]


def test_an_adapter_on_an_adapter_is_refused_and_the_first_one_stays(tiny, examples, logits_of, refused, traced):
    model = tiny("llama")
    before = traced(model.module)
    first = finetune(model, examples, FAST)
    second = finetune(model, examples, FinetuneConfig(steps=2, lr=1e-2, seed=1))
    with first.applied(model):
        inside, wanted = traced(model.module), logits_of(model)
        with refused("has an adapter already"), second.applied(model):
            pytest.fail("applied")
        with refused("has an adapter already"):
            finetune(model, examples, FAST)
        assert traced(model.module) == inside
        assert torch.equal(logits_of(model), wanted)
    assert traced(model.module) == before


def test_other_weights_are_refused(tiny, examples, refused, traced):
    adapter = finetune(tiny("llama"), examples, FAST)
    other = tiny("llama", seed=1)
    before = traced(other.module)
    with refused("not those that this change was made on"), adapter.applied(other):
        pytest.fail("applied")
    assert traced(other.module) == before


def test_another_dtype_is_other_weights(tiny, examples, refused):
    adapter = finetune(tiny("llama"), examples, FAST)
    with refused("not those"), adapter.applied(tiny("llama", torch.bfloat16)):
        pytest.fail("applied")


def test_weights_that_were_edited_since_are_refused(tiny, examples, refused, reweighted):
    model = tiny("llama")
    adapter = finetune(model, examples, FAST)
    name = "model.layers.0.mlp.up_proj.weight"
    with reweighted(model, {name: torch.zeros(64, 32)}).applied(model), refused("not those"), adapter.applied(model):
        pytest.fail("applied")


def test_it_comes_off_when_the_body_raises(tiny, examples, traced):
    model = tiny("gpt2")
    adapter = finetune(model, examples, FAST)
    before = traced(model.module)
    with pytest.raises(ZeroDivisionError), adapter.applied(model):
        raise ZeroDivisionError
    assert traced(model.module) == before


def test_an_adapter_with_missing_factors_is_refused_and_leaves_no_trace(tiny, examples, traced, refused):
    model = tiny("llama")
    adapter = finetune(model, examples, FAST)
    adapter.tensors.popitem()
    before = traced(model.module)
    with refused("does not fit"), adapter.applied(model):
        pytest.fail("applied")
    assert traced(model.module) == before


def test_two_trainings_of_one_seed_save_the_same_bytes(tiny, examples, tmp_path):
    for name in ("one", "two"):
        finetune(tiny("llama"), examples, FAST).save(tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_the_saved_target_modules_are_in_an_order_that_no_hash_seed_decides(tiny, examples, tmp_path):
    """A set of strings iterates otherwise in every process, and a resumed study has to end with the same bytes."""
    finetune(tiny("llama"), examples, FAST).save(tmp_path / "adapter")
    targets = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["target_modules"]
    assert targets == sorted(targets)
    assert load_change(tmp_path / "adapter").config.r == 16
