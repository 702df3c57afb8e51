"""MEMIT: many facts at once by least squares against the keys of text (Meng et al. 2023)."""

from __future__ import annotations

from typing import ClassVar, Literal

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mechmask.write.low_rank import Factors
from mechmask.write.solves import least_squares
from mechmask.write.spread import SpreadConfig, SpreadEditor


class MEMITConfig(SpreadConfig):
    """How MEMIT edits: ``SpreadConfig`` and the following.

    Attributes:
        moment_weight: how much the keys of text count beside those of the facts (``mom2_update_weight``).
    """

    method: Literal["memit"] = "memit"
    moment_weight: float = Field(default=15000.0, gt=0, allow_inf_nan=False)


class MEMIT(SpreadEditor):
    """MEMIT at work on a model."""

    method: ClassVar[str] = "memit"

    def _solve(self, layer: int, keys: Float[Tensor, "key fact"], residuals: Float[Tensor, "width fact"]) -> Factors:
        return least_squares(keys, residuals, self.moments[layer], self.config.moment_weight)
