"""KL and its gradient against autograd, the hash of an unembedding against tuned-lens."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tuned_lens.utils import tensor_hash

from mechmask.read.lenses import divergence
from mechmask.read.lenses.divergence import Readout, unembedding_hash


@pytest.mark.parametrize("rows", [None, 3])
@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "phi"])
def test_kl_and_its_gradient_are_those_of_autograd(tiny, naive_kl, some_residuals, monkeypatch, family, rows):
    """RMSNorm, LayerNorm, a softcap, an unembedding with bias; whole, and in blocks that do not divide evenly."""
    model = tiny(family)
    if rows is not None:
        monkeypatch.setattr(divergence, "_LOGITS", rows * model.vocab_size)
    final, carried = some_residuals(model)
    readout = Readout(model.anatomy)
    target = readout.target(final)
    naive = naive_kl(model, final, carried)
    np.testing.assert_allclose(readout.kl(carried, target), naive.detach(), atol=1e-5)
    assert naive.min() > 0.01
    np.testing.assert_allclose(readout.kl(final, target), 0, atol=1e-5)

    normed = readout.norm(carried).detach()
    leaf = normed.clone().requires_grad_(True)
    head = model.module.get_output_embeddings()
    logits = head(leaf)
    cap = model.anatomy.softcap
    logits = logits if cap is None else cap * torch.tanh(logits / cap)
    p = naive_target(model, final)
    (p * (p.log() - logits.log_softmax(-1))).sum(-1).mean().backward()
    np.testing.assert_allclose(readout.gradient(normed, target), leaf.grad, atol=1e-6)


def naive_target(model, final):
    with torch.no_grad():
        logits = model.module.get_output_embeddings()(model.anatomy.final_norm(final))
        cap = model.anatomy.softcap
        return (logits if cap is None else cap * torch.tanh(logits / cap)).softmax(-1)


def test_the_hash_is_that_of_tuned_lens(tiny):
    for family in ("llama", "gpt2"):
        weight = tiny(family).module.get_output_embeddings().weight.detach()
        with np.printoptions(precision=3):
            assert unembedding_hash(weight) == tensor_hash(weight.numpy())
    with np.printoptions(threshold=10**9):
        assert unembedding_hash(weight) != tensor_hash(weight.numpy())
        ours = unembedding_hash(weight)
    assert ours == tensor_hash(weight.numpy())
