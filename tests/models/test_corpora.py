"""Text that is given, and text that a model samples from itself."""

from __future__ import annotations

import copy

import pytest
import torch

from mechmask.errors import ReadingError
from mechmask.models.corpora import sampled_corpus, text_corpus
from mechmask.read.lenses.divergence import Readout


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_sampled_text_is_a_function_of_the_seed_and_follows_the_model(tiny, family):
    model = tiny(family)
    model = type(model)(model.module, model.tokenizer, model.anatomy, model.name)
    readout, ticks = Readout(model.anatomy), []
    state = torch.random.get_rng_state()
    first, again, other = (sampled_corpus(model, readout.logits, 2048, seed, ticks.append) for seed in (0, 0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert first == again != other
    assert {len(ids) for ids in first.sequences} == {64} and len(first.sequences) == 32
    assert first.n_left_out == 1 and ticks
    ids = torch.tensor(first.sequences)
    with torch.no_grad():
        logprobs = model.module(ids).logits[:, :-1].log_softmax(-1)
    surprise = logprobs.gather(-1, ids[:, 1:, None])[..., 0] + -(logprobs.exp() * logprobs).sum(-1)
    error = surprise.std() / surprise.numel() ** 0.5
    assert abs(surprise.mean()) < 4 * error, "mean log-probability of sampled tokens is minus the entropy"
    assert error < 0.1


def test_text_is_cut_after_what_the_tokenizer_puts_before(tiny_module, bos_tokenizer, tmp_path):
    from mechmask import load_model

    model = load_model(tiny_module("llama"), tokenizer=copy.deepcopy(bos_tokenizer))
    text = "The capital of France is Paris, that of Italy is Rome. " * 30
    ids = bos_tokenizer(text, add_special_tokens=False).input_ids
    corpus = text_corpus(model, [text], 200)
    assert all(sequence[0] == bos_tokenizer.bos_token_id for sequence in corpus.sequences)
    assert [token for sequence in corpus.sequences for token in sequence[1:]] == ids[:200]
    assert max(map(len, corpus.sequences)) == 64 and sum(corpus.lengths) == 200
    path = tmp_path / "text.txt"
    path.write_text(text, encoding="utf-8")
    assert text_corpus(model, path, 200) == text_corpus(model, str(path), 200) == corpus
    path.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ReadingError, match="cannot be read as text"):
        text_corpus(model, path, 200)


def test_what_is_no_text_is_refused_in_one_sentence(tiny, tmp_path):
    model = tiny("llama")
    for texts in (["Paris", 3], ["a lone \ud800"], [b"Paris"], [None]):
        with pytest.raises(ReadingError, match="cannot be written as UTF-8"):
            text_corpus(model, texts, 200)
    for path in (tmp_path / "none.txt", tmp_path, "a\0b", "A text in place of a path. " * 200):
        with pytest.raises(ReadingError, match="cannot be read as text") as caught:
            text_corpus(model, path, 200)
        assert len(str(caught.value)) < 500
    assert text_corpus(model, ["Paris \0 Rome"] * 9, 12).lengths
