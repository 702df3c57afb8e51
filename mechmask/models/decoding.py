"""Decoding of many prompts at once, with a cache: what the model says of its own accord, greedily or by chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from transformers import Cache, DynamicCache

from mechmask.errors import ModelError
from mechmask.models.model import Model
from mechmask.models.packing import Batch
from mechmask.models.unembedding import by_layer

Choice: TypeAlias = Callable[[Tensor], Tensor]


def greedy(model: Model, prompts: Sequence[Sequence[int]], n: Sequence[int]) -> list[list[int]]:
    """The tokens that greedy decoding puts behind each prompt.

    Prompts are padded on the left, so that a window or a cache counts no pad in between. Where the model changes its
    rotary frequencies at some length, prompts on either side of it are decoded apart, and one that grows past it is
    read anew from there: what the cache holds is turned by the other frequencies. Where what stands beside a text moves
    it (``Model.is_read_alone``), each is decoded by itself, every token by a pass over the whole text before it.

    Args:
        model: the model; evaluation mode, gradients and the lock are the caller's (``Model.inference``).
        prompts: token ids of each, at least one.
        n: how many tokens are wanted after each.

    Returns:
        The tokens of each prompt, ``n`` of them.
    """
    if model.is_read_alone:
        return [_one_by_one(model, [prompt], each)[0] for prompt, each in zip(prompts, n, strict=True)]
    tokens: list[list[int]] = [[] for _ in prompts]
    for limit, rows in _stages(model.rope_threshold, prompts, n):
        given = [[*prompts[row], *tokens[row]] for row in rows]
        for row, more in zip(rows, _decoded(model, given, max(rows.values()), limit), strict=True):
            tokens[row] += more[: rows[row]]
    return tokens


def sampled(
    model: Model, prompts: Sequence[Sequence[int]], n: int, generator: torch.Generator, top_k: int | None = None
) -> list[list[int]]:
    """Tokens drawn at temperature 1 behind each prompt.

    Args:
        model: the model; evaluation mode, gradients and the lock are the caller's (``Model.inference``).
        prompts: token ids of each, at least one; together they stay on one side of a change of rotary frequencies.
        n: how many tokens are wanted after each.
        generator: of the draws, on the processor, so that they are the same on every device. Each step draws for all
            prompts in turn: other prompts beside it give a prompt other tokens.
        top_k: draw from so many of the likeliest tokens; from all by default.

    Returns:
        The tokens of each prompt, ``n`` of them.

    Raises:
        ModelError: if the model's output is not finite.
    """

    def drawn(logits: Float[Tensor, "prompt vocabulary"]) -> Int[Tensor, "prompt 1"]:
        best = logits.float().cpu().topk(top_k or logits.shape[-1])
        if not best.values.isfinite().all():
            raise ModelError(
                f"The output of {model.name} is not finite, so no text can be sampled from it. Check the model's "
                "weights, or load it in float32."
            )
        choice = torch.multinomial(best.values.softmax(-1), 1, generator=generator)
        return best.indices.gather(1, choice)

    return _one_by_one(model, prompts, n, drawn) if model.is_read_alone else _decoded(model, prompts, n, None, drawn)


def continued(
    model: Model, batch: Batch, past: Cache, nodes: Sequence[int], tokens: Sequence[int], n: Sequence[int]
) -> list[list[int]]:
    """The tokens that greedy decoding puts behind nodes of a pass whose keys and values were kept.

    Args:
        model: the model that made the pass; it turns its positions alike at every length, and has no window.
        batch: what the pass read.
        past: keys and values of the pass.
        nodes: where decoding goes on, at least one.
        tokens: the token that follows each node.
        n: how many tokens are wanted after that.

    Returns:
        The tokens behind each node, ``n`` of them, the one that was given left out.
    """
    paths = [batch.path(node) for node in nodes]
    length = max(map(len, paths))
    rows = batch.rows[torch.tensor(nodes)]
    columns = torch.stack([F.pad(path, (length - len(path), 0)) for path in paths])
    cache = DynamicCache()
    layer: Any  # of full attention: transformers' type covers kinds that have no keys and values
    for number, layer in enumerate(past.layers):
        cache.update(_gathered(layer.keys, rows, columns), _gathered(layer.values, rows, columns), number)
    lengths = torch.tensor([[len(path)] for path in paths], device=model.device)
    mask = F.pad(torch.arange(length, device=model.device) >= length - lengths, (0, 1), value=True)
    more = _steps(model, torch.tensor(tokens, device=model.device)[:, None], mask, lengths, cache, max(n))
    return [row[:wanted] for row, wanted in zip(more, n, strict=True)]


def _gathered(
    kept: Float[Tensor, "row head position width"],
    rows: Int[Tensor, " prompt"],
    columns: Int[Tensor, "prompt path"],
) -> Float[Tensor, "prompt head path width"]:
    """Keys or values along the path of each prompt."""
    chosen = kept[rows.to(kept.device)[:, None], :, columns.to(kept.device)]
    return rearrange(chosen, "prompt path head width -> prompt head path width")


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


def _decoded(
    model: Model, prompts: Sequence[Sequence[int]], n: int, limit: int | None, choose: Choice | None = None
) -> list[list[int]]:
    """``n`` tokens for each; no position reaches ``limit``: a row that would has all that is wanted of it by then."""
    length = max(map(len, prompts))
    pads = torch.tensor([length - len(ids) for ids in prompts], device=model.device)[:, None]
    ids = torch.tensor([[0] * (length - len(row)) + list(row) for row in prompts], device=model.device)
    columns = torch.arange(length, device=model.device)[None]
    return _steps(model, ids, columns >= pads, (columns - pads).clamp(min=0), None, n, limit, choose)


def _one_by_one(
    model: Model, prompts: Sequence[Sequence[int]], n: int, choose: Choice | None = None
) -> list[list[int]]:
    """``n`` tokens for each, every one by a pass over all that stands before it and nothing else, without a cache."""
    texts = [list(prompt) for prompt in prompts]
    for _ in range(n):
        ends = []
        for text in texts:
            ids = torch.tensor([text], device=model.device)
            hidden = model.anatomy.decoder(input_ids=ids, use_cache=False).last_hidden_state
            ends.append(by_layer(model.anatomy.unembedding, hidden[:, -1]))
        logits = torch.cat(ends)
        chosen = logits.argmax(-1, keepdim=True) if choose is None else choose(model.anatomy.given_out(logits))
        texts = [[*text, token] for text, token in zip(texts, chosen[:, 0].tolist(), strict=True)]
    return [text[len(prompt) :] for text, prompt in zip(texts, prompts, strict=True)]


def _steps(
    model: Model,
    ids: Int[Tensor, "prompt token"],
    mask: Bool[Tensor, "prompt position"],
    position: Int[Tensor, "prompt token"],
    cache: Cache | None,
    n: int,
    limit: int | None = None,
    choose: Choice | None = None,
) -> list[list[int]]:
    """Decode step by step.

    Args:
        model: the model.
        ids: what is read first; further tokens follow the last.
        mask: which positions hold a token, those of the cache and those of ``ids``.
        position: each token's position in its own prompt.
        cache: keys and values of what comes before ``ids``.
        n: how many tokens follow each prompt.
        limit: no token takes a position from here on.
        choose: the next token of each prompt by its logits; the likeliest by default.
    """
    mask, tokens = mask.long(), []
    for _ in range(n):
        output = model.anatomy.decoder(
            input_ids=ids, attention_mask=mask, position_ids=position, past_key_values=cache, use_cache=True
        )
        logits = by_layer(model.anatomy.unembedding, output.last_hidden_state[:, -1])
        ids = logits.argmax(-1, keepdim=True) if choose is None else choose(model.anatomy.given_out(logits))
        ids = ids.to(model.device)
        tokens.append(ids)
        cache, mask, position = output.past_key_values, F.pad(mask, (0, 1), value=1), position[:, -1:] + 1
        position = position if limit is None else position.clamp(max=limit - 1)
    return torch.cat(tokens, dim=1).tolist()
