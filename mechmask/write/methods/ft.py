"""FT: unconstrained fine-tuning of one MLP output projection, the baseline of Meng et al. 2022 (ROME, appendix E)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from mechmask.facts.fact import Fact
from mechmask.models.model import Model
from mechmask.progress import Tick
from mechmask.write.projection_descent import DescentConfig, descend
from mechmask.write.weights import WeightChange


class FTConfig(DescentConfig):
    """How FT edits: ``DescentConfig`` and nothing else."""

    method: Literal["ft"] = "ft"


def ft(model: Model, facts: Sequence[Fact], config: FTConfig, tick: Tick | None = None) -> WeightChange:
    """Write the new value of every fact into one MLP output projection, as far from the old weights as it takes.

    Args:
        model: the model; it is left as it was.
        facts: the facts, edited together.
        config: how.
        tick: called after every step with how it stands.

    Raises:
        ChangeError: if there is no fact, the loss is not a number, or nothing changed.
        RouteError: if a value merges with its prompt.
    """
    return descend(model, facts, config, "ft", tick=tick)
