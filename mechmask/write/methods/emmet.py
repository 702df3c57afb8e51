"""EMMET: many facts at once under the constraint that each has its value exactly (Gupta et al. 2024).

For one fact it is ROME's closed form. For several the published code softens the constraint by a ridge of 0.1, in units
of the second moment times ``moment_weight``.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mechmask.write.low_rank import Factors
from mechmask.write.solves import constrained
from mechmask.write.spread import SpreadConfig, SpreadEditor


class EMMETConfig(SpreadConfig):
    """How EMMET edits: ``SpreadConfig`` and the following.

    Attributes:
        moment_weight: what the second moment is multiplied by (``mom2_update_weight``).
        ridge: how far values may be missed for the sake of text, where there are several facts (``emmet_lambda``).
    """

    method: Literal["emmet"] = "emmet"
    moment_weight: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    ridge: float = Field(default=0.1, ge=0, allow_inf_nan=False)


class EMMET(SpreadEditor):
    """EMMET at work on a model."""

    method: ClassVar[str] = "emmet"

    def _solve(self, layer: int, keys: Float[Tensor, "key fact"], residuals: Float[Tensor, "width fact"]) -> Factors:
        ridge = self.config.ridge * self.config.moment_weight if keys.shape[1] > 1 else 0.0
        return constrained(keys, residuals, self.moments[layer], ridge)
