"""AlphaEdit: many facts at once in the null space of what text asks of a projection (Fang et al. 2025).

Keys of earlier edits are kept, so that later ones leave them alone; they belong to the editor, and a new editor knows
of none. The directions that are left alone are kept instead of a projector as wide as a key, and the keys themselves
instead of their second moment, until there are more of them than a key is wide.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mechmask.errors import ChangeError
from mechmask.facts.fact import Fact
from mechmask.models.model import Model
from mechmask.write.low_rank import Factors
from mechmask.write.requests import requests
from mechmask.write.solves import in_null_space
from mechmask.write.spread import Rise, SpreadConfig, SpreadEditor
from mechmask.write.weights import trainable


class AlphaEditConfig(SpreadConfig):
    """How AlphaEdit edits: ``SpreadConfig`` and the following.

    Attributes:
        null_space_threshold: directions in which the second moment of the keys of text is at least this are left
            alone (``nullspace_threshold``); in the unit of a squared key, so it belongs to a model.
        ridge: weight of the size of the update (``L2``).
    """

    method: Literal["alphaedit"] = "alphaedit"
    null_space_threshold: float = Field(default=2e-2, gt=0, allow_inf_nan=False)
    ridge: float = Field(default=10.0, gt=0, allow_inf_nan=False)


class AlphaEdit(SpreadEditor):
    """AlphaEdit at work on a model."""

    method: ClassVar[str] = "alphaedit"

    def _solve(self, layer: int, keys: Float[Tensor, "key fact"], residuals: Float[Tensor, "width fact"]) -> Factors:
        threshold = self.config.null_space_threshold
        retained = self.moments[layer].retained(threshold)
        if retained.shape[0] == retained.shape[1]:
            raise ChangeError(
                f"No direction of block {layer} is free: the keys of text take each by {threshold:g} or more. "
                "Raise null_space_threshold."
            )
        past = keys[:, :0] if self._memory is None else self._memory[layer]
        return in_null_space(keys, residuals, retained, past, self.config.ridge)

    def _remember(self, model: Model, facts: tuple[Fact, ...], memory: Any) -> Any:
        """The keys of all facts so far in each layer, each read right after its own edit."""
        asked, layers = requests(model, facts, self.contexts), self.config.layers
        keys = {}
        with trainable(model, {}):
            rise = Rise(model, asked, layers)
            for layer in layers:
                rise.go_to(layer)
                new = rise.keys().mT
                keys[layer] = new if memory is None else _joined(memory[layer], new)
        return keys


def _joined(past: Float[Tensor, "key before"], new: Float[Tensor, "key fact"]) -> Float[Tensor, "key all"]:
    """All keys; as many as a key is wide with the same second moment, where there are more."""
    keys = torch.cat([past, new], dim=1)
    if keys.shape[1] <= len(keys):
        return keys
    left, sizes, _ = torch.linalg.svd(keys, full_matrices=False)
    return left * sizes
