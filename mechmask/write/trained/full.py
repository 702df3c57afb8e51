"""Whole blocks as what is trained: every weight, bias and norm in them, in place.

Embedding, final norm and unembedding are fixed: what is taught shows in blocks, whose layers are read, and a tied
embedding would change all of them at once. Beside the model it takes four times the memory of the trained weights:
their old values, gradients, and the two moments of AdamW. The change holds their new values, once more as much.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from mechmask.errors import ChangeError
from mechmask.interrupts import atomic_context
from mechmask.models.model import Model
from mechmask.write.change import named_weights
from mechmask.write.finetune_config import FinetuneConfig
from mechmask.write.trained.trained import Trained
from mechmask.write.weights import WeightChange, compact, set_weights, tensor_digest, trainable


class Full(Trained):
    """Every weight of the chosen blocks.

    Raises:
        ChangeError: if they are held in half precision, where most of a step would be lost to rounding.
    """

    kind = WeightChange
    noun = "a change of weights"

    def __init__(self, model: Model, config: FinetuneConfig) -> None:
        super().__init__(model, config)
        if model.dtype in (torch.float16, torch.bfloat16):
            raise ChangeError(
                f"Weights in {str(model.dtype)[6:]} would lose most of every step to rounding. Load the model in "
                "float32, or train an adapter."
            )
        self._before: Mapping[str, Tensor] = {}

    @atomic_context
    def on(self, model: Model, start: WeightChange | None) -> Iterator[Mapping[str, nn.Parameter]]:
        """The model with its blocks open to training.

        Args:
            model: the model.
            start: new values to begin with; weights that it does not name begin as they are.

        Raises:
            ChangeError: if it changes a weight that is not trained.
        """
        weights = {n: w for n, w in named_weights(model.module).items() if n.startswith(self._blocks)}
        if start is not None:
            self._require_within(start, weights)
        try:
            with trainable(model, weights) as self._before:
                if start is not None:
                    set_weights(weights, start.after)
                yield weights
        finally:
            self._before = {}

    def computing(self, module: nn.Module) -> AbstractContextManager[None]:  # noqa: ARG002
        """The module as it is.

        Args:
            module: the module.
        """
        return nullcontext()

    def change(self, parameters: Mapping[str, nn.Parameter], base: str, details: Mapping[str, Any]) -> WeightChange:
        """The weights as they are now.

        Args:
            parameters: the weights.
            base: fingerprint of the model before.
            details: configuration and course.

        Raises:
            ChangeError: if none has changed, or one is not a finite number.
        """
        after = {name: compact(self._before[name], weight) for name, weight in parameters.items()}
        digests = {name: tensor_digest(value) for name, value in self._before.items()}
        return WeightChange(after, digests, base, self.config.method, details)

    def _require_within(self, start: WeightChange, weights: Mapping[str, nn.Parameter]) -> None:
        fixed = next((name for name in start.after if name not in weights), None)
        if fixed is not None:
            raise ChangeError(
                f"The change to start from has a new value of {fixed}, which this training leaves as it is. Name its "
                "block in layers, or leave layers out."
            )
