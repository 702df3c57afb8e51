"""FT: unconstrained fine-tuning of one MLP output projection, the baseline of Meng et al. 2022 (ROME, appendix E)."""

from __future__ import annotations

from typing import ClassVar, Literal

from mechmask.facts.fact import Fact
from mechmask.models.model import Model
from mechmask.progress import Tick
from mechmask.write.projection_descent import DescentConfig, DescentEditor, Objective, descend
from mechmask.write.weights import WeightChange


class FTConfig(DescentConfig):
    """How FT edits: ``DescentConfig`` and the following.

    Attributes:
        objective: ``target_new`` (teacher-forced) or ``prompt_last`` (as published: all target tokens at the last
            prompt position).
    """

    method: Literal["ft"] = "ft"
    objective: Objective = "target_new"


class FT(DescentEditor[FTConfig]):
    """FT at work on a model: as far from the old weights as it takes."""

    method: ClassVar[str] = "ft"

    def _make(self, model: Model, facts: tuple[Fact, ...], tick: Tick | None) -> WeightChange:
        return descend(model, facts, self.config, self.method, self.config.objective, tick=tick)
