"""``read_depth``: the contest at every layer, through a lens.

The residual stream is kept at the positions where routes are decided, carried to the last layer by the lens, normed and
unembedded as the model itself does at its output. At layer L that is the model's output, and the reading checks it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from mechmask.facts.fact import Fact
from mechmask.facts.fact_set import FactSet
from mechmask.measure.contest import margin
from mechmask.models.model import Model
from mechmask.models.packing import Batch, batches
from mechmask.models.routes import Contest
from mechmask.read.backends import Backend, backend_of
from mechmask.read.lenses.lens import Lens, lens_of, lens_provenance
from mechmask.read.logits import may_pack
from mechmask.read.scoring.check import require_identity
from mechmask.read.scoring.contests import over_phrasings
from mechmask.read.scoring.labels import provenance, require_score
from mechmask.read.scoring.table import RouteTable
from mechmask.read.scoring.unembed import score_tokens


def read_depth(
    model: Model,
    facts: FactSet | Sequence[Fact],
    lens: str | Lens = "logit",
    score: str = "divergence",
    backend: str | Backend = "transformer_lens",
    *,
    phrasings: str = "prompt",
    batch_size: int = 64,
) -> xr.Dataset:
    """Log-probability of every route of every fact at every layer.

    Args:
        model: the model, as it is now: an applied change counts.
        facts: the facts.
        lens: how a layer is read; ``logit``, ``ridge``, ``tuned`` (fitted on the weights under an adapter when first
            asked for), a ``TunedLens``, or an object with a name and ``transport(residual, layer)``.
        score: ``divergence`` (the token at which old and new differ; a distractor that has no token of its own there is
            NaN), ``sequence`` or ``mean``.
        backend: who watches the residual stream: ``transformer_lens``, ``nnsight``, or a backend made over this model,
            such as ``NnsightBackend(model, remote=True)``.
        phrasings: ``prompt``, or ``all`` for a dimension ``phrasing`` over the prompt and its paraphrases.
        batch_size: prompts a forward pass. It bounds memory and changes nothing else.

    Returns:
        ``logprob[fact, route, layer]`` and ``margin[fact, layer]`` in nats, layers 0..L, with ``depth`` = layer / L
        beside ``layer``; with ``phrasings="all"`` each has ``phrasing`` too. ``value[fact, route]`` and ``token[fact,
        route]``, the tokens that the score reads with ``|`` between two, are coordinates (``token`` with ``phrasing``
        where phrasings differ in it).

    Raises:
        RouteError: if a value cannot be told from the prompt or from its rival; all facts in one message.
        ReadingError: if lens, score, backend or phrasings are not known, or the reading at L is not the model's output.
    """
    require_score(score)
    chosen, watcher = lens_of(lens, model), backend_of(backend, model)
    reading = over_phrasings(
        model,
        facts,
        phrasings,
        lambda facts, contests: _read(model, facts, contests, score, chosen, watcher, batch_size),
    )
    layers = np.arange(model.n_layers + 1)
    reading = reading.assign_coords(layer=layers, depth=("layer", layers / model.n_layers))
    attrs = provenance(model, score=score, **lens_provenance(chosen, model), backend=watcher.name)
    return reading.assign(margin=margin(reading.logprob).assign_attrs(units="nats")).assign_attrs(
        attrs, **reading.attrs
    )


def _read(
    model: Model,
    facts: list[Fact],
    contests: list[Contest | None],
    score: str,
    lens: Lens,
    backend: Backend,
    batch_size: int,
) -> xr.Dataset:
    table = RouteTable(model.tokenizer, facts, model.n_layers + 1)
    with model.inference():
        for batch in batches(contests, score=score, batch_size=batch_size, pack=may_pack(model, contests)):
            table.add(batch, _score_layers(model, lens, backend.residuals(batch), batch).double().cpu().numpy())
    return table.dataset(score).assign_attrs(check_error_nats=require_identity(model, contests, table))


def _score_layers(model: Model, lens: Lens, residuals: Tensor, batch: Batch) -> Tensor:
    """Log-probabilities ``[layer, query]``; all layers go through the unembedding together."""
    n_layers, n_nodes, _ = residuals.shape
    carried = torch.cat([lens.transport(residual, layer) for layer, residual in enumerate(residuals)])
    normed = model.anatomy.final_norm(carried)
    nodes, tokens = batch.asked(normed.device)
    offsets = torch.arange(n_layers, device=normed.device)[:, None] * n_nodes
    scores = score_tokens(model.anatomy, normed, (nodes + offsets).flatten(), tokens.repeat(n_layers))
    return scores.logprob.reshape(n_layers, -1)
