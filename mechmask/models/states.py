"""A model with a change on, as one thing: what is compared where two models share one copy of the weights.

A change is anything with ``applied(model)``; changes themselves live in ``mechmask.write``. Also here: whether two
models compute by the same architecture, which is what makes their layers comparable.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeAlias

import torch
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from mechmask.interrupts import atomic_context
from mechmask.models.computed import config_settings
from mechmask.models.model import Model, described
from mechmask.notebook import card, sentence, table


class Applicable(Protocol):
    """What a variant asks of a change."""

    method: str

    def applied(self, model: Model) -> AbstractContextManager[Model]:
        """A context in which ``model`` is changed."""
        ...


@dataclass(frozen=True, eq=False)
class Variant:
    """A model with a change on; the change is applied only while ``active()`` is open.

    Attributes:
        model: what is changed; a variant itself where changes are stacked.
        change: the change, such as a LoRA adapter or an edit.
    """

    model: State
    change: Applicable

    def __repr__(self) -> str:
        return f"Variant({self.name!r})"

    def _repr_html_(self) -> str:
        """The model under all changes, and the changes in the order in which they are put on."""
        rows = [
            (str(i), change.method, type(change).__name__, str(getattr(change, "base", "")) or "not bound yet")
            for i, change in enumerate(self.changes, 1)
        ]
        changes = table(("order", "change", "kind", "made on"), rows, (False,) * 4)
        return card(
            repr(self), {"base": self.base.name, **described(self.base)}, sentence("Changes, put on in turn"), changes
        )

    @property
    def name(self) -> str:
        """A label such as ``smollm2-135m + lora``."""
        return f"{self.model.name} + {self.change.method}"

    @property
    def base(self) -> Model:
        """The model under every change."""
        return self.model if isinstance(self.model, Model) else self.model.base

    @property
    def changes(self) -> tuple[Applicable, ...]:
        """The changes in the order in which they are applied."""
        inner = () if isinstance(self.model, Model) else self.model.changes
        return (*inner, self.change)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer; no change touches it."""
        return self.base.tokenizer

    @property
    def family(self) -> str:
        """The model type of transformers, such as ``llama``."""
        return self.base.family

    @property
    def n_layers(self) -> int:
        """The number of blocks, L."""
        return self.base.n_layers

    @property
    def width(self) -> int:
        """The width of the residual stream."""
        return self.base.width

    @property
    def vocab_size(self) -> int:
        """The number of logits."""
        return self.base.vocab_size

    @property
    def device(self) -> torch.device:
        """Where token ids have to be."""
        return self.base.device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return self.base.dtype

    @atomic_context
    def active(self) -> Iterator[Model]:
        """The changed model under this variant's name, for this thread alone; leaving takes the change off.

        Raises:
            ChangeError: if the change was made on another base, or another change is on already.
            ModelError: if another thread has the model and would never give it back.
        """
        with active(self.model) as model, self.change.applied(model) as changed:
            yield replace(changed, name=self.name)


State: TypeAlias = "Model | Variant"


@atomic_context
def active(state: State) -> Iterator[Model]:
    """The model that a state stands for, as long as the context is open: itself, or with every change on.

    No other thread reads or changes the module meanwhile. A reading opens it around all that it does, provenance
    included, and works with the model that it gets.

    Raises:
        ChangeError: if a change was made on another base, or another change is on already.
        ModelError: if another thread has the model and would never give it back.
    """
    if isinstance(state, Model):
        with state.exclusive():
            yield state
        return
    with state.active() as changed:
        yield changed


def unchanged(state: State) -> Model:
    """The model under every change."""
    return state if isinstance(state, Model) else state.base


def unlike(first: Model, second: Model) -> str:
    """The first setting in which two models compute differently, with both values; empty where there is none.

    Vocabularies are not compared: no block knows of them.
    """
    return settings_apart(first.module.config, second.module.config)


def settings_apart(first: PreTrainedConfig, second: PreTrainedConfig) -> str:
    """The same of two models' configurations."""
    first_settings, second_settings = config_settings(first), config_settings(second)
    for name in sorted(first_settings.keys() | second_settings.keys()):
        if first_settings.get(name) != second_settings.get(name):
            one, other = _shown(first_settings.get(name)), _shown(second_settings.get(name))
            return f"{name} is {one} in one and {other} in the other"
    return ""


def _shown(value: Any) -> Any:
    """Settings are compared as floats; a whole number is shown as a person writes it."""
    return int(value) if isinstance(value, float) and value.is_integer() else value
