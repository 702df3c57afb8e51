"""FT-L: constrained fine-tuning of one MLP output projection (Zhu et al. 2020, as ROME's ``FT+L``).

After every step of the descent the weights are clamped to an L-infinity ball around what they were.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from mechmask.facts.fact import Fact
from mechmask.models.gradients import without_gradients
from mechmask.models.model import Model
from mechmask.progress import Tick
from mechmask.write.presets import preset
from mechmask.write.projection_descent import DescentConfig, Weights, descend, projection_weights
from mechmask.write.weights import WeightChange


class FTLConfig(DescentConfig):
    """How FT-L edits: ``DescentConfig`` and the clamp.

    Attributes:
        clamp: radius of the L-infinity ball around the old weights, in units of the weight.
    """

    method: Literal["ft_l"] = "ft_l"
    clamp: float = Field(gt=0, allow_inf_nan=False)

    @classmethod
    def preset(cls, name: str) -> FTLConfig:
        """A named setting.

        Args:
            name: of the preset in ``write/presets/ft_l.toml``.

        Raises:
            ChangeError: if there is none of that name.
        """
        return cls.model_validate(preset("ft_l", name).config)


def ft_l(model: Model, facts: Sequence[Fact], config: FTLConfig, tick: Tick | None = None) -> WeightChange:
    """Write the new value of every fact into one MLP output projection, within a ball around the old weights.

    Args:
        model: the model; it is left as it was.
        facts: the facts, edited together.
        config: how.
        tick: called after every step with how it stands.

    Raises:
        ChangeError: if there is no fact, the loss is not a number, or nothing changed.
        RouteError: if a value merges with its prompt.
    """

    def clamp(weights: Weights, before: Mapping[str, Tensor]) -> None:
        with without_gradients():
            for name, weight in weights.items():
                weight.clamp_(before[name] - config.clamp, before[name] + config.clamp)

    _warn_of_coarse_weights(projection_weights(model.anatomy.mlp_output(config.layer)), config.clamp)
    return descend(model, facts, config, "ft_l", constrain=clamp, tick=tick)


def _warn_of_coarse_weights(weights: Weights, clamp: float) -> None:
    for name, weight in weights.items():
        if torch.finfo(weight.dtype).eps * weight.detach().abs().median() > clamp:
            warnings.warn(
                f"The clamp {clamp:g} is finer than {weight.dtype} resolves at the median weight of "
                f"{name}: most weights cannot move within it. Load the model in float32.",
                stacklevel=3,
            )
