"""``LowRankChange``: ``W' = W + U V`` for some linear maps, kept in its factors, as rank-one editors make it.

What is held and saved are the factors, kilobytes. Applied, the sum stands in the weight itself, so that every reading
and every backend meets it, those that look at weights too; the old values wait in a copy of that weight until the
change is taken off, because a sum cannot be subtracted bit for bit. The product is made in float64: what one machine
rounds to is what another does, and a change that was made on top of this one finds its base again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from mechmask.errors import ChangeError
from mechmask.interrupts import atomic_context
from mechmask.models.fingerprint import canonical_name
from mechmask.models.model import Model, adapted_layers
from mechmask.models.writable import require_writable
from mechmask.write.change import Change, Held, blocks_of
from mechmask.write.weights import set_weights

_ROWS = 1024  # of the product that are made at a time, so that float64 takes no memory to speak of


class Factors(NamedTuple):
    """The update of one linear map, as it acts on a column: ``outputs @ inputs``.

    Attributes:
        outputs: U ``[out, rank]``.
        inputs: V ``[rank, in]``.
    """

    outputs: Float[Tensor, "out rank"]
    inputs: Float[Tensor, "rank in"]


class LowRankChange(Change):
    """Updates of low rank. ``low_rank_change`` makes one on a model, and checks that it fits there.

    Args:
        factors: U ``[out, rank]`` and V ``[rank, in]`` by the name of the weight in the module without adapters; they
            act from input to output, however the module stores the weight.
        base: fingerprint of all that the model computed with when the change was made.
        method: how it was made.
        details: configuration and course.

    Raises:
        ChangeError: if two factors do not go together, a number is not finite, or every product is zero.
    """

    kind = "low_rank"

    def __init__(
        self,
        factors: Mapping[str, tuple[Tensor, Tensor]],
        base: str,
        method: str,
        details: Mapping[str, Any],
    ) -> None:
        super().__init__(base, method, details)
        for name, (outputs, inputs) in factors.items():
            _require_product(name, outputs, inputs)
        self.factors = {
            name: Factors(*(factor.detach().cpu().contiguous().clone() for factor in pair))
            for name, pair in factors.items()
        }
        if not any(map(_moves, self.factors.values())):
            raise ChangeError(f"The {method} change changes nothing: every product of factors is zero. Make it again.")

    @property
    def blocks(self) -> tuple[int, ...]:
        """The blocks of which a weight changes, in order."""
        return blocks_of(self.factors)

    @property
    def weights(self) -> tuple[str, ...]:
        """The weights that something is added to."""
        return tuple(self.factors)

    def held(self) -> list[Held]:
        """The rank of each weight's update."""
        return [
            Held(name, f"rank {pair.inputs.shape[0]}", sum(factor.nbytes for factor in pair))
            for name, pair in self.factors.items()
        ]

    @atomic_context
    def _put_on(self, model: Model) -> Iterator[None]:
        maps = _linear_maps(model.module)
        for name, factors in self.factors.items():
            _require_fit(name, factors, maps)
        sums = {name: _sum(maps[name], factors) for name, factors in self.factors.items()}
        weights = {name: maps[name].get_parameter("weight") for name in self.factors}
        before = {name: weight.detach().clone() for name, weight in weights.items()}
        try:
            set_weights(weights, sums)
            yield
        finally:
            set_weights(weights, before)

    def _difference_from(self, model: Model) -> str:
        maps = _linear_maps(model.module)
        for name, factors in self.factors.items():
            try:
                _require_fit(name, factors, maps)
            except ChangeError as error:
                return str(error).split(". ")[0]
        state = "an adapter is on" if adapted_layers(model.module) else "no adapter is on"
        return f"the factors fit, but something that it computes with differs ({state})"

    def _write(self, directory: Path) -> dict[str, Any]:
        outputs = {f"{name}.outputs": pair.outputs for name, pair in self.factors.items()}
        inputs = {f"{name}.inputs": pair.inputs for name, pair in self.factors.items()}
        save_file(outputs | inputs, directory / "factors.safetensors")
        return {"weights": list(self.factors)}

    @classmethod
    def read(cls, directory: Path, header: Mapping[str, Any]) -> LowRankChange:
        """The factors that were saved in a directory.

        Args:
            directory: where they are.
            header: what ``change.json`` says.

        Raises:
            ValueError: if the header does not know a factor.
        """
        stored = load_file(directory / "factors.safetensors")
        factors = {name: (stored.pop(f"{name}.outputs"), stored.pop(f"{name}.inputs")) for name in header["weights"]}
        if stored:
            raise ValueError("there are factors of which the header does not know")
        return cls(factors, header["base"], header["method"], header["details"])


@atomic_context
def writing(model: Model, names: Iterable[str]) -> Iterator[Callable[[str, Factors], None]]:
    """Inside, products are added to weights one after the other; leaving restores every bit.

    Args:
        model: the model.
        names: the weights of linear maps that will be written to.

    Yields:
        ``add(name, factors)``: from then on the product stands in that weight.

    Raises:
        ChangeError: if a name is none of a linear map's weight; by ``add`` if factors do not fit, or a sum leaves the
            range of the weight's type.
    """
    maps, names = _linear_maps(model.module), tuple(names)
    for name in names:
        _require_map(name, maps)
    weights = {name: maps[name].get_parameter("weight") for name in names}
    before = {name: weight.detach().clone() for name, weight in weights.items()}

    def add(name: str, factors: Factors) -> None:
        _require_fit(name, factors, maps)
        set_weights(weights, {name: _sum(maps[name], factors)})

    try:
        yield add
    finally:
        set_weights(weights, before)


