"""Where a training ends before its last step: the dose of a correction as a choice.

The paper's regime is a correction that has just won; a fixed number of steps runs past it, further for an easy fact
than for a stubborn one. No torch here.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

import numpy as np
import xarray as xr
from pydantic import Field, model_validator

from mechmask.configuration import Configuration
from mechmask.measure.reading import require


class Until(Configuration):
    """The first checkpoint at which what is taught is said, or leads by enough.

    Attributes:
        recall: share of the taught values that greedy decoding has to say on the prompt.
        margin: nats by which new has to lead old on the prompt of the facts that are contradicted.
        of: whether that is their mean margin, or the margin of each.
    """

    recall: float | None = Field(default=None, gt=0, le=1)
    margin: float | None = None
    of: Literal["mean", "each"] = "mean"

    @model_validator(mode="after")
    def _one_rule(self) -> Until:
        if (self.recall is None) == (self.margin is None):
            raise ValueError("a training ends by recall or by margin. Give one of the two")
        return self

    def __str__(self) -> str:
        if self.recall is not None:
            return f"recall {self.recall:g}"
        return f"a margin of {self.margin:g} nats ({'mean' if self.of == 'mean' else 'every fact'})"

    def reached(self, output: xr.Dataset, taught: Collection[tuple[str, str]]) -> bool:
        """Whether a reading has it.

        Args:
            output: reading of the prompts: ``recalled[fact, route]`` and ``margin[fact]`` in nats.
            taught: label and value of every fact that is taught.

        Raises:
            ReadingError: if the reading lacks what the rule asks of it.
        """
        needed = "margin" if self.recall is None else "recalled"
        require(output, f"A training that ends at {self}", variables=(needed,), dims=("fact", "route"))
        if self.recall is not None:
            return recall_of(output, taught) >= self.recall
        new = dict(zip(output.fact.values.tolist(), output.value.sel(route="new").values.tolist(), strict=True))
        margins = output.margin.values[[(fact, value) in taught for fact, value in new.items()]]
        if not len(margins):
            return False
        return bool((margins.mean() if self.of == "mean" else margins.min()) >= self.margin)


class UntilHeldOut(Configuration):
    """The first checkpoint at which examples of the training's own kind are predicted well enough.

    Attributes:
        loss: nats per token that it is to fall below.
        accuracy: share of the examples whose whole value is to be said, which it is to exceed.
    """

    loss: float | None = Field(default=None, gt=0)
    accuracy: float | None = Field(default=None, ge=0, lt=1)

    @model_validator(mode="after")
    def _one_rule(self) -> UntilHeldOut:
        if (self.loss is None) == (self.accuracy is None):
            raise ValueError("a training ends by loss or by accuracy. Give one of the two")
        return self

    def __str__(self) -> str:
        if self.loss is not None:
            return f"a held-out loss below {self.loss:g} nats per token"
        return f"a held-out accuracy above {self.accuracy:g}"

    def reached(self, output: xr.Dataset, taught: Collection[tuple[str, str]]) -> bool:  # noqa: ARG002
        """Whether a reading has it.

        Args:
            output: reading of facts, ``logprob[fact, route]`` in nats, beside which stand ``held_out_loss`` in nats per
                token and ``held_out_accuracy``, a share.
            taught: label and value of every fact that is taught, of which this rule does not ask.

        Raises:
            ReadingError: if the reading lacks what the rule asks of it.
        """
        needed = "held_out_loss" if self.accuracy is None else "held_out_accuracy"
        require(output, f"A training that ends at {self}", variables=(needed,))
        found = float(output[needed])
        return found < self.loss if self.loss is not None else found > float(self.accuracy or 0.0)


def recall_of(output: xr.Dataset, taught: Collection[tuple[str, str]]) -> float:
    """Share of the taught values that greedy decoding says; 0 where none of them is a route of what was read.

    Args:
        output: reading of the prompts: ``recalled[fact, route]``.
        taught: label and value of every fact that is taught.

    Raises:
        ReadingError: if the reading does not say what is recalled.
    """
    require(output, "The recall of a training", variables=("recalled",), dims=("fact", "route"))
    said = [
        bool(output.recalled.sel(fact=fact, route=route))
        for fact in output.fact.values
        for route in output.route.values
        if (fact, output.value.sel(fact=fact, route=route).item()) in taught
    ]
    return float(np.mean(said)) if said else 0.0
