"""``Trained``: what a fine-tuning asks of the thing that it trains: put on, learning inside, taken off as a change."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar, TypeAlias

from torch import nn

from mechmask.errors import ChangeError
from mechmask.models.model import Model
from mechmask.write.adapter import AdapterChange
from mechmask.write.finetune_config import FinetuneConfig
from mechmask.write.weights import WeightChange

Finetuned: TypeAlias = AdapterChange | WeightChange


class Trained(ABC):
    """What is trained, as a configuration says.

    Args:
        model: the model without changes; it is looked at only.
        config: how it is fine-tuned.

    Attributes:
        kind: of the change that results, and of one that can be continued.
        noun: what such a change is, for errors.

    Raises:
        ChangeError: if the configuration does not fit the model.
    """

    kind: ClassVar[type[AdapterChange] | type[WeightChange]]
    noun: ClassVar[str]

    def __init__(self, model: Model, config: FinetuneConfig) -> None:
        self.config = config
        self._blocks = chosen_blocks(model, config)

    @abstractmethod
    def on(self, model: Model, start: Any) -> AbstractContextManager[Mapping[str, nn.Parameter]]:
        """A context in which the parameters that it yields are on the model and ask for gradients, no others do.

        Leaving restores every bit, flag and gradient, whatever happened inside.

        Args:
            model: the model; it is in evaluation mode inside.
            start: a change of this kind that is made on the model as it is, whose values they begin with; ``None`` to
                begin anew.

        Raises:
            ChangeError: on entering, if ``start`` is of another shape.
        """

    @abstractmethod
    def computing(self, module: nn.Module) -> AbstractContextManager[None]:
        """What stands around the forward pass of a step.

        Args:
            module: the module with what is trained on.
        """

    @abstractmethod
    def change(self, parameters: Mapping[str, nn.Parameter], base: str, details: Mapping[str, Any]) -> Finetuned:
        """What was trained as a change, inside the context.

        Args:
            parameters: what the context yielded.
            base: fingerprint of the model before.
            details: configuration and course.

        Raises:
            ChangeError: if nothing would change, or a value is not a finite number.
        """


def chosen_blocks(model: Model, config: FinetuneConfig) -> tuple[str, ...]:
    """Prefixes of the names of all that lies in the blocks which a configuration trains.

    Raises:
        ChangeError: if it names no block, or one that the model lacks.
    """
    anatomy = model.anatomy
    blocks = range(anatomy.n_layers) if config.layers is None else config.layers
    if not blocks:
        raise ChangeError("layers=() leaves no block to train. Name at least one, or leave it out for all.")
    beyond = [block for block in blocks if not 0 <= block < anatomy.n_layers]
    if beyond:
        raise ChangeError(f"There is no block {beyond[0]}: the model has blocks 0 to {anatomy.n_layers - 1}.")
    return tuple(f"{anatomy.layout.blocks}.{block}." for block in blocks)
