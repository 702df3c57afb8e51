"""``round_trip``: the linear maps of every block as a narrower type would hold them, as a change that is undone.

Rounded is what a model computes with: a LoRA or DoRA adapter is merged into its map first, in float64, and switched off
as long as the change is on. Embedding, norms, biases and unembedding stay as they are, and products and activations
keep their type, so that what a verdict owes to the weights is seen alone. No tensor is stored: rounding the same
weights again gives the same bits.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from einops import rearrange
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mechmask.errors import ChangeError
from mechmask.interrupts import atomic_context
from mechmask.models.gradients import without_gradients
from mechmask.models.model import Model, adapted_layers
from mechmask.models.states import Variant, active
from mechmask.models.writable import require_writable
from mechmask.write.change import Change, block_of
from mechmask.write.rounding import require_precision, rounded


class AlreadyRoundedError(ChangeError):
    """Every weight is a number of the narrower type, so that rounding changes nothing."""


class RoundTrip(Change):
    """The linear maps of the blocks rounded to a narrower type and back. ``round_trip`` makes one.

    Args:
        precision: ``bfloat16``, ``int8`` or ``nf4``.
        blocks: those in which a weight changes.
        base: fingerprint of all that the model computed with when the change was made.
        details: ``relative_error``, the size of what rounding moved beside that of the weights (Frobenius norms), and
            ``n_maps``, how many maps it moved.

    Raises:
        ChangeError: if the precision is not known.
        AlreadyRoundedError: if no block is named.
    """

    kind = "round_trip"

    def __init__(self, precision: str, blocks: tuple[int, ...], base: str, details: Mapping[str, Any]) -> None:
        require_precision(precision)
        if not blocks:
            raise AlreadyRoundedError(
                f"The round trip through {precision} changes nothing: every weight is a number that {precision} has. "
                "Read the model as it is, or take a narrower type."
            )
        super().__init__(base, precision, details)
        self._blocks = blocks

    @property
    def blocks(self) -> tuple[int, ...]:
        """The blocks in which a weight changes, in order."""
        return self._blocks

    @atomic_context
    def _put_on(self, model: Model) -> Iterator[None]:
        before: dict[nn.Parameter, Tensor] = {}
        merged: list[BaseTunerLayer] = []
        try:
            with without_gradients():
                for linear in _maps(model):
                    weight, bias = _computed(linear)
                    _replace(linear.weight, _stored(linear, _round_tripped(linear, weight, self.method)), before)
                    if linear.bias is not None and bias is not None:
                        _replace(linear.bias, bias, before)
                    if linear.adapter is not None:
                        merged.append(linear.adapter)
                        linear.adapter._disable_adapters = True  # enable_adapters would ask for gradients besides
            yield
        finally:
            for adapter in merged:
                adapter._disable_adapters = False
            with without_gradients():
                for parameter, value in before.items():
                    parameter.copy_(value)

    def _difference_from(self, model: Model) -> str:
        state = "an adapter is on" if adapted_layers(model.module) else "no adapter is on"
        kind = f"{model.family}, {str(model.dtype)[6:]}, {state}"
        return f"another model or dtype than the one here ({kind}), or a change that was on then and is not now"

    def _write(self, directory: Path) -> dict[str, Any]:  # noqa: ARG002
        return {"blocks": list(self.blocks)}

    @classmethod
    def read(cls, directory: Path, header: Mapping[str, Any]) -> RoundTrip:  # noqa: ARG003
        """The round trip that was saved in a directory.

        Args:
            directory: where it is.
            header: what ``change.json`` says.
        """
        return cls(header["method"], tuple(map(int, header["blocks"])), header["base"], header["details"])


def round_trip(state: Model | Variant, precision: str) -> RoundTrip:
    """The change that rounds the linear maps of every block to a narrower type and back to their own.

    float32 is the state itself: it needs no change.

    Args:
        state: a model, or a state with any changes on; it is left as it was. The change goes on top of it:
            ``round_trip(state, "nf4").on(state)``.
        precision: ``bfloat16``, ``int8`` or ``nf4`` (``mechmask.write.rounding``).

    Raises:
        ChangeError: if the precision is not known, or a weight is not a finite number.
        AlreadyRoundedError: if nothing would change, as where weights came in bfloat16 and are rounded to that.
    """
    require_precision(precision)
    blocks: set[int] = set()
    n_maps, moved, size = 0, 0.0, 0.0
    with active(state) as model, without_gradients():
        require_writable(model, "A round trip")
        for linear in _maps(model):
            weight, _ = _computed(linear)
            after = _round_tripped(linear, weight, precision)
            if not torch.equal(after, weight):
                blocks.add(block_of(linear.name) or 0)
                n_maps += 1
            moved += float((after.double() - weight.double()).square().sum())
            size += float(weight.double().square().sum())
        details = {"relative_error": (moved / size) ** 0.5 if size else 0.0, "n_maps": n_maps}
        return RoundTrip(precision, tuple(sorted(blocks)), model.fingerprint, details)


class _Map(NamedTuple):
    """A linear map of a block, with the adapter that adds to it, where one is on and not merged."""

    name: str
    linear: nn.Module
    adapter: BaseTunerLayer | None

    @property
    def weight(self) -> nn.Parameter:
        return self.linear.get_parameter("weight")

    @property
    def bias(self) -> nn.Parameter | None:
        return self.linear._parameters.get("bias")


def _maps(model: Model) -> Iterator[_Map]:
    for projection in model.anatomy.projections():
        wrapper = model.module.get_submodule(projection.name)
        adds = isinstance(wrapper, BaseTunerLayer) and not wrapper.disable_adapters and not wrapper.merged
        yield _Map(projection.name, projection.linear, wrapper if adds else None)  # pyright: ignore[reportArgumentType]


def _computed(linear: _Map) -> tuple[Tensor, Tensor | None]:
    """Weight ``[output, input]`` and bias that a map computes with, its adapter merged into them by peft."""
    layer, bias = linear.linear, linear.bias
    if linear.adapter is not None:
        alone = copy.deepcopy(linear.adapter)
        alone.to(_where_float64_is(linear.weight), torch.float64)  # pyright: ignore[reportAttributeAccessIssue]
        alone.merge()
        layer = alone.get_base_layer()
        merged = layer._parameters.get("bias")
        bias = None if merged is None else merged.detach().to(linear.weight)
    weight = layer.get_parameter("weight").detach().to(linear.weight)
    if not weight.isfinite().all():
        raise ChangeError(
            f"The weight of {linear.name} has a value that is not a finite number, which cannot be rounded. Load the "
            "model in float32, or leave the change out that put it there."
        )
    return (rearrange(weight, "i o -> o i") if isinstance(linear.linear, Conv1D) else weight), bias


def _round_tripped(linear: _Map, weight: Tensor, precision: str) -> Tensor:
    """The weight ``[output, input]`` rounded, in its own type, where it was."""
    return rounded(weight.to(_where_float64_is(linear.weight)), precision).to(weight.device)


def _stored(linear: _Map, weight: Tensor) -> Tensor:
    return rearrange(weight, "o i -> i o") if isinstance(linear.linear, Conv1D) else weight


def _replace(parameter: nn.Parameter, value: Tensor, before: dict[nn.Parameter, Tensor]) -> None:
    """Put a value in place and remember the old one; of a parameter that several maps share, the first."""
    before.setdefault(parameter, parameter.detach().clone())
    parameter.copy_(value)


def _where_float64_is(weight: Tensor) -> torch.device:
    return torch.device("cpu") if weight.device.type == "mps" else weight.device
