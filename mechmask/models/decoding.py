"""Greedy decoding: the most likely token, again and again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F  # noqa: N812

from mechmask.models.model import Model


def greedy(
    model: Model, prompts: Sequence[tuple[int, ...]], n: Sequence[int], *, batch_size: int = 64
) -> list[list[int]]:
    """The tokens that follow each prompt greedily.

    Args:
        model: the model, as it is now.
        prompts: token ids.
        n: how many tokens, for each prompt.
        batch_size: prompts per forward pass; affects memory only.
    """
    with model.inference():
        rows = [
            row
            for start in range(0, len(prompts), batch_size)
            for row in _greedy(model, prompts[start : start + batch_size], max(n[start : start + batch_size]))
        ]
    return [row[:length] for row, length in zip(rows, n, strict=True)]


def _greedy(model: Model, prompts: Sequence[tuple[int, ...]], n: int) -> list[list[int]]:
    """With a cache; padded on the left, so that a window or a cache counts no pad in between."""
    length = max(map(len, prompts))
    pads = torch.tensor([length - len(ids) for ids in prompts], device=model.device)[:, None]
    ids = torch.tensor([[0] * (length - len(row)) + [*row] for row in prompts], device=model.device)
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
    return torch.cat(tokens, dim=1).tolist()
