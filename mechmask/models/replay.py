"""One forward pass, kept so that some of its blocks can be run again on another residual stream or other weights.

What a block takes beside the residual stream (mask, positions, rotary angles) depends on the input alone, so it is
captured once. Used to patch a residual (``read.patch``) and by editors, which write into some blocks (``write``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from mechmask.errors import ModelError
from mechmask.interrupts import atomic_context
from mechmask.models.gradients import without_gradients
from mechmask.models.model import Model


class Replay:
    """A pass of one batch through the decoder.

    The pass is made without gradients; what is run again has them where the caller asks for them. Evaluation mode is
    the caller's too.

    Args:
        model: the model, as it is now.
        inputs: keyword arguments of its decoder.
        first: the first layer that will be asked for, 0..L-1; what lies below is not kept.
        last: the last layer that will be asked for, above ``first``; the pass goes no further. L by default.
    """

    def __init__(self, model: Model, inputs: Mapping[str, Any], first: int = 0, last: int | None = None) -> None:
        self._first = first
        self._blocks = list(model.anatomy.blocks[first:last])
        self._stops_early = first + len(self._blocks) < model.n_layers
        self._calls: list[tuple[tuple, dict]] = []
        self._end: Tensor | None = None
        with self._watching(), without_gradients(), suppress(_PassedError):
            model.anatomy.decoder(**{**inputs, "use_cache": False})

    @atomic_context
    def _watching(self) -> Iterator[None]:
        """Inside, a pass leaves what enters each block, and what the last one gives out."""
        hooks: list[RemovableHandle] = []
        try:
            for block in self._blocks:
                hooks.append(block.register_forward_pre_hook(self._keep_call, with_kwargs=True))
            hooks.append(self._blocks[-1].register_forward_hook(self._keep_end))
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def residual(self, layer: int) -> Float[Tensor, "row position width"]:
        """The residual stream of the pass at one layer, ``first`` to ``last``; L is what the final norm reads.

        Raises:
            ModelError: if the layer was not kept, or there is none of that number.
        """
        number = self._number(layer)
        if number == len(self._calls):
            return self._end  # pyright: ignore[reportReturnType]  (the pass has run)
        args, kwargs = self._calls[number]
        return args[0] if args else kwargs["hidden_states"]

    def from_layer(
        self, layer: int, residual: Float[Tensor, "row position width"], to: int | None = None
    ) -> Float[Tensor, "row position width"]:
        """The residual stream at layer ``to`` if it is ``residual`` at ``layer``: the blocks between run again.

        Args:
            layer: where it is given.
            residual: what it is there.
            to: where it is asked for; the last layer that was kept by default.

        Raises:
            ModelError: if a layer was not kept, or there is none of that number.
        """
        between = slice(self._number(layer), None if to is None else self._number(to))
        for block, (args, kwargs) in zip(self._blocks[between], self._calls[between], strict=True):
            output = block(residual, *args[1:], **{k: v for k, v in kwargs.items() if k != "hidden_states"})
            residual = _stream(output)
        return residual

    def _keep_call(self, _module: torch.nn.Module, args: tuple, kwargs: dict) -> None:
        self._calls.append((args, kwargs))

    def _keep_end(self, _module: torch.nn.Module, _args: tuple, output: Tensor | tuple[Tensor, ...]) -> None:
        self._end = _stream(output)
        if self._stops_early:
            raise _PassedError

    def _number(self, layer: int) -> int:
        last = self._first + len(self._blocks)
        if not self._first <= layer <= last:
            raise ModelError(
                f"Layer {layer} was not kept by this pass: it holds layers {self._first} to {last}. Ask for one of "
                "them, or begin at a lower one."
            )
        return layer - self._first


class _PassedError(Exception):
    """The last block that is wanted has run; caught where the pass was started."""


def _stream(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output[0] if isinstance(output, tuple) else output
