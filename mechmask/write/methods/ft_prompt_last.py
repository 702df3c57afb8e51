"""FT as published: every token of the new value is asked for at the last position of the prompt.

That is the objective of ROME's baselines (kmeng01/rome, baselines/ft) and, without a constraint on the weights, what a
library that is much used calls FT-L. With K different tokens its loss cannot fall below log K.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from mechmask.facts.fact import Fact
from mechmask.models.model import Model
from mechmask.progress import Tick
from mechmask.write.projection_descent import DescentConfig, DescentEditor, descend
from mechmask.write.weights import WeightChange


class FTPromptLastConfig(DescentConfig):
    """How it edits: ``DescentConfig`` and nothing else."""

    method: Literal["ft_prompt_last"] = "ft_prompt_last"


class FTPromptLast(DescentEditor[FTPromptLastConfig]):
    """FT with the published objective at work on a model."""

    method: ClassVar[str] = "ft_prompt_last"

    def _make(self, model: Model, facts: tuple[Fact, ...], tick: Tick | None) -> WeightChange:
        return descend(model, facts, self.config, self.method, "prompt_last", tick=tick)
