"""Contexts against sampling written naively: whole texts through the plain model, a token at a time."""

from __future__ import annotations

import copy

import pytest
import torch

from mechmask import load_model
from mechmask.write.contexts import _texts, contexts_of_lengths, contexts_of_starts, in_context


def naive(module, rows, n, generator):
    """Tokens behind each row, from the five likeliest at temperature 1."""
    rows = [list(row) for row in rows]
    for _ in range(n):
        with torch.no_grad():
            logits = torch.stack([module(input_ids=torch.tensor([row])).logits[0, -1] for row in rows])
        best = logits.topk(5)
        choice = torch.multinomial(best.values.softmax(-1), 1, generator=generator)
        for row, token in zip(rows, best.indices.gather(1, choice)[:, 0].tolist(), strict=True):
            row.append(token)
    return rows


def said(tokenizer, rows):
    return tuple(" ".join(tokenizer.decode(row, skip_special_tokens=True).split()) for row in rows)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2"])
def test_contexts_of_rome_begin_a_document_which_counts_as_a_token(tiny, family):
    model = tiny(family)
    bos = model.tokenizer.bos_token_id
    assert bos != model.tokenizer.eos_token_id
    generator = torch.Generator().manual_seed(3)
    wanted = []
    for length, n in ((4, 3), (7, 2)):
        rows = naive(model.module, [[bos]] * n, length - 1, generator)
        assert all(len(row) == length for row in rows)
        wanted += said(model.tokenizer, rows)
    assert contexts_of_lengths(model, ((4, 3), (7, 2)), seed=3) == tuple(wanted)
    assert contexts_of_lengths(model, ((4, 3), (7, 2)), seed=4) != tuple(wanted)


@pytest.mark.parametrize("kind", ["tokenizer", "bos_tokenizer"])
@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_contexts_of_memit_go_on_from_first_words_to_a_length(tiny_module, family, kind, request):
    model = load_model(tiny_module(family), tokenizer=copy.deepcopy(request.getfixturevalue(kind)))
    starts = ("The king of the birds", "No", "Maria")
    begun = model.tokenizer(list(starts))["input_ids"]
    shortest = min(map(len, begun))
    rows = naive(model.module, begun, 9 - shortest, torch.Generator().manual_seed(5))
    assert min(map(len, rows)) == 9
    assert contexts_of_starts(model, starts, 9, seed=5) == said(model.tokenizer, rows)
    assert contexts_of_starts(model, (), 9, seed=5) == ()


def test_a_text_that_would_be_read_as_a_special_token_is_left_out(tiny, tokenizer):
    spelled = [tokenizer(piece)["input_ids"] for piece in ("Maria <", "/", "s", ">")]
    row = [token for ids in spelled for token in ids]
    assert tokenizer.decode(row) == "Maria </s>"
    good = tokenizer("Maria met Peter")["input_ids"]
    assert _texts(tiny("llama"), [good, row, [tokenizer.bos_token_id]]) == ("Maria met Peter",)


def test_a_prompt_stands_behind_a_full_stop():
    assert in_context("France is", "No") == "No. France is"
    assert in_context("France is", "") == "France is"


def test_a_context_goes_on_from_its_first_words_and_not_from_the_end_of_a_text(
    tiny_module, bos_tokenizer, bos_eos_tokenizer
):
    """A tokenizer that ends each text with a token of its own (add_eos_token) begins contexts as any other."""
    begun, ended = (
        contexts_of_starts(load_model(tiny_module("llama"), tokenizer=copy.deepcopy(kind)), ("The king", "No"), 8, 0)
        for kind in (bos_tokenizer, bos_eos_tokenizer)
    )
    assert begun == ended
