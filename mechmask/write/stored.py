"""A change that another program wrote, an adapter of peft's or a whole checkpoint, as it lies on the disk.

It does not say which weights it was made on, so it is bound to the first model that it is put on, and from then on
refuses others, as every change does. Of a series only what is read just now need be in memory: a change may read its
directory again each time, and refuses one that has been written over.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from mechmask.errors import ChangeError
from mechmask.interrupts import atomic_context
from mechmask.models.fingerprint import digest
from mechmask.models.lock import exclusive
from mechmask.models.model import Model
from mechmask.write.adapter import AdapterChange
from mechmask.write.change import Change, Held
from mechmask.write.checkpoint import SETTINGS, change_from_checkpoint, weight_files
from mechmask.write.peft_adapter import adapter_directory, adapter_from_peft, is_adapter
from mechmask.write.weights import Entries, WeightChange


class StoredChange(Change):
    """A directory of another program's that becomes a change when it is first put on a model.

    Args:
        directory: of an adapter that peft wrote, or of a checkpoint.
        adapter: which adapter, where there are several.
        keep: whether what was read stays in memory.

    Raises:
        ChangeError: if it holds neither, or no adapter of that name.
    """

    kind = "stored"

    def __init__(self, directory: Path, adapter: str | None = None, *, keep: bool = True) -> None:
        self._is_adapter = is_adapter(directory)
        if not self._is_adapter and adapter is not None:
            raise ChangeError(f"{directory} holds no adapter, so there is none called {adapter!r}.")
        self.directory = adapter_directory(directory, adapter) if self._is_adapter else directory
        if not self._is_adapter:
            weight_files(directory)
        super().__init__("", "adapter" if self._is_adapter else "checkpoint", {"directory": str(self.directory)})
        self._keep = keep
        self._kept: AdapterChange | WeightChange | None = None
        self._digest = ""

    def made_on(self, model: Model) -> AdapterChange | WeightChange:
        """The change itself, of a model as it is now; the caller holds its lock.

        Args:
            model: what it is a change of. The first one binds it.

        Raises:
            ChangeError: if it does not fit, the model is another than the first, or the directory holds something else
                by now.
        """
        if self._kept is not None:
            return self._kept
        made = (adapter_from_peft if self._is_adapter else change_from_checkpoint)(self.directory, model)
        found = _digest(made)
        if self.base and self.base != made.base:
            raise ChangeError(
                f"The change in {self.directory} was put on another model before, or on other weights, and belongs to "
                f"those. Read it again with load_change for {model.name}."
            )
        if self._digest and self._digest != found:
            raise ChangeError(f"{self.directory} has been written over since it was read first. Read it again.")
        if not self.base:
            _warn_of_another_base(made, model)
        self.base, self._digest = made.base, found
        self.details = dict(made.details)
        if self._keep:
            self._kept = made
        return made

    @atomic_context
    def applied(self, model: Model) -> Iterator[Model]:
        """As ``Change.applied``; the first model that it is put on binds it."""
        with exclusive(model.module), self.made_on(model).applied(model) as changed:
            yield changed

    @property
    def blocks(self) -> tuple[int, ...]:
        """The blocks in which something changes, in order.

        Raises:
            ChangeError: as long as it was put on no model.
        """
        return self._bound().blocks

    def held(self) -> list[Held]:
        """As the change that it is on the model that it is bound to; nothing as long as it was put on none."""
        return [] if self._kept is None else self._kept.held()

    def save(self, directory: str | Path) -> None:
        """As ``Change.save``: what it is on the model that it is bound to.

        Raises:
            ChangeError: as long as it was put on no model, or if the directory already exists.
            FileError: if it cannot be written.
        """
        self._bound().save(directory)

    def _bound(self) -> AdapterChange | WeightChange:
        if self._kept is None:
            raise ChangeError(
                f"The change in {self.directory} does not say which weights it was made on. Give load_change the model "
                "too, and it is a change of that one."
            )
        return self._kept

    def _put_on(self, model: Model) -> AbstractContextManager[None]:
        return self.made_on(model)._put_on(model)

    def _difference_from(self, model: Model) -> str:
        return self._bound()._difference_from(model)

    def _write(self, directory: Path) -> dict[str, Any]:
        return self._bound()._write(directory)

    @classmethod
    def read(cls, directory: Path, header: Mapping[str, Any]) -> StoredChange:
        """None: what ``save`` writes is the change on the model that it is bound to."""
        raise ValueError(f"{directory} holds a change of kind {header.get('kind')}")


def is_stored(directory: Path) -> bool:
    """Whether a directory looks as if another program wrote a change there."""
    return is_adapter(directory) or (directory / SETTINGS).is_file()


def _warn_of_another_base(change: Change, model: Model) -> None:
    named = change.details.get("base_model_name_or_path")
    if isinstance(named, str) and named and Path(named).name != Path(model.name).name:
        warnings.warn(
            f"The adapter names {named} as its base, and is put on {model.name}. Its directory does not say which "
            "weights it was trained on: make sure that they are these.",
            stacklevel=2,
        )


def _digest(change: AdapterChange | WeightChange) -> str:
    if isinstance(change, AdapterChange):
        return digest(change.tensors.items())
    named = []
    for name, new in change.after.items():
        whole = {"positions": new.positions, "values": new.values} if isinstance(new, Entries) else {"": new}
        named += [(f"{name} {part}", tensor) for part, tensor in whole.items()]
    return digest(named)
