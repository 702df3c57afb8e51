"""Greedy decoding of many prompts at once, with a cache: what the model says of its own accord."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F  # noqa: N812

from mechmask.models.model import Model


def greedy(model: Model, prompts: Sequence[Sequence[int]], n: Sequence[int]) -> list[list[int]]:
    """The tokens that greedy decoding puts behind each prompt.

    Prompts are padded on the left, so that a window or a cache counts no pad in between. Where the model changes its
    rotary frequencies at some length, prompts on either side of it are decoded apart, and one that grows past it is
    read anew from there: what the cache holds is turned by the other frequencies.

    Args:
        model: the model; evaluation mode, gradients and the lock are the caller's (``Model.inference``).
        prompts: token ids of each, at least one.
        n: how many tokens are wanted after each.

    Returns:
        The tokens of each prompt, ``n`` of them.
    """
    tokens: list[list[int]] = [[] for _ in prompts]
    for limit, rows in _stages(model.rope_threshold, prompts, n):
        given = [[*prompts[row], *tokens[row]] for row in rows]
        for row, more in zip(rows, _decoded(model, given, max(rows.values()), limit), strict=True):
            tokens[row] += more[: rows[row]]
    return tokens


def _stages(
    threshold: int | None, prompts: Sequence[Sequence[int]], n: Sequence[int]
) -> list[tuple[int | None, dict[int, int]]]:
    """Which prompts are decoded together and how many tokens of each: up to the threshold, then beyond it."""
    below = dict(enumerate(n))
    if threshold is not None:
        below = {row: min(n[row], max(0, threshold - len(ids) + 1)) for row, ids in enumerate(prompts)}
    beyond = {row: n[row] - short for row, short in below.items()}
    stages = [(threshold, below), (None, beyond)]
    return [
        (limit, {row: count for row, count in stage.items() if count}) for limit, stage in stages if any(stage.values())
    ]


def _decoded(model: Model, prompts: Sequence[Sequence[int]], n: int, limit: int | None) -> list[list[int]]:
    """``n`` tokens for each; no position reaches ``limit``: a row that would has all that is wanted of it by then."""
    length = max(map(len, prompts))
    pads = torch.tensor([length - len(ids) for ids in prompts], device=model.device)[:, None]
    ids = torch.tensor([[0] * (length - len(row)) + list(row) for row in prompts], device=model.device)
    columns = torch.arange(length, device=model.device)[None]
    mask = (columns >= pads).long()
    position = (columns - pads).clamp(min=0)
    cache, tokens = None, []
    for step in range(n):
        output = model.anatomy.decoder(
            input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True
        )
        ids = model.anatomy.unembedding(output.last_hidden_state[:, -1]).argmax(-1, keepdim=True).to(model.device)
        tokens.append(ids)
        cache, mask, position = output.past_key_values, F.pad(mask, (0, 1), value=1), length + step - pads
        position = position if limit is None else position.clamp(max=limit - 1)
    return torch.cat(tokens, dim=1).tolist()
