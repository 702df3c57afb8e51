"""A change of a model as an object: applied in a context, undone bit for bit, saved as safetensors.

A change carries the fingerprint of all that the model computed with when it was made (weights, adapters and their
scale, other changes), its ``base``, and is applied to nothing else. ``WeightChange`` holds new values of some weights;
adapters live in ``mechmask.write.adapter``, changes of low rank in ``mechmask.write.low_rank``.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from mechmask.errors import ChangeError
from mechmask.files import new_sealed_directory
from mechmask.hub import push
from mechmask.interrupts import atomic_context
from mechmask.models.fingerprint import canonical_name
from mechmask.models.lock import exclusive
from mechmask.models.model import Model
from mechmask.models.states import Variant
from mechmask.models.writable import require_writable
from mechmask.notebook import card, memory, ranges, table
from mechmask.write.change_card import card_of

SCHEMA_VERSION = 2  # 1 had no base for changes of weights


class Held(NamedTuple):
    """What a change keeps of one weight.

    Attributes:
        weight: the weight's name.
        what: in words, such as ``rank 4`` or ``[32, 64]``.
        n_bytes: of memory.
    """

    weight: str
    what: str
    n_bytes: int


class Change(ABC):
    """What fine-tuning and edits return.

    Args:
        base: fingerprint of all that the model computed with when the change was made.
        method: how it was made, such as ``lora`` or ``ft_l``.
        details: its configuration and what happened while it was made, as JSON values.

    Attributes:
        base, method, details: as above.
        kind: the name of this kind of change in a saved directory.
    """

    kind: str

    def __init__(self, base: str, method: str, details: Mapping[str, Any]) -> None:
        self.base = base
        self.method = method
        self.details = dict(details)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.method!r})"

    def _repr_html_(self) -> str:
        """Method and base, the tensors that it holds with their shapes or ranks, and how it was made."""
        held = self.held()
        fields: dict[str, object] = {"method": self.method, "kind": self.kind, "made on": self.base or "not bound yet"}
        if held:
            fields |= {"blocks": ranges(self.blocks), "tensors": len(held)}
            fields["bytes"] = f"{sum(one.n_bytes for one in held):,} ({memory(sum(one.n_bytes for one in held))})"
        fields |= {name: value for name, value in self.details.items() if isinstance(value, (str, int, float))}
        rows = [(one.weight, one.what, f"{one.n_bytes:,}") for one in held]
        tensors = [table(("weight", "held as", "bytes"), rows, (False, False, True))] if held else []
        return card(repr(self), fields, *tensors)

    def held(self) -> list[Held]:
        """What the change keeps of each weight that it touches; nothing where it can be computed again."""
        return []

    @property
    @abstractmethod
    def blocks(self) -> tuple[int, ...]:
        """The blocks in which something changes, in order."""

    @atomic_context
    def applied(self, model: Model) -> Iterator[Model]:
        """A context in which ``model`` is changed; leaving it restores every bit, whatever happened inside.

        Ctrl-C while the change is put on or taken off waits until that is done; another thread waits for the module.

        Args:
            model: the model that the change was made on.

        Raises:
            ChangeError: on entering, if the model does not compute with what the change was made on.
            WeightsError: on entering, if the change writes weights and they are quantised or offloaded.
        """
        with exclusive(model.module):
            self._require_applicable(model)
            self._require_base(model)
            with self._put_on(model):
                yield model

    def on(self, model: Model | Variant) -> Variant:
        """The model with this change on, as one thing that readings and changes take: a state.

        Args:
            model: the model that the change was made on; a state where changes are stacked.
        """
        return Variant(model, self)

    def save(self, directory: str | Path) -> None:
        """Write the change into a new directory, atomically: ``change.json``, safetensors, and a digest of each file.

        Args:
            directory: where to; it must not exist yet.

        Raises:
            ChangeError: if the directory already exists.
            FileError: if it cannot be written.
        """
        with new_sealed_directory(Path(directory), "the change", ChangeError) as temporary:
            header = {
                "schema_version": SCHEMA_VERSION,
                "kind": self.kind,
                "method": self.method,
                "base": self.base,
                "details": self.details,
            }
            header |= self._write(temporary)
            (temporary / "change.json").write_text(json.dumps(header, indent=2, sort_keys=True), encoding="utf-8")

    def push_to_hub(
        self,
        repo_id: str,
        *,
        base_model: str | None = None,
        license: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str | None = None,
    ) -> str:
        """Save the change as a repository of models on the Hugging Face Hub, with a card; ``load_change`` reads it.

        What ``details`` say goes with it, paths of this machine among them.

        Args:
            repo_id: ``owner/name``; made if it is not there. A change that mechmask saved there before is replaced.
            base_model: id on the Hub of the model that it was made on; its fingerprint is told in any case.
            license: of the weights, as the Hub names it.
            revision: a branch, made if it is not there; the main one by default.
            private: whether a new repository is; the owner's default otherwise.
            token: of the Hub; the one that is logged in by default.
            commit_message: of the commit.

        Returns:
            The commit's hash, which ``load_change`` takes as ``revision``.

        Raises:
            ChangeError: if the Hub refuses, or the repository holds something else.
            FileError: if there is no room to save it first.
        """
        return push(
            self.save,
            card_of(self, repo_id, base_model, license),
            repo_id,
            repo_type="model",
            refusal=ChangeError,
            revision=revision,
            private=private,
            token=token,
            commit_message=commit_message,
        )

    @abstractmethod
    def _put_on(self, model: Model) -> AbstractContextManager[None]:
        """Change the model, which computes with ``base``; leaving undoes it."""

    @abstractmethod
    def _difference_from(self, model: Model) -> str:
        """In what ``model`` differs from the base, as far as this change can tell."""

    @abstractmethod
    def _write(self, directory: Path) -> dict[str, Any]:
        """Write the tensors into ``directory``; return what else has to be remembered."""

    @classmethod
    @abstractmethod
    def read(cls, directory: Path, header: Mapping[str, Any]) -> Change:
        """The change that ``save`` wrote; any exception means that the directory does not hold one.

        Args:
            directory: where it is.
            header: what ``change.json`` says.
        """

    def _require_applicable(self, model: Model) -> None:
        """Refuse a model whose weights are codes or offloaded: what is written there would be lost in silence."""
        require_writable(model, f"The {self.method} change")

    def _require_base(self, model: Model) -> None:
        if model.fingerprint != self.base:
            raise ChangeError(
                f"The weights of {model.name} are not those that this change was made on: "
                f"{self._difference_from(model)}. Apply it to the model that it was made on, with the changes on that "
                "were on then, and no others."
            )


def block_of(name: str) -> int | None:
    """The block that a weight or a factor belongs to: the first number in its path; ``None`` outside the blocks."""
    return next((int(part) for part in name.split(".") if part.isdigit()), None)


def blocks_of(names: Iterable[str]) -> tuple[int, ...]:
    """The blocks that weights or factors of these names belong to, in order."""
    return tuple(sorted({block for name in names if (block := block_of(name)) is not None}))


def named_weights(module: nn.Module) -> dict[str, nn.Parameter]:
    """Every parameter by the name that it has when no adapter wraps its layer."""
    return {canonical_name(name): parameter for name, parameter in module.named_parameters()}
