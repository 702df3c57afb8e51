"""Whether an edit took: the contest of each edited fact right after it, and what greedy decoding says now.

An edit that did not take changes nothing worth judging, so every change that ``edit`` returns carries this.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mechmask.facts.fact import Fact
from mechmask.models.decoding import greedy
from mechmask.models.model import Model
from mechmask.models.routes import Contest, EncodedExample, encode_contests
from mechmask.write.objective import target_nll, targets

_ROWS = 64  # prompts per forward pass; affects memory only


def outcomes(model: Model, facts: Sequence[Fact]) -> list[dict[str, Any]]:
    """What became of each fact, as JSON values, in the order of the facts.

    Args:
        model: the model with the edit on.
        facts: the facts that were edited.

    Returns:
        For each fact its ``id``; ``took``: whether the new value leads, that is, whether its log-probability, summed
        over its tokens, is above that of the old value and of every distractor; ``logp_new`` and ``logp_old``, so
        summed, and ``margin``, their difference, in nats; ``loss_nats``: of the new value, a token; ``says``: the
        greedy continuation of the prompt, as long as the longer of the two values.
    """
    contests = [contest for contest in encode_contests(model.tokenizer, facts) if contest is not None]
    rows = [EncodedExample(c.fact_id, c.prompt, value) for c in contests for value in c.routes.values()]
    with model.inference():
        logprobs = iter(_all_logprobs(model, rows))
        continuations = _continuations(model, contests)
    records = []
    for contest, text in zip(contests, continuations, strict=True):
        logp = {route: next(logprobs) for route in contest.routes}
        rivals = [value for route, value in logp.items() if route != "new"]
        records.append(
            {
                "id": contest.fact_id,
                "took": logp["new"] > max(rivals),
                "logp_new": logp["new"],
                "logp_old": logp["old"],
                "margin": logp["new"] - logp["old"],
                "loss_nats": -logp["new"] / len(contest.routes["new"]),
                "says": text,
            }
        )
    return records


def _all_logprobs(model: Model, rows: Sequence[EncodedExample]) -> list[float]:
    """Log-probability of each value, in order; rows on either side of a change of rotary frequencies are read apart."""
    threshold = model.rope_threshold
    is_long = [threshold is not None and len(row.prompt) + len(row.value) - 1 > threshold for row in rows]
    found: dict[int, float] = {}
    for side in (False, True):
        there = [i for i, long in enumerate(is_long) if long is side]
        for start in range(0, len(there), _ROWS):
            part = there[start : start + _ROWS]
            found |= zip(part, _logprobs(model, [rows[i] for i in part]).tolist(), strict=True)
    return [found[i] for i in range(len(rows))]


def _logprobs(model: Model, rows: Sequence[EncodedExample]) -> Float[Tensor, " row"]:
    """Log-probability of each value after its prompt, summed over its tokens, in nats."""
    asked = targets(rows)
    nll = target_nll(model, asked).double()
    return torch.zeros(len(rows), dtype=torch.float64, device=nll.device).index_add(0, asked.owner.to(nll.device), -nll)


def _continuations(model: Model, contests: Sequence[Contest]) -> list[str]:
    lengths = [max(len(contest.routes["old"]), len(contest.routes["new"])) for contest in contests]
    tokens = greedy(model, [contest.prompt for contest in contests], lengths)
    return [str(model.tokenizer.decode(row)).strip() for row in tokens]
