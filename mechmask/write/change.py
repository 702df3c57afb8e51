"""A change of a model as an object: applied in a context, undone bit for bit, saved as safetensors.

``WeightChange`` holds the new values of some weights and puts the old ones back from a copy. Adapters live in
``mechmask.write.adapter``. A change remembers the weights that it was made on, and refuses others.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mechmask.errors import ChangeError
from mechmask.files import new_directory
from mechmask.models.fingerprint import canonical_name, digest
from mechmask.models.model import Model
from mechmask.models.states import Variant

SCHEMA_VERSION = 1


class Change(ABC):
    """What fine-tuning and edits return.

    Attributes:
        method: how it was made, such as ``lora`` or ``ft_l``.
        details: its configuration and what happened while it was made, as JSON values.
    """

    kind: str

    def __init__(self, method: str, details: Mapping[str, Any]) -> None:
        self.method = method
        self.details = dict(details)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.method!r})"

    @abstractmethod
    def applied(self, model: Model) -> Any:
        """A context in which ``model`` is changed; leaving it restores every bit, whatever happened inside.

        Raises:
            ChangeError: if the model is not the one that the change was made on.
        """

    def on(self, model: Model | Variant) -> Variant:
        """The model with this change on, as one thing that readings of two models take."""
        return Variant(model, self)

    @abstractmethod
    def _write(self, directory: Path) -> dict[str, Any]:
        """Write the tensors into ``directory``; return what else has to be remembered."""

    @classmethod
    @abstractmethod
    def read(cls, directory: Path, header: dict[str, Any]) -> Change:
        """The change that ``_write`` wrote."""

    def save(self, directory: str | Path) -> None:
        """Write the change into a new directory, atomically: ``change.json`` beside safetensors.

        Raises:
            ChangeError: if the directory is there already.
        """
        target = Path(directory)
        if target.exists():
            raise ChangeError(f"{target} is there already. Save the change under another name.")
        with new_directory(target) as temporary:
            header = {
                "schema_version": SCHEMA_VERSION,
                "kind": self.kind,
                "method": self.method,
                "details": self.details,
            }
            header |= self._write(temporary)
            (temporary / "change.json").write_text(json.dumps(header, indent=2, sort_keys=True), encoding="utf-8")


class WeightChange(Change):
    """New values of some weights.

    Args:
        after: the new value of each weight, by its name in the module without adapters.
        before: digest of the value that each of them has to have when the change is applied.
        method: how it was made.
        details: configuration and course.

    Raises:
        ChangeError: if no weight would change.
    """

    kind = "weights"

    def __init__(
        self, after: Mapping[str, Tensor], before: Mapping[str, str], method: str, details: Mapping[str, Any]
    ) -> None:
        super().__init__(method, details)
        if all(tensor_digest(tensor) == before[name] for name, tensor in after.items()):
            raise ChangeError(
                f"The {method} change changes nothing: every weight is as it was. Give it more steps or a wider clamp."
            )
        self.after = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in after.items()}
        self.before = dict(before)

    @cached_property
    def blocks(self) -> tuple[int, ...]:
        """The blocks of which a weight changes, in order."""
        return blocks_of(name for name, tensor in self.after.items() if tensor_digest(tensor) != self.before[name])

    @contextmanager
    def applied(self, model: Model) -> Iterator[Model]:
        """The model with the new weights."""
        weights = named_weights(model.module)
        missing = [name for name in self.after if name not in weights or weights[name].shape != self.after[name].shape]
        if missing:
            raise ChangeError(
                f"{model.name} has no weight {missing[0]} of the shape that this change has. Apply it to the "
                "model it was made on."
            )
        if any(tensor_digest(weights[name]) != self.before[name] for name in self.after):
            raise ChangeError(
                "The weights are not those that this change was made on. Undo other changes first, or apply those "
                "that were there."
            )
        kept = {name: weights[name].detach().clone() for name in self.after}
        try:
            set_weights(weights, self.after)
            yield model
        finally:
            set_weights(weights, kept)

    def _write(self, directory: Path) -> dict[str, Any]:
        save_file(self.after, directory / "weights.safetensors")
        return {"before": self.before}

    @classmethod
    def read(cls, directory: Path, header: dict[str, Any]) -> WeightChange:
        """The weights that were saved in a directory."""
        return cls(load_file(directory / "weights.safetensors"), header["before"], header["method"], header["details"])


def block_of(name: str) -> int | None:
    """The block that a weight or a factor belongs to: the first number in its path; ``None`` outside the blocks."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def blocks_of(names: Iterable[str]) -> tuple[int, ...]:
    """The blocks that weights or factors of these names belong to, in order."""
    return tuple(sorted({block for name in names if (block := block_of(name)) is not None}))


def named_weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """Every parameter by the name that it has when no adapter wraps its layer."""
    return {canonical_name(name): parameter for name, parameter in module.named_parameters()}


def set_weights(weights: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Copy values into weights, in place."""
    with torch.no_grad():
        for name, value in values.items():
            weights[name].copy_(value)


def tensor_digest(tensor: Tensor) -> str:
    """Digest of one tensor's type, shape and bytes."""
    return digest([("", tensor)])
