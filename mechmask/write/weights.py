"""``WeightChange``: new values of some weights, put in place and taken back from a copy; ``trainable`` finds them.

A weight of which most entries stay is held by those that change, the others as a whole; nothing is held twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int, Shaped
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mechmask.errors import ChangeError
from mechmask.interrupts import atomic_context
from mechmask.models.fingerprint import digest
from mechmask.models.gradients import without_gradients
from mechmask.models.lock import exclusive
from mechmask.models.model import Model, adapted_layers
from mechmask.write.change import Change, Held, blocks_of, named_weights

_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, eq=False)
class Entries:
    """Some entries of a weight.

    Attributes:
        positions: where they are in the flattened weight ``[entry]``.
        values: their new values ``[entry]``, in the weight's type.
        shape: of the whole weight.
    """

    positions: Int[Tensor, " entry"]
    values: Shaped[Tensor, " entry"]
    shape: torch.Size


class WeightChange(Change):
    """New values of some weights.

    Args:
        after: the new value of each weight, by its name in the module without adapters: as a whole, or the entries that
            change; ``compact`` chooses.
        before: digest of the value of each weight that is replaced.
        base: fingerprint of all that the model computed with when the change was made.
        method: how it was made.
        details: configuration and course.

    Raises:
        ChangeError: if no weight would change, or a new value is not a finite number.
    """

    kind = "weights"

    def __init__(
        self,
        after: Mapping[str, Tensor | Entries],
        before: Mapping[str, str],
        base: str,
        method: str,
        details: Mapping[str, Any],
    ) -> None:
        super().__init__(base, method, details)
        self._changed = [name for name, new in after.items() if _differs(new, before[name])]
        if not self._changed:
            raise ChangeError(
                f"The {method} change changes nothing: every weight is as it was. Give it more steps or a wider clamp."
            )
        self.after = {name: _copied(new) for name, new in after.items()}
        self.before = dict(before)
        not_finite = next((name for name, new in self.after.items() if not _values(new).isfinite().all()), None)
        if not_finite is not None:
            raise ChangeError(
                f"The {method} change has a value in {not_finite} that is not a finite number. Make it again at a "
                "lower learning rate, or in float32."
            )

    @property
    def blocks(self) -> tuple[int, ...]:
        """The blocks of which a weight changes, in order."""
        return blocks_of(self._changed)

    @property
    def weights(self) -> tuple[str, ...]:
        """The weights that are set."""
        return tuple(self.after)

    def held(self) -> list[Held]:
        """The shape of each weight that is set as a whole; of the others, how many entries change."""
        return [_held(name, new) for name, new in self.after.items()]

    @atomic_context
    def _put_on(self, model: Model) -> Iterator[None]:
        weights = named_weights(model.module)
        before = {name: weights[name].detach().clone() for name in self.after}
        try:
            set_weights(weights, self.after)
            yield
        finally:
            set_weights(weights, before)

    def _difference_from(self, model: Model) -> str:
        weights = named_weights(model.module)
        for name, new in self.after.items():
            if name not in weights or weights[name].shape != new.shape:
                return f"it has no weight {name} of shape {tuple(new.shape)}"
            if weights[name].dtype != _values(new).dtype:
                return f"its {name} is {weights[name].dtype}, not {_values(new).dtype}"
        if any(tensor_digest(weights[name]) != self.before[name] for name in self.after):
            return "the weights to be replaced have other values"
        state = "an adapter is on" if adapted_layers(model.module) else "no adapter is on"
        return f"the weights to be replaced are the same, but something else differs ({state})"

    def _write(self, directory: Path) -> dict[str, Any]:
        whole = {name: new for name, new in self.after.items() if isinstance(new, Tensor)}
        parts = {name: new for name, new in self.after.items() if isinstance(new, Entries)}
        if whole:
            save_file(whole, directory / "weights.safetensors")
        if parts:
            positions = {f"{name}.positions": entries.positions for name, entries in parts.items()}
            values = {f"{name}.values": entries.values for name, entries in parts.items()}
            save_file(positions | values, directory / "entries.safetensors")
        return {"before": self.before, "shapes": {name: list(entries.shape) for name, entries in parts.items()}}

    @classmethod
    def read(cls, directory: Path, header: Mapping[str, Any]) -> WeightChange:
        """The weights that were saved in a directory.

        Args:
            directory: where they are.
            header: what ``change.json`` says.

        Raises:
            ValueError: if weights and header do not belong together.
        """
        after: dict[str, Tensor | Entries] = {}
        if (directory / "weights.safetensors").is_file():
            after |= load_file(directory / "weights.safetensors")
        stored = load_file(directory / "entries.safetensors") if header["shapes"] else {}
        for name, shape in header["shapes"].items():
            entries = Entries(stored.pop(f"{name}.positions"), stored.pop(f"{name}.values"), torch.Size(shape))
            after[name] = _checked(entries)
        if stored or set(after) != set(header["before"]):
            raise ValueError("weights and header do not belong together")
        return cls(after, header["before"], header["base"], header["method"], header["details"])


def compact(before: Tensor, after: Tensor) -> Tensor | Entries:
    """A new value as a whole, or the entries of which a bit differs, whichever takes less room."""
    old, new = (tensor.detach().contiguous().view(_INTEGERS[tensor.element_size()]) for tensor in (before, after))
    positions = (old != new).flatten().nonzero().flatten()
    if len(positions) * (4 + after.element_size()) >= after.numel() * after.element_size():
        return after.detach()
    width = torch.int32 if after.numel() <= torch.iinfo(torch.int32).max else torch.int64
    return Entries(positions.to(width), after.detach().flatten()[positions], after.shape)


def set_weights(weights: Mapping[str, nn.Parameter], values: Mapping[str, Tensor | Entries]) -> None:
    """Copy values into weights, in place."""
    with without_gradients():
        for name, value in values.items():
            if isinstance(value, Entries):
                device = weights[name].device
                weights[name].put_(value.positions.to(device, torch.int64), value.values.to(device))
            else:
                weights[name].copy_(value)


@atomic_context
def trainable(model: Model, weights: Mapping[str, nn.Parameter]) -> Iterator[dict[str, Tensor]]:
    """Only ``weights`` ask for gradients inside, in evaluation mode; values, flags and gradients come back afterwards.

    Args:
        model: the model.
        weights: some of its parameters, by name.

    Yields:
        The weights' values before.
    """
    with exclusive(model.module):
        asked = {parameter: (parameter.requires_grad, parameter.grad) for parameter in model.module.parameters()}
        before = {name: weight.detach().clone() for name, weight in weights.items()}
        try:
            for parameter in asked:
                parameter.requires_grad_(False)
            for weight in weights.values():
                weight.requires_grad_(True)
                weight.grad = None
            with model.evaluation():
                yield before
        finally:
            set_weights(weights, before)
            for parameter, (flag, gradient) in asked.items():
                parameter.requires_grad_(flag)
                parameter.grad = gradient


def tensor_digest(tensor: Tensor) -> str:
    """Digest of one tensor's type, shape and bytes."""
    return digest([("", tensor)])


