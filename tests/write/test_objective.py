"""The loss on a value's tokens and its gradients, packed or not, equal each example read alone by the plain model."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from mechmask import Example
from mechmask.models.routes import EncodedExample, encode_examples
from mechmask.write.objective import nll, packed_targets, target_nll, targets

LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.5, 4.0, 9.0, 20.0]}


def _packed(model, encoded):
    return packed_targets(model, encoded)


def _in_rows(_model, encoded):
    return [targets(encoded)]


def _nll_by_example(model, passes, n):
    """Of every example's tokens, in the order of its value."""
    together = [target_nll(model, asked) for asked in passes]
    return [torch.cat([nll[asked.owner == i] for nll, asked in zip(together, passes, strict=True)]) for i in range(n)]


def _alone(model, encoded):
    """Of one example, by the plain model's logits."""
    whole = torch.tensor([[*encoded.prompt, *encoded.value]])
    logprobs = model.module(input_ids=whole, use_cache=False).logits[0].log_softmax(-1)
    n = len(encoded.prompt)
    return torch.stack([-logprobs[n - 1 + i, token] for i, token in enumerate(encoded.value)])


def _gradients(model, nll):
    parameters = list(model.module.parameters())
    return torch.autograd.grad(nll.mean(), parameters, allow_unused=True)


def _random(lengths):
    """Examples of so many tokens whose prompts begin alike, each with a value of two tokens of its own."""
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(5, 400, (max(lengths),), generator=generator).tolist()
    return [EncodedExample(f"of {n}", tuple(prompt[: n - 1]), (401 + i, 411 + i)) for i, n in enumerate(lengths)]


@pytest.mark.parametrize("form", [_packed, _in_rows])
def test_targets_of_a_batch_equal_each_example_alone(tiny, family, facts, tokenizer, form):
    model = tiny(family)
    examples = facts.contradiction_examples()
    encoded = encode_examples(tokenizer, examples)
    passes = form(model, encoded)
    assert all(asked.labels == tuple(example.fact_id for example in examples) for asked in passes)
    with torch.no_grad():
        together = _nll_by_example(model, passes, len(encoded))
        for one, mine in zip(encoded, together, strict=True):
            alone = _alone(model, one)
            assert mine.shape == alone.shape
            assert torch.allclose(mine, alone, atol=2e-4), one


def test_gradients_of_packed_examples_are_those_of_each_alone(tiny, family, facts, tokenizer):
    """Of every weight, the embedding too, which meets a shared beginning once for all who share it."""
    model = tiny(family)
    encoded = encode_examples(tokenizer, facts.select(facts.ids[:5]).contradiction_examples(3))
    (asked,) = packed_targets(model, encoded)
    assert len(asked.batch.input_ids) < len(encoded)
    mine = _gradients(model, target_nll(model, asked))
    wanted = _gradients(model, torch.cat([_alone(model, one) for one in encoded]))
    reached = 0
    for (name, _), gradient, alone in zip(model.module.named_parameters(), mine, wanted, strict=True):
        assert (gradient is None) == (alone is None), name
        if alone is not None:
            reached += 1
            assert (gradient - alone).norm() <= 2e-4 * alone.norm() + 1e-6, name
    assert reached > 10


def test_one_prompt_with_several_values_is_read_once(tiny, tokenizer):
    model = tiny("llama")
    prompt = "The capital of France is"
    encoded = encode_examples(tokenizer, [Example(prompt=prompt, value=v) for v in ("Paris", "Rome", "Rome", "Madrid")])
    (asked,) = packed_targets(model, encoded)
    paths = {e.prompt[:n] for e in encoded for n in range(1, len(e.prompt) + 1)}
    paths |= {e.prompt + e.value[:n] for e in encoded for n in range(1, len(e.value))}
    assert asked.batch.input_ids.shape == (1, len(paths))
    with torch.no_grad():
        for one, mine in zip(encoded, _nll_by_example(model, [asked], 4), strict=True):
            assert torch.allclose(mine, _alone(model, one), atol=2e-4)


def test_examples_on_either_side_of_a_rope_threshold_do_not_meet(tiny):
    """A long one in the batch would have the short ones read by its rotary frequencies."""
    model = tiny("phi3", rope_parameters=LONGROPE, original_max_position_embeddings=24, max_position_embeddings=96)
    encoded = _random((12, 40, 9, 30, 22))
    passes = packed_targets(model, encoded)
    assert [sorted(set(asked.owner.tolist())) for asked in passes] == [[0, 2, 4], [1, 3]]
    with torch.no_grad():
        for one, mine in zip(encoded, _nll_by_example(model, passes, len(encoded)), strict=True):
            assert torch.allclose(mine, _alone(model, one), atol=2e-4), one.fact_id


@pytest.mark.parametrize(("window", "shares"), [(8, False), (16, True)])
def test_examples_longer_than_a_window_have_rows_of_their_own(tiny, window, shares):
    model = tiny("gemma2", sliding_window=window)
    encoded = _random((12, 10, 9, 11))
    (asked,) = packed_targets(model, encoded)
    assert (len(asked.batch.input_ids) < len(encoded)) == shares
    with torch.no_grad():
        for one, mine in zip(encoded, _nll_by_example(model, [asked], len(encoded)), strict=True):
            assert torch.allclose(mine, _alone(model, one), atol=2e-4), one.fact_id


def test_packed_examples_on_smollm2(smol):
    from mechmask import synthetic_facts

    encoded = encode_examples(smol.tokenizer, synthetic_facts(6, seed=2).contradiction_examples(2))
    passes = packed_targets(smol, encoded)
    with smol.inference():
        for one, mine in zip(encoded, _nll_by_example(smol, passes, len(encoded)), strict=True):
            assert torch.allclose(mine, _alone(smol, one), atol=5e-4), one.fact_id


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_the_gradient_at_the_logits_is_that_of_cross_entropy(tiny, family):
    """Of many rows, with and without a softcap, where tokens are all but certain and all but impossible."""
    anatomy = tiny(family).anatomy
    generator = torch.Generator().manual_seed(1)
    normed = 40 * torch.randn(64, 32, generator=generator)
    logits = anatomy.given_out(anatomy.unembedding(normed))
    tokens = torch.cat([logits[:20].argmax(-1), logits[20:40].argmin(-1), torch.randint(0, 400, (24,))])
    weights = torch.rand(64, generator=generator)
    outcomes = []
    for loss_of in (nll, lambda a, x, t: cross_entropy(a.given_out(a.unembedding(x)), t, reduction="none")):
        start = normed.clone().requires_grad_()
        losses = loss_of(anatomy, start, tokens)
        (losses * weights).sum().backward()
        outcomes.append((losses.detach(), start.grad))
    for mine, wanted in zip(*outcomes, strict=True):
        assert torch.allclose(mine, wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max())


def test_a_second_way_back_is_refused(tiny):
    """The logits are their gradient by then."""
    losses = nll(tiny("llama").anatomy, torch.randn(3, 32, requires_grad=True), torch.tensor([5, 6, 7]))
    losses.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        losses.sum().backward()


def test_logits_that_are_no_numbers_give_a_loss_that_is_none(tiny):
    normed = torch.zeros(2, 32)
    normed[1, 3] = torch.nan
    losses = nll(tiny("llama").anatomy, normed, torch.tensor([5, 6]))
    assert losses.isfinite().tolist() == [True, False]
