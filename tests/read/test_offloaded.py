"""A model of which weights lie in memory or on the disk reads as the whole one to the bit; nothing writes into it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from accelerate import cpu_offload, disk_offload, dispatch_model
from peft import LoraConfig, get_peft_model

import mechmask as mm
from mechmask.errors import ModelError, WeightsError
from mechmask.facts.fact_set import FactSet
from mechmask.models.offloaded import in_memory, lent_tensors
from mechmask.read.scoring.labels import provenance
from mechmask.study.proof import prove
from mechmask.write.finetune_config import FinetuneConfig
from mechmask.write.low_rank import low_rank_change
from mechmask.write.methods.ft_l import FTLConfig

CPU = torch.device("cpu")
SPREAD = {
    **{"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.layers.0": "cpu"},
    **{"model.layers.1": "disk", "model.layers.2": "disk", "model.norm": "disk", "lm_head": "disk"},
}


def spread(module, folder):
    return dispatch_model(module, SPREAD, main_device="cpu", offload_dir=folder)


HOW = {
    "memory": lambda module, folder: cpu_offload(module, CPU),
    "disk": lambda module, folder: disk_offload(module, folder, CPU) or module,
    "some of it": spread,
}


@pytest.fixture
def both(tiny_module, tokenizer, tmp_path):
    """``both(family, how)``: a model whole, and the same one with weights put elsewhere."""

    def make(name, how, **config):
        whole = mm.load_model(tiny_module(name, **config), tokenizer=tokenizer)
        return whole, mm.load_model(HOW[how](tiny_module(name, **config), tmp_path), tokenizer=tokenizer)

    return make


@pytest.fixture(scope="module")
def few(facts):
    """A contradicted fact and a control, one distractor each."""
    return FactSet([fact.model_copy(update={"distractors": fact.distractors[:1]}) for fact in facts[9:11]])


@pytest.mark.parametrize(
    ("name", "how"),
    [("llama", "some of it"), ("gpt2", "disk")],
)
def test_readings_are_those_of_the_whole_model_to_the_bit(name, how, both, few):
    whole, elsewhere = both(name, how)
    assert any(parameter.is_meta for parameter in elsewhere.module.parameters())
    assert elsewhere.fingerprint == whole.fingerprint
    assert elsewhere.device == CPU
    for read in (
        lambda model: mm.read_logits(model, few).logprob,
        lambda model: mm.read_depth(model, few).logprob,
        lambda model: mm.read_depth(model, few, backend="nnsight").logprob,
        lambda model: mm.read_margin(model, few).margin,
        lambda model: mm.attribute(model, few, unit="head").attribution,
        lambda model: mm.generate(model, few),
        lambda model: mm.patch_residual(model, model, few, progress=False).logprob,
    ):
        one, other = read(whole), read(elsewhere)
        np.testing.assert_array_equal(one.values, other.values)
    assert elsewhere.fingerprint == whole.fingerprint  # nothing was left behind
    assert any(parameter.is_meta for parameter in elsewhere.module.parameters())


def test_half_precision_and_tied_weights(both, few, tiny_module, tokenizer, tmp_path):
    tied = {"tie_word_embeddings": True}
    whole, elsewhere = both("gemma2", "memory", dtype=torch.bfloat16, **tied)
    assert elsewhere.fingerprint == whole.fingerprint
    assert mm.read_depth(elsewhere, few).logprob.equals(mm.read_depth(whole, few).logprob)
    assert mm.attribute(elsewhere, few).attribution.equals(mm.attribute(whole, few).attribution)


def test_the_fingerprint_reads_what_lies_elsewhere(tiny_module, tokenizer, tmp_path):
    """Empty tensors in the places of weights would give every model of one shape the same."""
    modules = [spread(tiny_module("llama", seed=seed), tmp_path / str(seed)) for seed in (0, 1)]
    models = [mm.load_model(module, tokenizer=tokenizer) for module in modules]
    assert models[0].fingerprint != models[1].fingerprint
    module = tiny_module("llama")
    with torch.no_grad():
        module.model.layers[2].mlp.up_proj.weight[3, 4] += 1e-6
    nudged = mm.load_model(cpu_offload(module, CPU), tokenizer=tokenizer)
    assert nudged.fingerprint not in [model.fingerprint for model in models]
    assert provenance(models[0])["fingerprint"] == models[0].fingerprint
    file = next(tmp_path.glob("0/model.layers.1.mlp.up_proj.weight.dat"))
    before, content = models[0].fingerprint, bytearray(file.read_bytes())
    content[0] ^= 1
    file.write_bytes(content)
    assert models[0].fingerprint != before


def test_the_hooks_of_a_bridge_are_made_once(both, few):
    """accelerate puts another empty tensor in a weight's place at every pass, by which a clone must not be judged."""
    from mechmask.read.backends.parts import what_a_clone_sees

    _, elsewhere = both("llama", "memory")
    before = what_a_clone_sees(elsewhere.module)
    mm.read_logits(elsewhere, few)
    assert what_a_clone_sees(elsewhere.module) == before


