"""Weights in the order in which the processor's matrix product takes them in, for many products of a few tokens.

A product with a weight as it lies in memory rearranges it first, which for a few dozen tokens takes as long as to
multiply. oneDNN, which comes with torch, takes weights that were rearranged before, by operators that ``torch.compile``
uses where it freezes a model; that needs a C++ compiler, and these do not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from mechmask.interrupts import atomic_context

_MAX_BYTES = 2**30  # of all copies together; a weight that would take more is multiplied by as it lies
_WORTH_A_COPY = 3  # products after which it is likely that many more come: to rearrange a weight costs several
_FORWARDS: dict[type[nn.Module], Any] = {kind: kind.forward for kind in (nn.Linear, Conv1D)}


@atomic_context
def prepacked(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, layers that multiply often do so by copies of their weights, in both directions, up to 1 GiB of copies.

    Results differ by rounding alone. Of the layers those are taken whose product this is: linear ones on the processor
    in float32 that ask for no gradient. A weight that is changed meanwhile is multiplied by as it is. The lock is the
    caller's.

    Args:
        layers: any.
    """
    taken: list[tuple[nn.Module, Prepacked]] = []
    room = _Room(_MAX_BYTES)
    try:
        for layer in layers if _is_right() else ():
            if _may_be_prepacked(layer):
                forward = Prepacked(layer, room)
                taken.append((layer, forward))
                layer.forward = forward
        yield
    finally:
        for layer, forward in taken:
            if vars(layer).get("forward") is forward:
                del layer.forward


class Prepacked:
    """What stands in the place of a layer's ``forward``, and computes the same.

    Args:
        layer: whose place it is.
        room: for copies.
    """

    def __init__(self, layer: Any, room: _Room) -> None:
        self._layer, self._room = layer, room
        self._plain = _FORWARDS[type(layer)]
        self._n_calls = 0
        self._of: tuple[Any, ...] = ()
        self._copies: _Copies | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """The product, by a copy of the weight once that is worth while."""
        inputs = args[0] if len(args) == 1 and not kwargs else None
        if not isinstance(inputs, Tensor) or not _fits(inputs):
            return self._plain(self._layer, *args, **kwargs)
        if self._n_calls == _WORTH_A_COPY:
            self._copy()
        self._n_calls += 1
        if self._copies is None or self._of != self._stand():
            return self._plain(self._layer, inputs)
        return _Product.apply(inputs, self._copies)  # pyright: ignore[reportReturnType]

    def _stand(self) -> tuple[Any, ...]:
        """What tells that weight and bias are the ones that were copied."""
        both = (self._layer.weight, self._layer.bias)
        return tuple((id(one), one.data_ptr(), one._version) for one in both if one is not None)

    def _copy(self) -> None:
        layer = self._layer
        if not _may_be_copied(layer) or not self._room.take(2 * layer.weight.nbytes):
            return
        weight = layer.weight.detach()
        try:
            self._copies = _Copies(weight.T if isinstance(layer, Conv1D) else weight, layer.bias)
        except (RuntimeError, MemoryError):  # no memory, say: it goes on without
            return
        self._of = self._stand()


class _Copies:
    """A weight, rearranged for either direction, and a bias."""

    def __init__(self, weight: Float[Tensor, "output input"], bias: Tensor | None) -> None:
        self.forward, self.backward = (torch.ops.mkldnn._reorder_linear_weight(w) for w in (weight, weight.T))
        self.bias = None if bias is None else bias.detach().contiguous()  # the operator reads it as if it were


class _Room:
    """Bytes that are left for copies."""

    def __init__(self, n_bytes: int) -> None:
        self._left = n_bytes

    def take(self, n_bytes: int) -> bool:
        """Whether there is so much room, which is gone then."""
        if n_bytes > self._left:
            return False
        self._left -= n_bytes
        return True


class _Product(torch.autograd.Function):
    """``linear(inputs, weight, bias)``, differentiable in the inputs."""

    @staticmethod
    def forward(ctx: Any, inputs: Float[Tensor, "*row input"], copies: _Copies) -> Float[Tensor, "*row output"]:
        ctx.copies = copies
        return _multiplied(inputs, copies.forward, copies.bias)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Float[Tensor, "*row output"]
    ) -> tuple[Tensor | None, ...]:
        return _multiplied(gradient, ctx.copies.backward, None), None


def _multiplied(inputs: Float[Tensor, "*row input"], weight: Any, bias: Tensor | None) -> Float[Tensor, "*row output"]:
    return torch.ops.mkldnn._linear_pointwise(inputs.contiguous(), weight, bias, "none", [], "")


def _may_be_prepacked(layer: nn.Module) -> bool:
    return _FORWARDS.get(type(layer)) is type(layer).forward and "forward" not in vars(layer)


def _may_be_copied(layer: Any) -> bool:
    """Whether it has a weight of the plain kind, which no hook makes anew before each product, and a bias likewise."""
    of = [parameter for parameter in (layer.weight, layer.bias) if parameter is not None]
    return all(_fits(one) and type(one) is nn.Parameter and not one.requires_grad for one in of) and (
        "weight" in layer._parameters
        and layer.weight.numel() > 0
        and (layer.bias is None or layer.bias.shape == (_n_outputs(layer),))
    )


def _n_outputs(layer: Any) -> int:
    return layer.weight.shape[1 if isinstance(layer, Conv1D) else 0]


def _fits(tensor: Tensor) -> bool:
    return (
        tensor.device.type == "cpu"
        and tensor.dtype == torch.float32
        and tensor.layout is torch.strided
        and not tensor.is_inference()
        and not torch.is_autocast_enabled("cpu")
    )


def _is_right() -> bool:
    """Whether the operators are there, wanted, and multiply as they should on this machine."""
    return torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled and _multiplies()


@cache
def _multiplies() -> bool:
    plain = {"device": "cpu", "dtype": torch.float32}
    weight = torch.linspace(-1, 1, 33 * 65, **plain).sin().reshape(33, 65)
    for n_rows in (1, 24):
        rows = torch.linspace(-2, 2, n_rows * 98, **plain).cos().reshape(n_rows, 98)
        try:
            copies = _Copies(weight, weight[:, 0])
            found = (
                _multiplied(rows[:, :65], copies.forward, copies.bias),
                _multiplied(rows[:, 65:], copies.backward, None),
            )
        except (RuntimeError, AttributeError):
            return False
        exact = weight.double()
        expected = (rows[:, :65].double() @ exact.T + exact[:, 0], rows[:, 65:].double() @ exact)
        if any((one - other).abs().max() > 1e-4 for one, other in zip(found, expected, strict=True)):
            return False
    return True
