"""``read_proxy``: the contest in one model moved by the difference of two others, over many strengths at once.

Where old and new part, the margin of ``base + alpha (expert - anti)`` is linear in ``alpha``: each model is read once,
and only the normalisation is made again for each strength.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from mechmask.errors import ReadingError
from mechmask.models.combined import CombinedAnatomy, combine, mixed
from mechmask.models.forward import decoded
from mechmask.models.model import Model
from mechmask.models.states import State, active
from mechmask.read.logits import OutputReading
from mechmask.read.scoring.check import require_identity
from mechmask.read.scoring.contests import ContestSet, Facts, facts_of
from mechmask.read.scoring.labels import Score, provenance, require_score

ALPHAS = tuple(np.linspace(-1.0, 1.5, 11).tolist())


def read_proxy(
    base: State,
    expert: State,
    anti: State,
    facts: Facts,
    alphas: Sequence[float] = ALPHAS,
    score: Score = "divergence",
    *,
    batch_size: int = 32,
) -> xr.Dataset:
    """``read_logits`` of ``combine(base, expert, anti, alpha)`` at every strength, by one pass of each model.

    Args:
        base: the model that is moved.
        expert: a model with what is to be added.
        anti: the same model without it.
        facts: facts in any form that a reading takes.
        alphas: the strengths; below 0 takes away what the expert has.
        score: as in ``read_logits``; by ``divergence`` the margin is linear in ``alpha``, by others it is so at each
            token, and not in the sum.
        batch_size: prompts per forward pass; affects memory only.

    Returns:
        As ``read_logits``, in nats, with the dimension ``alpha`` in front: ``logprob[alpha, fact, route]``,
        ``margin[alpha, fact]`` and so on. The readings at the least and the greatest ``alpha`` are held against the
        models' own output.

    Raises:
        FactError: listing every problem of the facts in one message.
        RouteError: if a value cannot be told from the prompt or from its rival; all facts in one message.
        ModelError: if the models' logits cannot be added.
        ReadingError: if there is no strength, one is there twice or no number, or a reading disagrees with the models.
    """
    require_score(score)
    strengths = [float(alpha) for alpha in alphas]
    if not strengths or len(set(strengths)) < len(strengths) or not np.isfinite(strengths).all():
        raise ReadingError("The strengths alpha are no list of different numbers. Give at least one, each once.")
    with active(combine(base, expert, anti)) as whole:
        contests = ContestSet.of(whole, facts_of(facts), aliases=score == "sequence")
        moved = {alpha: _moved(whole, alpha) for alpha in strengths}
        outputs = {alpha: OutputReading(model, contests, score) for alpha, model in moved.items()}
        head: Any = whole.module.get_output_embeddings()
        with whole.inference():
            for batch in contests.batches(whole, score, batch_size):
                logits = torch.cat(head.parts(decoded(whole, batch)), dim=-1)
                for output in outputs.values():
                    output.add(batch, logits)
        errors = []
        for alpha in sorted({min(strengths), max(strengths)}):
            head.weights = _weights(alpha).to(whole.device)
            errors += require_identity(whole, outputs[alpha].table)
        about = provenance(whole, base, score=score)
    readings = [output.dataset() for output in outputs.values()]
    axis = xr.DataArray(strengths, dims="alpha", name="alpha")
    joined = cast("xr.Dataset", xr.concat(readings, axis, combine_attrs="override"))
    names = {name: state.name for name, state in (("base", base), ("expert", expert), ("anti", anti))}
    return joined.assign_attrs(about, **names, check_error_nats=max(errors))


class _Mixed(nn.Module):
    """Makes logits of those of the parts, side by side."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, logits: Tensor) -> Tensor:
        return mixed(logits.chunk(len(self.weights), dim=-1), self.weights)


@dataclass(frozen=True)
class _OfLogits(CombinedAnatomy):
    """The anatomy whose unembedding reads the logits of the parts.

    Attributes:
        mixed: makes the combined logits of them.
    """

    mixed: nn.Module

    @property
    def unembedding(self) -> nn.Module:
        return self.mixed


def _weights(alpha: float) -> Tensor:
    return torch.tensor([1.0, alpha, -alpha], dtype=torch.float64)


def _moved(whole: Model, alpha: float) -> Model:
    """The combined model at another strength, which reads the logits of its parts."""
    return replace(whole, anatomy=_OfLogits(whole.module, whole.anatomy.layout, _Mixed(_weights(alpha))))
