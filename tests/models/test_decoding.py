"""Decoding by chance: tokens are drawn from the likeliest of the plain model's logits, by the seed alone."""

from __future__ import annotations

import pytest
import torch

from mechmask.errors import ModelError
from mechmask.models.decoding import sampled

PROMPTS = [[5, 6, 7], [9, 8, 7, 6, 5, 4], [11]]


def drawn(model, seed=0, n=12, top_k=4, prompts=PROMPTS):
    with model.inference():
        return sampled(model, prompts, n, torch.Generator().manual_seed(seed), top_k)


def test_every_token_is_among_the_likeliest_given_those_before(tiny, family):
    model = tiny(family)
    for prompt, tokens in zip(PROMPTS, drawn(model), strict=True):
        assert len(tokens) == 12
        with torch.no_grad():
            logits = model.module(input_ids=torch.tensor([[*prompt, *tokens]])).logits[0]
        for i, token in enumerate(tokens):
            best = logits[len(prompt) - 1 + i].topk(4)
            assert logits[len(prompt) - 1 + i, token] >= best.values[-1] - 1e-3


def test_draws_follow_the_seed_and_nothing_else(tiny):
    model = tiny("llama")
    first, state = drawn(model), torch.get_rng_state()
    assert drawn(model) == first
    assert drawn(model, seed=1) != first
    assert torch.equal(torch.get_rng_state(), state)


def test_the_likeliest_one_alone_is_greedy_decoding(tiny):
    model = tiny("gpt2")
    for prompt, tokens in zip(PROMPTS, drawn(model, top_k=1), strict=True):
        ids = list(prompt)
        for _ in range(12):
            with torch.no_grad():
                ids.append(int(model.module(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        assert tokens == ids[len(prompt) :]


def test_shares_are_the_probabilities_of_the_model(tiny):
    """Of 4,000 draws of one token, by a chi-squared statistic of 3 degrees of freedom (0.1% point 16.3)."""
    model = tiny("llama")
    tokens = torch.tensor(drawn(model, n=1, prompts=[[5, 6, 7]] * 4000))[:, 0]
    with torch.no_grad():
        best = model.module(input_ids=torch.tensor([[5, 6, 7]])).logits[0, -1].topk(4)
    expected = 4000 * best.values.softmax(-1)
    seen = torch.tensor([(tokens == token).sum() for token in best.indices])
    assert int(seen.sum()) == 4000
    assert float(((seen - expected) ** 2 / expected).sum()) < 16.3


def test_an_output_that_is_not_finite_is_refused(tiny):
    model = tiny("llama")
    with torch.no_grad():
        model.module.model.norm.weight[0] = torch.nan
    with pytest.raises(ModelError, match="not finite"):
        drawn(model)
