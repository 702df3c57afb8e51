"""Weights in the order in which the processor's matrix product takes them in, for many products of a few tokens.

A product with a weight as it lies in memory rearranges it first, which for a few dozen tokens takes as long as to
multiply. oneDNN, which comes with torch, takes weights that were rearranged before; ``torch.compile`` with ``freezing``
does the same by the same two operators, and needs a C++ compiler.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from mechmask.interrupts import atomic_context

_MAX_BYTES = 2**30  # of all copies together; weights beyond that are multiplied by as they lie


@atomic_context
def prepacked(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, layers multiply by copies of their weights, in both directions, up to 1 GiB of copies.

    Results differ by rounding alone. Of the layers those are taken whose product this is: linear ones on the processor
    in float32 that ask for no gradient. Their weights must not change meanwhile. The lock is the caller's.

    Args:
        layers: any, in the order in which they are worth a copy.
    """
    taken: list[nn.Module] = []
    room = _MAX_BYTES
    try:
        for layer in layers:
            if not _may_be_prepacked(layer):
                continue
            weight, bias = _weight_and_bias(layer)
            room -= 2 * weight.nbytes
            if room < 0:
                break
            taken.append(layer)
            layer.forward = _forward_by(_Prepacked(weight), bias)
        yield
    finally:
        for layer in taken:
            vars(layer).pop("forward", None)


def _may_be_prepacked(layer: nn.Module) -> bool:
    return (
        type(layer) in (nn.Linear, Conv1D)
        and "forward" not in vars(layer)  # somebody put another in its place
        and layer.weight.device.type == "cpu"
        and layer.weight.dtype == torch.float32
        and not any(parameter.requires_grad for parameter in layer.parameters())
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


def _weight_and_bias(layer: Any) -> tuple[Float[Tensor, "output input"], Tensor | None]:
    weight = layer.weight.detach()
    return (weight.T if isinstance(layer, Conv1D) else weight), layer.bias


class _Prepacked:
    """A weight, rearranged for either direction."""

    def __init__(self, weight: Float[Tensor, "output input"]) -> None:
        self.forward, self.backward = (torch.ops.mkldnn._reorder_linear_weight(w) for w in (weight, weight.T))


def _forward_by(weight: _Prepacked, bias: Tensor | None) -> Callable[[Tensor], Tensor]:
    return lambda inputs: _Product.apply(inputs, weight, bias)  # pyright: ignore[reportReturnType]


def _multiplied(inputs: Float[Tensor, "*row input"], weight: Any, bias: Tensor | None) -> Float[Tensor, "*row output"]:
    return torch.ops.mkldnn._linear_pointwise(inputs.contiguous(), weight, bias, "none", [], "")


class _Product(torch.autograd.Function):
    """``linear(inputs, weight, bias)``, differentiable in the inputs."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Float[Tensor, "*row input"], weight: _Prepacked, bias: Tensor | None
    ) -> Float[Tensor, "*row output"]:
        ctx.weight = weight
        return _multiplied(inputs, weight.forward, bias)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Float[Tensor, "*row output"]
    ) -> tuple[Tensor | None, ...]:
        return _multiplied(gradient, ctx.weight.backward, None), None, None
