"""Weight change against numpy's norms and singular values."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import xarray as xr
from peft import LoraConfig, get_peft_model

import mechmask as mm
from mechmask.errors import ReadingError
from mechmask.read.weights import weight_change


def naive_rank(matrix):
    singular = np.linalg.svd(matrix, compute_uv=False)
    share = singular[singular > 0] / singular.sum()
    return np.exp(-(share * np.log(share)).sum())


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "opt", "gemma2"])
def test_two_models_of_one_shape(tiny, family):
    first, second = tiny(family, seed=1), tiny(family, seed=2)
    found = weight_change(first, second)
    weights = [dict(model.module.named_parameters()) for model in (first, second)]
    prefix = first.anatomy.layout.blocks
    assert set(found.block.values) == set(range(first.n_layers))
    for block in found.block.values:
        squares = np.zeros(2)
        for projection in found.projection.values:
            old, new = (w[f"{prefix}.{block}.{projection}.weight"].detach().double().numpy() for w in weights)
            at = found.sel(block=block, projection=projection)
            assert at.relative_norm.item() == pytest.approx(np.linalg.norm(new - old) / np.linalg.norm(old))
            assert at.effective_rank.item() == pytest.approx(naive_rank(new - old), rel=1e-4)
            squares += [np.square(new - old).sum(), np.square(old).sum()]
        assert found.relative_norm_block.sel(block=block).item() == pytest.approx(np.sqrt(squares[0] / squares[1]))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_unmerged_adapter_counts(tiny, family, facts):
    model = tiny(family)
    config = mm.FinetuneConfig(steps=2, lr=1e-2, rank=2)
    change = mm.finetune(model, facts.install_examples()[:3], config)
    found = weight_change(model, change.on(model))
    assert float(found.effective_rank.max()) <= 2 + 1e-3
    name = "attn.c_attn" if family == "gpt2" else "self_attn.q_proj"
    path = f"{model.anatomy.layout.blocks}.1.{name}"
    down, up = (change.tensors[f"{path}.lora_{side}.weight"].double() for side in "AB")
    added = torch.linalg.norm(up @ down) * change.config.lora_alpha / change.config.r
    old = torch.linalg.norm(dict(model.module.named_parameters())[f"{path}.weight"].detach().double())
    assert found.relative_norm.sel(block=1, projection=name).item() == pytest.approx((added / old).item(), rel=1e-5)


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("use_dora", [False, True])
def test_every_kind_of_adapter_is_what_it_does_to_the_weight(tiny, use_dora, merged):
    model = tiny("llama")
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, use_dora=use_dora)
    torch.manual_seed(0)
    wrapped = get_peft_model(tiny("llama").module, config).eval()
    expected = copy.deepcopy(wrapped).merge_and_unload()
    if merged:
        wrapped.merge_adapter()
    found = weight_change(model, mm.load_model(wrapped, tokenizer=model.tokenizer))
    xr.testing.assert_allclose(found, weight_change(model, mm.load_model(expected, tokenizer=model.tokenizer)), 1e-4)
    assert (found.relative_norm > 0.01).all()


def test_where_nothing_changed_there_is_no_rank(tiny):
    model = tiny("llama")
    found = weight_change(model, model)
    assert (found.relative_norm == 0).all()
    assert found.effective_rank.isnull().all()


def test_models_of_other_shape_are_refused(tiny):
    with pytest.raises(ReadingError, match="two states of one model"):
        weight_change(tiny("llama"), tiny("llama", hidden_size=64))


def test_the_norm_of_a_change_is_that_of_all_its_differences(tiny, facts):
    from mechmask import FinetuneConfig, finetune
    from mechmask.models.states import active
    from mechmask.read.weights import change_norm, effective_weights

    model = tiny("gpt2")
    change = finetune(model, facts, FinetuneConfig(steps=2, lr=1e-2, rank=4))
    before = {name: weight.clone() for name, weight in effective_weights(model)}
    with active(change.on(model)) as changed:
        after = {name: weight.clone() for name, weight in effective_weights(changed)}
    expected = np.linalg.norm(np.concatenate([(after[n] - before[n]).double().numpy().ravel() for n in before]))
    assert change_norm(change.on(model), before) == pytest.approx(expected, rel=1e-6) and expected > 0
    assert change_norm(model, before) == 0
    with pytest.raises(ReadingError, match="differ"):
        change_norm(tiny("llama"), before)
