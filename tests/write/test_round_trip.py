"""Rounded models: those of plain torch, undone bit for bit, merged adapters, saved without a tensor."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import PeftModel, get_peft_model

import mechmask as mm
from mechmask.errors import ChangeError
from mechmask.write.round_trip import RoundTrip, round_trip
from mechmask.write.rounding import PRECISIONS, rounded

FAST = mm.FinetuneConfig(steps=2, lr=1e-2, rank=2)


def rounded_by_hand(module, precision):
    """A copy of a plain module with every linear map below its blocks rounded."""
    module = copy.deepcopy(module)
    with torch.no_grad():
        for name, child in module.named_modules():
            below_blocks = any(part.isdigit() for part in name.split("."))
            if below_blocks and type(child).__name__ in ("Linear", "Conv1D"):
                weight = child.weight.T if type(child).__name__ == "Conv1D" else child.weight
                new = rounded(weight.contiguous(), precision)
                child.weight.copy_(new.T if type(child).__name__ == "Conv1D" else new)
    return module


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_model_computes_with_the_rounded_maps_and_is_put_back(tiny, family, precision, logits_of, traced):
    model = tiny(family)
    before, wanted = traced(model.module), logits_of(rounded_by_hand(model.module, precision))
    change = round_trip(model, precision)
    assert traced(model.module) == before
    with change.applied(model):
        assert torch.equal(logits_of(model), wanted)
        inside = {name for name, bits in traced(model.module)["bits"].items() if bits != before["bits"][name]}
        assert all(any(part.isdigit() for part in name.split(".")) and name.endswith("weight") for name in inside)
    assert traced(model.module) == before
    assert change.blocks == tuple(range(model.n_layers))
    assert (change.method, change.details["n_maps"]) == (precision, len(inside))


@pytest.mark.parametrize("method", ["lora", "dora"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_adapter_is_merged_into_what_is_rounded(tiny, facts, family, method, logits_of, traced):
    model = tiny(family)
    adapter = mm.finetune(model, facts[:3].contradiction_examples(), FAST.model_copy(update={"method": method}))
    before = traced(model.module)
    with adapter.applied(model):
        adapted = traced(model.module)
        merged = get_peft_model(copy.deepcopy(tiny(family).module), adapter.config)
        merged.load_state_dict(
            {n: p for n, p in model.module.named_parameters() if "lora_" in n}
            | {f"base_model.model.{n}": p for n, p in model.module.named_parameters() if "lora_" in n},
            strict=False,
        )
        assert isinstance(merged, PeftModel)
        plain = merged.double().merge_and_unload().float().eval()
        change = round_trip(model, "int8")
        assert traced(model.module) == adapted
        with change.applied(model):
            torch.testing.assert_close(logits_of(model), logits_of(rounded_by_hand(plain, "int8")), rtol=0, atol=1e-6)
            for layer in model.module.modules():
                assert getattr(layer, "disable_adapters", True)
        assert traced(model.module) == adapted
    assert traced(model.module) == before


def test_it_goes_on_a_state_of_several_changes(tiny, facts, logits_of):
    model = tiny("llama")
    state = mm.finetune(model, facts[:3].contradiction_examples(), FAST).on(model)
    edited = mm.edit(state, facts[:1], config=mm.FTLConfig(layer=1, clamp=0.05, steps=2)).on(state)
    once = round_trip(edited, "nf4").on(edited)
    reading = mm.read_logits(once, facts)
    assert once.name.endswith("+ nf4") and reading.attrs["model"] == once.name
    assert not reading.logprob.equals(mm.read_logits(edited, facts).logprob)
    depth = mm.read_depth(once, facts)
    assert depth.layer[-1] == model.n_layers


def test_once_more_changes_nothing_and_says_so(tiny):
    model = tiny("llama")
    for precision in PRECISIONS:
        once = round_trip(model, precision).on(model)
        with pytest.raises(ChangeError, match=rf"round trip through {precision} changes nothing.*Read the model as"):
            round_trip(once, precision)
    with pytest.raises(ChangeError, match="changes nothing"):
        round_trip(tiny("llama", torch.bfloat16), "bfloat16")


def test_what_it_moved_is_told(tiny):
    model = tiny("qwen2")
    errors = {precision: round_trip(model, precision).details["relative_error"] for precision in PRECISIONS}
    assert 0 < errors["bfloat16"] < 1 / 256 < errors["int8"] < 0.02 < errors["nf4"] < 0.152


def test_it_is_refused_on_another_model_and_under_an_adapter(tiny, facts, traced):
    model = tiny("llama")
    change = round_trip(model, "int8")
    adapter = mm.finetune(model, facts[:2].contradiction_examples(), FAST)
    with pytest.raises(ChangeError, match="not those that this change was made on"), change.applied(tiny("gpt2")):
        pytest.fail("applied")
    with adapter.applied(model):
        before = traced(model.module)
        with pytest.raises(ChangeError, match="an adapter is on"), change.applied(model):
            pytest.fail("applied")
        assert traced(model.module) == before


def test_it_is_undone_when_the_body_raises(tiny, facts, traced):
    model = tiny("llama")
    adapter = mm.finetune(model, facts[:2].contradiction_examples(), FAST)
    with adapter.applied(model):
        before, change = traced(model.module), round_trip(model, "nf4")
        with pytest.raises(KeyboardInterrupt), change.applied(model):
            raise KeyboardInterrupt
        assert traced(model.module) == before


def test_a_saved_one_holds_no_tensor_and_rounds_to_the_same_bits(tiny, tmp_path, traced):
    model = tiny("phi")
    change = round_trip(model, "nf4")
    change.save(tmp_path / "rounded")
    assert not list((tmp_path / "rounded").glob("*.safetensors"))
    loaded = mm.load_change(tmp_path / "rounded")
    assert isinstance(loaded, RoundTrip)
    assert (loaded.base, loaded.blocks, loaded.details) == (change.base, change.blocks, change.details)
    with change.applied(model):
        wanted = traced(model.module)
    with loaded.applied(model):
        assert traced(model.module) == wanted


@pytest.mark.parametrize(("old", "new"), [('"nf4"', '"nf5"'), ('"blocks": [', '"blocks": ["x", ')])
def test_a_damaged_one_is_refused(tiny, tmp_path, old, new):
    round_trip(tiny("llama"), "nf4").save(tmp_path / "rounded")
    path = tmp_path / "rounded" / "change.json"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ChangeError, match="rounded"):
        mm.load_change(tmp_path / "rounded")


def test_a_weight_that_is_no_number_is_refused(tiny, traced):
    model = tiny("llama")
    with torch.no_grad():
        model.anatomy.mlp_output(1).weight[0, 0] = float("inf")
    before = traced(model.module)
    with pytest.raises(ChangeError, match=r"model\.layers\.1\.mlp\.down_proj has a value that is not a finite"):
        round_trip(model, "int8")
    assert traced(model.module) == before


@pytest.mark.parametrize("precision", ["float32", "int4"])
def test_another_precision_is_refused_before_any_work(tiny, precision):
    with pytest.raises(ChangeError, match=r"not rounded to .*For float32, read the model as it is"):
        round_trip(tiny("llama"), precision)
