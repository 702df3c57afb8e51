"""A model with a change on, as one thing: what is compared where two models share one copy of the weights.

A change is anything with ``applied(model)``; changes themselves live in ``mechmask.write``. Also here: whether two
models compute by the same architecture, which is what makes their layers comparable.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

from mechmask.models.model import Model

# What says where a configuration came from, how it is trained or how it generates, not what a block computes.
_NOT_COMPUTED = (
    *("_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype", "use_cache", "return_dict"),
    *("id2label", "label2id", "problem_type", "vocab_size", "tie_word_embeddings", "init_std"),
)
_NOT_COMPUTED_PARTS = ("dropout", "pdrop", "layerdrop", "initializer", "token_id", "output_", "summary_")


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

    model: Model | Variant
    change: Applicable

    def __repr__(self) -> str:
        return f"Variant({self.name!r})"

    @property
    def name(self) -> str:
        """A label such as ``smollm2-135m + lora``."""
        return f"{self.model.name} + {self.change.method}"

    @contextmanager
    def active(self) -> Iterator[Model]:
        """The changed model under this variant's name; leaving takes the change off.

        Raises:
            ChangeError: if the change was made on other weights, or another change is on already.
        """
        with active(self.model) as model, self.change.applied(model) as changed:
            yield replace(changed, name=self.name)


@contextmanager
def active(model: Model | Variant) -> Iterator[Model]:
    """The model itself, or a variant with its change on for as long as the context is open."""
    if isinstance(model, Model):
        yield model
        return
    with model.active() as changed:
        yield changed


def unchanged(model: Model | Variant) -> Model:
    """The model under every change."""
    return model if isinstance(model, Model) else unchanged(model.model)


def unlike(first: Model, second: Model) -> str:
    """The first setting in which two models compute differently, with both values; empty where there is none.

    Vocabularies are not compared: no block knows of them.
    """
    ours, theirs = _computed(first), _computed(second)
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            return f"{name} is {ours.get(name)} in one and {theirs.get(name)} in the other"
    return ""


def _computed(model: Model) -> dict[str, Any]:
    settings = model.module.config.get_text_config().to_dict()
    return {
        "model_type": model.family,
        **{
            name: value
            for name, value in settings.items()
            if name not in _NOT_COMPUTED and not any(part in name for part in _NOT_COMPUTED_PARTS)
        },
    }
