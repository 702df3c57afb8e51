"""Length: what is beyond the context is refused, and rotary frequencies that follow the length are the model's own."""

from __future__ import annotations

import pytest
import torch

from mechmask.errors import RouteError
from mechmask.models.context import require_context
from mechmask.models.decoding import greedy
from mechmask.models.packing import batches
from mechmask.models.routes import Contest

PROMPT, LONG = 12, 40  # tokens
# head of 8 dimensions: 4 frequencies, of which the long ones turn far slower
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [1.5, 4.0, 9.0, 20.0]}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0}


@pytest.fixture
def longrope(tiny):
    """Frequencies change above 24 tokens."""
    return tiny("phi3", rope_parameters=LONGROPE, original_max_position_embeddings=24, max_position_embeddings=96)


@pytest.fixture
def dynamic(tiny):
    return tiny("llama", rope_parameters=DYNAMIC, max_position_embeddings=24)


def contest(n_prompt, n_value=3, label="x", seed=0):
    generator = torch.Generator().manual_seed(n_prompt + 1000 * seed)
    prompt, old, new = (torch.randint(5, 400, (n,), generator=generator).tolist() for n in (n_prompt, n_value, n_value))
    old[0], new[0] = 401, 402
    return Contest(label, tuple(prompt), {"old": tuple(old), "new": tuple(new)}, 0, None)


def plain(model, ids):
    """The logits after a sequence by a pass of its own."""
    with model.inference():
        return model.module(torch.tensor([ids]), use_cache=False).logits[0].log_softmax(-1)


def by_batches(model, contests, **options):
    """Sequence log-probability of every route, read as a reading does."""
    totals = {}
    with model.inference():
        for batch in batches(contests, score="sequence", **options):
            hidden = model.anatomy.decoder(**batch.inputs(model.device, model.dtype)).last_hidden_state
            logits = model.anatomy.unembedding(hidden[batch.rows, batch.columns])
            logprobs = model.anatomy.given_out(logits).log_softmax(-1)
            for query in batch.queries:
                cell = query.contest, query.route
                totals[cell] = totals.get(cell, 0) + logprobs[query.node, query.token].item()
    return totals


def one_by_one(model, contests):
    totals = {}
    for index, one in enumerate(contests):
        for route, ids in one.routes.items():
            logprobs = plain(model, [*one.prompt, *ids[:-1]])[len(one.prompt) - 1 :]
            totals[index, route] = sum(logprobs[i, token].item() for i, token in enumerate(ids))
    return totals


@pytest.mark.parametrize("pack", [True, False])
def test_longrope_reads_each_as_it_would_be_read_alone(longrope, pack):
    contests = [contest(n, seed=i) for i, n in enumerate((PROMPT, LONG, 9, 30, PROMPT, 22))]
    require_context(longrope, contests)
    wanted = one_by_one(longrope, contests)
    values = by_batches(longrope, contests, pack=pack, threshold=longrope.rope_threshold)
    assert values == pytest.approx(wanted, abs=1e-4)
    careless = by_batches(longrope, contests, pack=pack)
    assert max(abs(careless[cell] - wanted[cell]) for cell in wanted) > 0.05


def test_dynamic_frequencies_below_their_length(dynamic):
    contests = [contest(n, seed=i) for i, n in enumerate((PROMPT, 20, 9, 21))]
    require_context(dynamic, contests)
    wanted = one_by_one(dynamic, contests)
    plain(dynamic, list(range(5, 70)))  # a long text that the user reads in between moves transformers' frequencies
    values = by_batches(dynamic, contests, threshold=dynamic.rope_threshold)
    assert values == pytest.approx(wanted, abs=1e-4)


def test_dynamic_frequencies_beyond_it_are_refused(dynamic):
    assert dynamic.rope_threshold == 24 and dynamic.max_tokens == 23
    require_context(dynamic, [contest(21)])
    with pytest.raises(RouteError, match=r"Fact 'x' takes 24 tokens .* reads 23 at most. Shorten"):
        require_context(dynamic, [contest(22)])


def test_the_fingerprint_does_not_follow_what_was_read_last(longrope, dynamic):
    for model in (longrope, dynamic):
        before = model.fingerprint
        plain(model, list(range(5, 70)))
        assert model.fingerprint == before
        plain(model, [5, 6, 7])
        assert model.fingerprint == before


def test_routes_on_both_sides_of_the_threshold(longrope):
    assert longrope.rope_threshold == 24
    one = contest(23)
    assert {len(one.prompt) + len(ids) - 1 for ids in one.routes.values()} == {25}
    require_context(longrope, [one])
    uneven = Contest("uneven", one.prompt, {"old": (401,), "new": (402, 7, 8)}, 0, None)
    require_context(longrope, [uneven], "divergence")
    with pytest.raises(RouteError, match="'uneven' end on both sides of token 24"):
        require_context(longrope, [uneven])


def test_the_context_of_every_family(tiny, family):
    """Its last token can be read; the first beyond it is refused, with length and limit; all facts in one message."""
    model = tiny(family, **{"n_positions" if family in ("gpt2", "gptj") else "max_position_embeddings": 32})
    assert model.max_tokens == 32
    fits, too_long, far_too_long = contest(30), contest(31, label="y"), contest(60, label="z")
    require_context(model, [fits, None])
    assert by_batches(model, [fits]) == pytest.approx(one_by_one(model, [fits]), abs=1e-3)
    with pytest.raises(RouteError) as caught:
        require_context(model, [fits, too_long, None, far_too_long])
    assert "'y' takes 33 tokens" in str(caught.value) and "'z' takes 62 tokens" in str(caught.value)
    assert "'x'" not in str(caught.value) and "reads 32 at most" in str(caught.value)
    require_context(model, [too_long], "divergence")


def argmax_loop(model, prompt, n):
    ids = list(prompt)
    for _ in range(n):
        ids.append(int(plain(model, ids)[-1].argmax()))
    return ids[len(prompt) :]


@pytest.mark.parametrize("n", [[1, 8, 3, 20, 5], [4, 4, 4, 4, 4]])
def test_greedy_is_the_argmax_loop(tiny, n):
    model = tiny("gemma2", sliding_window=8)
    prompts = [contest(length).prompt for length in (3, 9, 1, 14, 9)]
    with model.inference():
        tokens = greedy(model, prompts, n)
    assert tokens == [argmax_loop(model, prompt, wanted) for prompt, wanted in zip(prompts, n, strict=True)]


def test_greedy_across_the_threshold(longrope):
    """Below it, above it, and through it, where the cache's keys are turned by the other frequencies."""
    prompts = [contest(length).prompt for length in (5, 40, 20, 24, 25, 23)]
    n = [6, 6, 12, 4, 4, 9]
    with longrope.inference():
        tokens = greedy(longrope, prompts, n)
    assert tokens == [argmax_loop(longrope, prompt, wanted) for prompt, wanted in zip(prompts, n, strict=True)]
