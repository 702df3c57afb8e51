"""Residual drift against plain transformers hooks, a prompt at a time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mechmask as mm
from mechmask.errors import ReadingError
from mechmask.measure.cka import linear_cka
from mechmask.read.drift import change_cosine, residual_drift


@torch.no_grad()
def naive_residuals(model, facts, oracle):
    """``[fact, layer, width]`` where old and new diverge, by hooks on an unpadded row."""
    seen = []

    def keep(_, args, kwargs):
        seen.append((args[0] if args else kwargs["hidden_states"])[0, -1].double())

    watched = [*model.anatomy.blocks, model.anatomy.final_norm]
    hooks = [module.register_forward_pre_hook(keep, with_kwargs=True) for module in watched]
    for fact in facts:
        ids = oracle.ids(fact.prompt) + oracle.value_ids(fact, "old")[: oracle.diverging(fact)]
        model.module(torch.tensor([ids]))
    for hook in hooks:
        hook.remove()
    return torch.stack(seen).reshape(len(facts), len(watched), -1).numpy()


def naive_cosine(first, second):
    return (first * second).sum(-1) / np.linalg.norm(first, axis=-1) / np.linalg.norm(second, axis=-1)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama", "gemma2"])
def test_two_models(tiny, family, facts, plain):
    first, second = tiny(family, seed=1), tiny(family, seed=2)
    found = residual_drift(first, second, facts)
    own, other = (naive_residuals(model, facts, plain(model)) for model in (first, second))
    np.testing.assert_allclose(
        found.drift, np.linalg.norm(other - own, axis=-1) / np.linalg.norm(own, axis=-1), rtol=1e-4
    )
    np.testing.assert_allclose(found.cosine, naive_cosine(own, other), atol=1e-4)
    expected = [linear_cka(own[:, layer], other[:, layer]) for layer in range(first.n_layers + 1)]
    np.testing.assert_allclose(found.cka, expected, atol=1e-3)
    assert found.attrs["fingerprint"] != found.attrs["fingerprint_after"]


def test_two_changes_of_one_copy_of_the_weights(tiny, facts, plain):
    model = tiny("llama")
    examples = facts.install_examples()
    config = mm.FinetuneConfig(steps=2, lr=1e-2, rank=2)
    one, two = mm.finetune(model, examples[:3], config), mm.finetune(model, examples[3:6], config)
    found = change_cosine(model, one.on(model), two.on(model), facts)
    base = naive_residuals(model, facts, plain(model))
    moved = []
    for change in (one, two):
        with change.applied(model):
            moved.append(naive_residuals(model, facts, plain(model)) - base)
    moved = [difference[:, 1:] for difference in moved]
    np.testing.assert_allclose(found.cosine[:, 1:], naive_cosine(*moved), atol=1e-3)
    assert found.cosine[:, 0].isnull().all(), "no adapter is on the embedding"
    np.testing.assert_allclose(change_cosine(model, one.on(model), one.on(model), facts).cosine[:, 1:], 1, atol=1e-6)


def test_few_facts_have_no_cka(tiny, facts):
    model = tiny("llama")
    assert residual_drift(model, tiny("llama", seed=1), facts[:3]).cka.isnull().all()


def test_bad_input_is_refused(tiny, facts):
    with pytest.raises(ReadingError, match="differ in shape"):
        residual_drift(tiny("llama"), tiny("llama", num_hidden_layers=2), facts)
    with pytest.raises(ReadingError, match="no fact"):
        residual_drift(tiny("llama"), tiny("llama"), [])
