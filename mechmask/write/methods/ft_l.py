"""FT-L: constrained fine-tuning of one MLP output projection (Zhu et al. 2020, as ROME's ``FT+L``).

After every step of the descent the weights are clamped to an L-infinity ball around what they were.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from mechmask.facts.fact import Fact
from mechmask.models.gradients import without_gradients
from mechmask.models.model import Model
from mechmask.progress import Tick
from mechmask.write.presets import preset
from mechmask.write.projection_descent import (
    DescentConfig,
    DescentEditor,
    Objective,
    Weights,
    descend,
    projection_weights,
)
from mechmask.write.weights import WeightChange


class FTLConfig(DescentConfig):
    """How FT-L edits: ``DescentConfig`` and the following.

    Attributes:
        clamp: radius of the L-infinity ball around the old weights, in units of the weight.
        objective: ``target_new`` (teacher-forced) or ``prompt_last`` (as published: all target tokens at the last
            prompt position).
    """

    method: Literal["ft_l"] = "ft_l"
    clamp: float = Field(gt=0, allow_inf_nan=False)
    objective: Objective = "target_new"

    @classmethod
    def preset(cls, name: str) -> FTLConfig:
        """A named setting.

        Args:
            name: of a model in ``write/presets``.

        Raises:
            ChangeError: if there is none of that name.
        """
        return cls.model_validate(preset("ft_l", name).config)


class FTL(DescentEditor[FTLConfig]):
    """FT-L at work on a model: within a ball around the old weights."""

    method: ClassVar[str] = "ft_l"

    def _make(self, model: Model, facts: tuple[Fact, ...], tick: Tick | None) -> WeightChange:
        radius = self.config.clamp

        def clamp(weights: Weights, before: Mapping[str, Tensor]) -> None:
            with without_gradients():
                for name, weight in weights.items():
                    weight.clamp_(before[name] - radius, before[name] + radius)

        _warn_of_coarse_weights(projection_weights(model.anatomy.mlp_output(self.config.layer)), radius)
        return descend(model, facts, self.config, self.method, self.config.objective, constrain=clamp, tick=tick)


def _warn_of_coarse_weights(weights: Weights, clamp: float) -> None:
    for name, weight in weights.items():
        if torch.finfo(weight.dtype).eps * weight.detach().abs().median() > clamp:
            warnings.warn(
                f"The clamp {clamp:g} is finer than {weight.dtype} resolves at the median weight of "
                f"{name}: most weights cannot move within it. Load the model in float32.",
                stacklevel=3,
            )
