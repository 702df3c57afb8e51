"""``read_depth``: the contest at every layer, through a lens.

The residual stream is taken at the positions where routes are decided, carried to the last layer by the lens, normed
and unembedded as the model itself does at its output. At layer L that is the model's output, and the reading checks it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from mechmask.measure.contest import margin
from mechmask.models.model import Model
from mechmask.models.packing import Batch
from mechmask.models.states import Variant, active, unchanged
from mechmask.read.backends import Backend, BackendName, backend_of
from mechmask.read.lenses.lens import Lens, lens_of, lens_provenance
from mechmask.read.scoring.asking import Template, as_asked, asking, in_both
from mechmask.read.scoring.check import require_identity
from mechmask.read.scoring.contests import ContestSet, Facts, Phrasings, facts_of
from mechmask.read.scoring.labels import Score, layer_coordinates, provenance, require_score
from mechmask.read.scoring.table import RouteTable
from mechmask.read.scoring.unembed import score_layers


def read_depth(
    model: Model | Variant,
    facts: Facts,
    lens: str | Lens = "logit",
    score: Score = "divergence",
    backend: BackendName | Backend = "transformer_lens",
    *,
    phrasings: Phrasings = "prompt",
    template: Template | None = None,
    batch_size: int = 64,
) -> xr.Dataset:
    """Log-probability of every route of every fact at every layer.

    Args:
        model: a model or a state (``change.on(model)``).
        facts: a fact set, facts, mappings with their fields, a pandas table, or the path of a fact file.
        lens: how a layer is read; ``logit``, ``ridge``, ``tuned`` (fitted when first asked for, on the model under a
            state's changes and without an adapter), a ``TunedLens``, or an object with a name and
            ``transport(residual, layer)``.
        score: ``divergence`` (the token at which old and new differ; a distractor that has no token of its own there is
            NaN), ``sequence`` or ``mean``.
        backend: who watches the residual stream: ``transformer_lens``, ``nnsight``, or a backend made over this model
            or the one under this state, such as ``NnsightBackend(model)``.
        phrasings: ``prompt``, or ``all`` for a dimension ``phrasing`` over the prompt and its paraphrases.
        template: ``plain``, ``chat`` or ``both``, as in ``read_logits``.
        batch_size: prompts per forward pass; affects memory only.

    Returns:
        ``logprob[fact, route, layer]`` and ``margin[fact, layer]`` in nats, layers 0..L, with ``depth`` = layer / L
        beside ``layer``; with ``phrasings="all"`` each has ``phrasing`` too. ``value[fact, route]`` and ``token[fact,
        route]``, the tokens that the score reads with ``|`` between two, are coordinates (``token`` with ``phrasing``
        where phrasings differ in it). By ``sequence`` a value with aliases has the probability of all its spellings.

    Raises:
        FactError: listing every problem of the facts in one message.
        RouteError: if a value cannot be told from the prompt or from its rival; all facts in one message.
        ReadingError: if lens, score, backend or phrasings are not known, the backend was made over another model, or
            the reading at L is not the model's output.
        ChangeError: if a state's change was made on another model.
    """
    require_score(score)
    chosen = lens_of(lens, unchanged(model))
    if template == "both":
        how: dict[str, Any] = {"phrasings": phrasings, "batch_size": batch_size}
        return in_both(partial(read_depth, model, facts_of(facts), chosen, score, backend, **how))
    with active(model) as now:
        watcher = backend_of(backend, now)
        asked = as_asked(facts, template)
        contests = ContestSet.of(now, asked, phrasings, aliases=score == "sequence")
        depth = DepthReading(now, contests, score, chosen, watcher)
        with now.inference():
            for batch in contests.batches(now, score, batch_size):
                depth.add(batch, watcher.residuals(batch))
        (error,) = require_identity(now, depth.table)
        about = provenance(now, model, score=score, **asking(now, asked), **depth.method)
        return depth.dataset().assign_attrs(about, check_error_nats=error)


class DepthReading:
    """What ``read_depth`` reads, filled batch by batch.

    Args:
        model: what is read.
        contests: what is read of it.
        score: the score of a route.
        lens: how a layer is read.
        backend: who watches the residual stream.

    Attributes:
        table: log-probability of every route at every layer.
        method: lens and backend, as attributes of a reading.
    """

    def __init__(self, model: Model, contests: ContestSet, score: Score, lens: Lens, backend: Backend) -> None:
        self._model = model
        self._lens = lens
        self.table = RouteTable(model.tokenizer, contests, score, model.n_layers)
        self.method = {**lens_provenance(lens, model), "backend": backend.name}

    def add(self, batch: Batch, residuals: Float[Tensor, "layer node width"]) -> None:
        """Add what a forward pass gave at the nodes of a batch, layers 0..L."""
        carried = torch.stack([self._lens.transport(residual, layer) for layer, residual in enumerate(residuals)])
        logprob = score_layers(self._model.anatomy, self._model.anatomy.final_norm(carried), batch)
        self.table.add(batch, logprob.double().cpu().numpy())

    def dataset(self) -> xr.Dataset:
        """What ``read_depth`` returns, but for its provenance."""
        reading = self.table.dataset().assign_coords(layer_coordinates(self._model.n_layers))
        return reading.assign(margin=margin(reading.logprob).assign_attrs(units="nats"))