def test_a_layer_is_brought_into_memory_as_a_copy(both):
    whole, elsewhere = both("llama", "disk")
    norm = in_memory(elsewhere.anatomy.final_norm)
    assert torch.equal(norm.weight, whole.anatomy.final_norm.weight)
    assert list(lent_tensors(elsewhere.anatomy.final_norm)) == ["weight"]
    assert in_memory(whole.anatomy.final_norm) is whole.anatomy.final_norm


def test_a_lens_is_that_of_the_whole_model(both, few):
    whole, elsewhere = both("llama", "some of it")
    text = [" ".join(fact.prompt for fact in few)] * 24
    lenses = [
        mm.fit_lens(model, text, kind="tuned", n_tokens=512, steps=2, tokens_per_step=128, progress=False)
        for model in (whole, elsewhere)
    ]
    readings = [mm.read_depth(model, few, lens) for model, lens in zip((whole, elsewhere), lenses, strict=True)]
    assert readings[0].logprob.equals(readings[1].logprob)
    assert mm.read_depth(elsewhere, few, lenses[0]).logprob.equals(readings[0].logprob)


WRITES = {
    "lora": lambda model, facts: mm.finetune(model, facts, FinetuneConfig(steps=1)),
    "full": lambda model, facts: mm.finetune(model, facts, FinetuneConfig(steps=1, method="full")),
    "ft_l": lambda model, facts: mm.edit(model, facts, config=FTLConfig(layer=1, clamp=0.1, steps=1)),
    "moments": lambda model, facts: mm.second_moments(model, [1], "text"),
    "low_rank": lambda model, facts: low_rank_change(model, {}, "low rank", {}),
    "round_trip": lambda model, facts: mm.round_trip(model, "int8"),
    "weights": lambda model, facts: mm.weight_change(model, model),
}


@pytest.mark.parametrize("name", WRITES)
def test_what_writes_weights_refuses_in_a_sentence(name, both, few):
    _, elsewhere = both("llama", "memory")
    before = elsewhere.fingerprint
    with pytest.raises(WeightsError, match=r"is offloaded\. Load the model without offloading") as caught:
        WRITES[name](elsewhere, few)
    assert "\n" not in str(caught.value)
    assert elsewhere.fingerprint == before


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_change_of_the_whole_model_is_not_lost_in_empty_tensors(method, both, few):
    """Its base is the same, so nothing but this refusal stands between it and a reading without it."""
    whole, elsewhere = both("llama", "memory")
    change = mm.finetune(whole, few, FinetuneConfig(steps=1, method=method, lr=1e-2), progress=False)
    assert elsewhere.fingerprint == change.base
    with pytest.raises(WeightsError, match="is offloaded"):
        mm.read_logits(change.on(elsewhere), few)


def test_an_adapter_that_was_there_before_is_read(tiny_module, tokenizer, few):
    def adapted():
        torch.manual_seed(0)
        return get_peft_model(
            tiny_module("llama"), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
        ).eval()

    whole = mm.load_model(adapted(), tokenizer=tokenizer)
    elsewhere = mm.load_model(cpu_offload(adapted(), CPU), tokenizer=tokenizer)
    assert elsewhere.fingerprint == whole.fingerprint
    assert mm.read_depth(elsewhere, few).logprob.equals(mm.read_depth(whole, few).logprob)


def test_a_directory_is_loaded_over_devices(tiny_module, tokenizer, few, tmp_path):
    tiny_module("llama").save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    whole = mm.load_model(tmp_path / "model")
    for number, device_map in enumerate((SPREAD, {"": "disk"})):
        folder = tmp_path / f"weights {number}"
        elsewhere = mm.load_model(tmp_path / "model", device_map=device_map, offload_folder=folder)
        assert elsewhere.fingerprint == whole.fingerprint
        assert mm.read_depth(elsewhere, few).logprob.equals(mm.read_depth(whole, few).logprob)
    with pytest.raises(ModelError, match="offload_folder say how to load"):
        mm.load_model(whole.module, tokenizer=tokenizer, offload_folder=tmp_path)


def test_an_adapter_directory_is_not_put_on_weights_elsewhere(tiny_module, tokenizer, tmp_path):
    tiny_module("llama").save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    wrapped = get_peft_model(tiny_module("llama"), config)
    wrapped.peft_config["default"].base_model_name_or_path = str(tmp_path / "model")
    wrapped.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ModelError, match="An adapter needs all weights on their devices"):
        mm.load_model(tmp_path / "adapter", device_map=SPREAD, offload_folder=tmp_path / "weights")


def test_the_proof_marks_what_is_not_offered(both, few):
    _, elsewhere = both("llama", "some of it")
    checks = {check.name: check for check in prove(elsewhere, few)}
    assert [name for name, check in checks.items() if check.is_needed and not check.passed] == []
    refused = {name: check.why for name, check in checks.items() if not check.passed}
    assert refused.keys() == {"patch ends", "change undone", "projection for editors"}
    assert all("is offloaded" in why for why in refused.values())
