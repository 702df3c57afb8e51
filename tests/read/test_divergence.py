"""Divergence of two states on a text, against whole distributions of plain forward passes."""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
import pytest
import torch

import mechmask as mm
from mechmask.errors import ReadingError
from mechmask.models.corpora import Corpus
from mechmask.read import divergence
from mechmask.read.divergence import read_divergence

TEXTS = ["The capital of France is Paris, that of Italy is Rome.", "Ana met Maria.", "said the king of the birds " * 9]


@torch.no_grad()
def naive(first, second, corpus):
    """KL, both NLLs and agreement of every sequence, from whole distributions."""
    rows = []
    for ids in corpus.sequences:
        p, q = (
            model.module(torch.tensor([ids])).logits[0, corpus.n_left_out - 1 : -1].double().log_softmax(-1)
            for model in (first, second)
        )
        asked = torch.tensor(ids[corpus.n_left_out :])
        kl = torch.nn.functional.kl_div(q, p, log_target=True, reduction="none").sum(-1).mean()
        nll = [-one.gather(1, asked[:, None]).mean() for one in (p, q)]
        rows.append([float(kl), *map(float, nll), float((p.argmax(-1) == q.argmax(-1)).double().mean())])
    return np.array(rows).T


def _require_same(reading, expected):
    found = [reading.kl, *reading.nll, reading.agreement]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.values, other, atol=2e-4)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "opt"])
def test_it_is_the_divergence_of_whole_distributions(tiny, family):
    first, second = tiny(family), tiny(family, seed=1)
    corpus = mm.held_out_text(first, TEXTS)
    reading = read_divergence(first, second, corpus, batch_size=2)
    _require_same(reading, naive(first, second, corpus))
    assert (reading.kl > 0.01).all() and reading.n_tokens.values.tolist() == list(corpus.lengths)


def test_a_state_does_not_diverge_from_itself(tiny):
    model = tiny("llama")
    reading = read_divergence(model, model, mm.held_out_text(model, TEXTS))
    assert (reading.kl == 0).all() and (reading.agreement == 1).all()
    np.testing.assert_array_equal(reading.nll[0], reading.nll[1])


class Shifted:
    """A change of the unembedding, and of the embedding where both are one tensor."""

    method = "shifted"

    @contextmanager
    def applied(self, model):
        weight = model.module.get_output_embeddings().weight
        before = weight.detach().clone()
        with torch.no_grad():
            weight += torch.linspace(-0.3, 0.3, weight.numel()).view_as(weight)
        try:
            yield model
        finally:
            with torch.no_grad():
                weight.copy_(before)


@pytest.mark.parametrize("tied", [True, False])
def test_two_states_share_one_copy_of_the_weights_even_of_the_unembedding(tiny, tied):
    model, other = (tiny("llama", tie_word_embeddings=tied) for _ in range(2))
    corpus = mm.held_out_text(model, TEXTS)
    shifted = mm.Variant(model, Shifted())
    reading = read_divergence(model, shifted, corpus)
    with Shifted().applied(other):
        _require_same(reading, naive(model, other, corpus))
    swapped = read_divergence(shifted, model, corpus)
    np.testing.assert_allclose(swapped.nll.values, reading.nll.values[::-1], atol=1e-6)
    assert (abs(swapped.kl - reading.kl) > 1e-4).any()


def test_a_fine_tuned_state_is_named_and_the_model_left_as_it_was(tiny):
    model, facts = tiny("llama"), mm.synthetic_facts(4, n_never=1, distractors=2, seed=5)
    corpus = mm.held_out_text(model, TEXTS)
    after = mm.finetune(model, facts, mm.FinetuneConfig(steps=3, lr=1e-2, rank=4)).on(model)
    reading = read_divergence(model, after, corpus)
    assert (reading.kl > 0).all()
    assert reading.attrs["model_before"] == model.name and reading.attrs["model"] == after.name
    assert reading.attrs["fingerprint"] != reading.attrs["fingerprint_before"] == model.fingerprint
    assert (read_divergence(after, after, corpus).kl == 0).all()


def test_a_long_text_is_read_in_stretches(tiny, monkeypatch):
    first, second = tiny("gpt2"), tiny("gpt2", seed=1)
    corpus = mm.held_out_text(first, TEXTS)
    whole = read_divergence(first, second, corpus)
    monkeypatch.setattr(divergence, "_KEPT", 70)
    monkeypatch.setattr(divergence, "_ROWS", 7)
    assert len(list(divergence._stretches(corpus))) > 2
    parts = read_divergence(first, second, corpus)
    assert parts.sizes == whole.sizes
    np.testing.assert_allclose(parts.kl, whole.kl, atol=1e-5)


def test_it_agrees_with_the_reading_of_a_text(tiny):
    model = tiny("gemma2")
    corpus = mm.held_out_text(model, TEXTS)
    reading = read_divergence(model, tiny("gemma2", seed=2), corpus)
    np.testing.assert_allclose(reading.nll.sel(state="before"), mm.read_text(model, corpus).nll, atol=1e-5)


def test_nonsense_is_refused(tiny):
    model = tiny("llama")
    corpus = mm.held_out_text(model, TEXTS)
    with pytest.raises(ReadingError, match="no text"):
        read_divergence(model, model, Corpus((), 1, "text"))
    with pytest.raises(ReadingError, match=r"512 tokens before and 600 after"):
        read_divergence(model, tiny("llama", vocab_size=600), corpus)
    broken = tiny("llama")
    with torch.no_grad():
        broken.module.model.norm.weight.fill_(float("nan"))
    with pytest.raises(ReadingError, match="not finite"):
        read_divergence(model, broken, corpus)
