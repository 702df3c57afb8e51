"""Texts of which the ends alone are run again: keys and values of what stands before each end are read once and kept.

A causal model's tokens do not see what comes after them, so whatever is changed from some token on leaves all before it
as it was, in every layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache

from mechmask.models.gradients import without_gradients
from mechmask.models.model import Model
from mechmask.models.packing import additive
from mechmask.models.replay import Replay


class Tails:
    """Texts cut in two, the first parts read. Evaluation mode and the lock are the caller's.

    Its attention takes masks (eager, sdpa), and no text is longer than its window.

    Args:
        model: the model, as it is now.
        texts: token ids of each.
        starts: where the second part of each begins; it is not empty.
    """

    def __init__(self, model: Model, texts: Sequence[Sequence[int]], starts: Sequence[int]) -> None:
        self._model, self._texts, self._starts = model, texts, starts
        self._past: DynamicCache | None = None
        if max(starts):
            heads = [torch.tensor(text[:start], dtype=torch.long) for text, start in zip(texts, starts, strict=True)]
            self._past = DynamicCache()
            with without_gradients():
                model.anatomy.decoder(
                    input_ids=pad_sequence(heads, batch_first=True).to(model.device),
                    past_key_values=self._past,
                    use_cache=True,
                )

    def only(self, rows: Sequence[int]) -> Tails:
        """Some of the texts, by number; nothing is read again."""
        chosen = Tails.__new__(Tails)
        chosen._model = self._model
        chosen._texts, chosen._starts = [self._texts[i] for i in rows], [self._starts[i] for i in rows]
        chosen._past = None if self._past is None else _rows_of(self._past, torch.tensor(rows))
        return chosen

    def replay(self, first: int) -> Replay:
        """A pass over the second parts, each token at its own position, padded on the right.

        Args:
            first: the first layer that will be asked for, 0..L-1.
        """
        tails = [
            torch.tensor(text[start:], dtype=torch.long) for text, start in zip(self._texts, self._starts, strict=True)
        ]
        tokens = pad_sequence(tails, batch_first=True).to(self._model.device)
        starts = torch.tensor(self._starts, device=self._model.device)
        n_before = 0 if self._past is None else self._past.get_seq_length()
        inputs: dict[str, Any] = {
            "input_ids": tokens,
            "position_ids": starts[:, None] + torch.arange(tokens.shape[1], device=self._model.device),
            "attention_mask": additive(_mask(starts, n_before, tokens.shape[1]), self._model.dtype),
        }
        if self._past is not None:
            inputs["past_key_values"] = _behind(self._past)
        return Replay(self._model, inputs, first)


class _GivenPast(DynamicCache):
    """Keys and values of tokens before: what comes after is read behind them, and they stay what they are."""

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        """Those before, and those that are read now."""
        layer: Any = self.layers[layer_idx]  # transformers' type covers kinds that have no keys and values
        return torch.cat([layer.keys, key_states], -2), torch.cat([layer.values, value_states], -2)


def _behind(past: DynamicCache) -> _GivenPast:
    given = _GivenPast()
    given.layers = past.layers
    return given


def _rows_of(past: DynamicCache, rows: Int[Tensor, " row"]) -> DynamicCache:
    chosen = DynamicCache()
    layer: Any
    for number, layer in enumerate(past.layers):
        index = rows.to(layer.keys.device)
        chosen.update(layer.keys[index], layer.values[index], number)
    return chosen


def _mask(starts: Int[Tensor, " row"], n_before: int, n_after: int) -> Bool[Tensor, "row 1 after all"]:
    """``True`` where a token may look: at the tokens before, pads left out, at itself and at those between."""
    before = torch.arange(n_before, device=starts.device) < starts[:, None]
    after = torch.ones(n_after, n_after, dtype=torch.bool, device=starts.device).tril()
    rows = before[:, None].expand(-1, n_after, -1)
    return torch.cat([rows, after.expand(len(starts), -1, -1)], dim=-1)[:, None]
