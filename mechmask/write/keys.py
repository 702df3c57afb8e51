"""Keys at the subject's last token, carried up through the blocks that an editor writes into (MEMIT, section 4).

An editor that writes into several blocks reads each under what it has written below. Only the block in between is run
again then, on prompts cut at the subject's end; published code runs the model from the start for every layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mechmask.models.gradients import without_gradients
from mechmask.models.model import Model
from mechmask.models.replay import Replay
from mechmask.models.tokens import Mention
from mechmask.write.requests import Request
from mechmask.write.watching import watching

_ROWS = 512  # prompts per forward pass; affects memory only


class KeysAndValues(NamedTuple):
    """What went through an MLP output projection at the subject's last token, in float64.

    Attributes:
        keys: ``[row, key]``.
        values: ``[row, width]``.
    """

    keys: Float[Tensor, "row key"]
    values: Float[Tensor, "row width"]


class SubjectWalk:
    """Prompts at one layer, from which they go up under the weights of then.

    Gradients, evaluation mode and the lock are the caller's.

    Args:
        model: the model.
        mentions: the prompts, each with the place of its subject's end; what comes after plays no part.
        first: the layer where the walk begins, 0..L-1.
        last: the layer beyond which it does not go.
    """

    def __init__(self, model: Model, mentions: Sequence[Mention], first: int, last: int) -> None:
        self._model, self.layer, self._last = model, first, last
        chunks = [mentions[start : start + _ROWS] for start in range(0, len(mentions), _ROWS)]
        self._passes = [Replay(model, {"input_ids": _padded(chunk).to(model.device)}, first, last) for chunk in chunks]
        self._ends = [torch.tensor([mention.position for mention in chunk]) for chunk in chunks]
        self._residuals = [replay.residual(first) for replay in self._passes]

    def read(self) -> KeysAndValues:
        """Keys and values of the block above the present layer, under the weights of now."""
        keys, values = [], []
        with without_gradients(), watching(self._model, self.layer) as seen:
            for replay, residual, ends in zip(self._passes, self._residuals, self._ends, strict=True):
                replay.from_layer(self.layer, residual, self.layer + 1)
                keys.append(_at(seen.keys, ends))
                values.append(_at(seen.values, ends))
        return KeysAndValues(torch.cat(keys), torch.cat(values))

    def residual_at_end(self) -> Float[Tensor, "row width"]:
        """The residual stream at the last layer, at the subject's last token, under the weights of now, in float64."""
        with without_gradients():
            return torch.cat(
                [
                    _at(replay.from_layer(self.layer, residual, self._last), ends)
                    for replay, residual, ends in zip(self._passes, self._residuals, self._ends, strict=True)
                ]
            )

    def go_up(self, layer: int) -> None:
        """Go to a higher layer under the weights of now."""
        with without_gradients():
            self._residuals = [
                replay.from_layer(self.layer, residual, layer)
                for replay, residual in zip(self._passes, self._residuals, strict=True)
            ]
        self.layer = layer


def mentions_of(requests: Sequence[Request]) -> list[Mention]:
    """Every prompt of every request up to its subject's end, one request after the other."""
    return [prompt.mention for request in requests for prompt in request.prompts]


def averaged(
    rows: Float[Tensor, "row width"], requests: Sequence[Request], bare_share: float | None = None
) -> Float[Tensor, "request width"]:
    """The mean over the prompts of each request.

    Args:
        rows: one of every prompt, in the order of ``mentions_of``.
        requests: the requests.
        bare_share: the weight of the bare prompt, all contexts sharing the rest alike; that of any other by default.
    """
    means = []
    for own in rows.split([len(request.prompts) for request in requests]):
        if bare_share is None or len(own) == 1:
            means.append(own.mean(0))
        else:
            means.append(bare_share * own[0] + (1 - bare_share) * own[1:].mean(0))
    return torch.stack(means)


def _padded(mentions: Sequence[Mention]) -> Int[Tensor, "row position"]:
    """Padded on the right, which a causal model does not see."""
    return pad_sequence([torch.tensor(mention.ids) for mention in mentions], batch_first=True)


def _at(read: Float[Tensor, "row position width"], ends: Int[Tensor, " row"]) -> Float[Tensor, "row width"]:
    rows = torch.arange(len(ends), device=read.device)
    return read[rows, ends.to(read.device)].double().cpu()