def low_rank_change(
    model: Model, factors: Mapping[str, tuple[Tensor, Tensor]], method: str, details: Mapping[str, Any]
) -> LowRankChange:
    """``W' = W + U V`` for some linear maps of a model as it is now; the model is left as it was.

    Args:
        model: the model; an applied change counts.
        factors: U ``[out, rank]`` and V ``[rank, in]`` by weight, such as ``transformer.h.5.mlp.c_proj.weight``; they
            act from input to output, also where the weight is stored ``[in, out]`` (``Conv1D``).
        method: how it was made.
        details: configuration and course, as JSON values.

    Raises:
        WeightsError: if the model is quantised or offloaded.
        ChangeError: if a name is not a linear map's weight or is tied to another one, the factors do not fit, a number
            is not finite, or no entry of any weight would change.
    """
    require_writable(model, f"The {method} change")
    change = LowRankChange(factors, model.fingerprint, method, details)
    maps = _linear_maps(model.module)
    for name, pair in change.factors.items():
        _require_fit(name, pair, maps)
    weights = {name: maps[name].get_parameter("weight") for name in change.factors}
    if all(torch.equal(_sum(maps[name], pair), weights[name]) for name, pair in change.factors.items()):
        raise ChangeError(
            f"The {method} change changes nothing: what it adds is less than {model.dtype} resolves. Load the model in "
            "float32."
        )
    return change


def _linear_maps(module: nn.Module) -> dict[str, nn.Module]:
    """Every linear map by the name of its weight, those left out whose weight another module shares."""
    holders: dict[int, int] = {}
    for child in module.modules():
        weight = child._parameters.get("weight")  # an adapter's wrapper lends its layer's
        if weight is not None:
            holders[id(weight)] = holders.get(id(weight), 0) + 1
    return {
        canonical_name(f"{name}.weight"): child
        for name, child in module.named_modules()
        if isinstance(child, (nn.Linear, Conv1D)) and holders[id(child.weight)] == 1 and ".lora_" not in name
    }


def _require_map(name: str, maps: Mapping[str, nn.Module]) -> None:
    if name not in maps:
        raise ChangeError(
            f"{name} is not the weight of a linear map of its own in this model. Name a Linear or Conv1D whose weight "
            "is not tied to another module's."
        )


def _require_fit(name: str, factors: Factors, maps: Mapping[str, nn.Module]) -> None:
    _require_map(name, maps)
    weight = maps[name].get_parameter("weight")
    map_shape = tuple(reversed(weight.shape)) if isinstance(maps[name], Conv1D) else tuple(weight.shape)
    factor_shape = (len(factors.outputs), factors.inputs.shape[1])
    if factor_shape != map_shape:
        raise ChangeError(
            f"The factors of {name} lead from {factor_shape[1]} inputs to {factor_shape[0]} outputs, its map from "
            f"{map_shape[1]} to {map_shape[0]}. Give U as [out, rank] and V as [rank, in]."
        )


def _require_product(name: str, outputs: Tensor, inputs: Tensor) -> None:
    compatible = outputs.ndim == inputs.ndim == 2 and outputs.shape[1] == inputs.shape[0] > 0
    if not compatible or not (outputs.is_floating_point() and inputs.is_floating_point()):
        shapes = f"{tuple(outputs.shape)} and {tuple(inputs.shape)}"
        raise ChangeError(
            f"The factors of {name} are {shapes}. Give U as [out, rank] and V as [rank, in], real numbers."
        )
    if not (outputs.isfinite().all() and inputs.isfinite().all()):
        raise ChangeError(f"A factor of {name} holds a number that is not finite. Make the change again in float32.")


def _moves(factors: Factors) -> bool:
    """Whether the product has an entry that is not zero."""
    return any(product.any() for product in _products(factors, torch.device("cpu")))


def _sum(linear: nn.Module, factors: Factors) -> Tensor:
    """The weight with the update added, rounded once, in the weight's type and stored orientation."""
    weight = linear.get_parameter("weight").detach()
    device = torch.device("cpu") if weight.device.type == "mps" else weight.device  # where there is no float64
    after = torch.empty_like(weight, device=device)
    stored = isinstance(linear, Conv1D)
    old, new = (rearrange(t, "i o -> o i") if stored else t for t in (weight.to(device), after))
    for start, product in enumerate(_products(factors, device)):
        rows = slice(start * _ROWS, start * _ROWS + len(product))
        new[rows] = (old[rows].double() + product).to(weight.dtype)
    if not after.isfinite().all():
        raise ChangeError(f"The change leaves the range of {weight.dtype}. Load the model in float32.")
    return after


def _products(factors: Factors, device: torch.device) -> Iterator[Float[Tensor, "row in"]]:
    outputs, inputs = (factor.to(device, torch.float64) for factor in factors)
    for rows in outputs.split(_ROWS):
        yield einsum(rows, inputs, "row rank, rank input -> row input")
