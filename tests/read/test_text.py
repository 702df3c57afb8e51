"""Cost on running text against transformers' own loss, sequence by sequence."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import mechmask as mm
from mechmask.errors import ReadingError
from mechmask.models.corpora import Corpus
from mechmask.read.text import held_out_text, read_text

TEXTS = ["The capital of France is Paris, that of Italy is Rome.", "Ana met Maria.", "said the king of the birds " * 9]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "opt"])
def test_it_is_the_loss_of_transformers_on_each_sequence(tiny, family):
    model = tiny(family)
    corpus = held_out_text(model, TEXTS)
    found = read_text(model, corpus, batch_size=2)
    assert found.sizes["sequence"] == len(corpus.sequences) > 3 and len(set(corpus.lengths)) > 1
    for i, ids in enumerate(corpus.sequences):
        row = torch.tensor([ids])
        with torch.no_grad():
            loss = model.module(input_ids=row, labels=row, use_cache=False).loss
        assert float(found.nll[i]) == pytest.approx(float(loss), abs=1e-4)
        assert int(found.n_tokens[i]) == len(ids) - 1


def test_special_tokens_before_a_text_are_seen_and_not_asked_for(tiny_module, bos_tokenizer):
    model = mm.load_model(tiny_module("llama"), tokenizer=bos_tokenizer)
    corpus = held_out_text(model, TEXTS[:1])
    (ids,) = corpus.sequences
    assert ids[0] == bos_tokenizer.bos_token_id and corpus.n_left_out == 1
    assert int(read_text(model, corpus).n_tokens[0]) == len(ids) - 1


def test_sampled_text_is_the_same_for_a_seed_and_most_likely_for_the_model_itself(tiny, tiny_module):
    model = tiny("llama")
    corpus = held_out_text(model, n_tokens=512, seed=3)
    assert corpus == held_out_text(model, n_tokens=512, seed=3) != held_out_text(model, n_tokens=512, seed=4)
    assert corpus.source == "model"
    own, others = read_text(model, corpus).nll.mean(), read_text(tiny("llama", seed=1), corpus).nll.mean()
    assert own < others


def test_a_state_is_read_with_its_change_on(tiny):
    model, facts = tiny("llama"), mm.synthetic_facts(4, n_never=1, distractors=2, seed=5)
    corpus = held_out_text(model, TEXTS)
    change = mm.finetune(model, facts, mm.FinetuneConfig(steps=3, lr=1e-2, rank=4))
    before, after = read_text(model, corpus), read_text(change.on(model), corpus)
    assert abs(after.nll - before.nll).max() > 0.01
    np.testing.assert_array_equal(read_text(model, corpus).nll, before.nll)


def test_too_little_text_and_a_broken_model_are_refused(tiny):
    model = tiny("llama")
    with pytest.raises(ReadingError, match="fewer than two tokens"):
        held_out_text(model, ["a"])
    with pytest.raises(ReadingError, match="cannot be read as text"):
        held_out_text(model, "no-such-file.txt")
    with torch.no_grad():
        model.module.model.norm.weight.fill_(float("nan"))
    with pytest.raises(ReadingError, match="not finite"):
        read_text(model, Corpus(((1, 2, 3),), 1, "text"))