def _differs(new: Tensor | Entries, before: str) -> bool:
    return len(new.positions) > 0 if isinstance(new, Entries) else tensor_digest(new) != before


def _held(name: str, new: Tensor | Entries) -> Held:
    if isinstance(new, Tensor):
        return Held(name, f"{list(new.shape)}", new.nbytes)
    what = f"{len(new.positions):,} of {new.shape.numel():,} entries of {list(new.shape)}"
    return Held(name, what, new.positions.nbytes + new.values.nbytes)


def _values(new: Tensor | Entries) -> Tensor:
    return new.values if isinstance(new, Entries) else new


def _copied(new: Tensor | Entries) -> Tensor | Entries:
    """A copy that follows no tensor of the caller's."""
    if isinstance(new, Entries):
        return Entries(new.positions.cpu().clone(), new.values.cpu().clone(), new.shape)
    return new.detach().cpu().contiguous().clone()


def _checked(entries: Entries) -> Entries:
    """Entries that were read: positions that are integers, in order, within the weight.

    Raises:
        ValueError: if they are not.
    """
    positions, size = entries.positions, entries.shape.numel()
    whole = not positions.is_floating_point() and positions.ndim == 1 and positions.shape == entries.values.shape
    if not whole or (len(positions) and not (int(positions[0]) >= 0 and int(positions[-1]) < size)):
        raise ValueError("positions do not fit the weight")
    if not (positions.diff() > 0).all():
        raise ValueError("positions are not in order")
    return entries
