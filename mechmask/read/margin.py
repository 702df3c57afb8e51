"""``read_margin``: by how much new leads old at every layer, for little more than the forward pass.

A margin is a difference of two logits, so neither the rest of the vocabulary nor a softmax is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from mechmask.facts.fact import Fact
from mechmask.facts.fact_set import FactSet
from mechmask.models.model import Model
from mechmask.models.packing import Batch, batches
from mechmask.models.routes import Contest
from mechmask.read.backends import Backend, backend_of
from mechmask.read.lenses.lens import Lens, lens_of, lens_provenance
from mechmask.read.logits import may_pack
from mechmask.read.scoring.check import require_margin
from mechmask.read.scoring.contests import over_phrasings
from mechmask.read.scoring.labels import fact_coordinates, provenance
from mechmask.read.scoring.unembed import token_logits


def read_margin(
    model: Model,
    facts: FactSet | Sequence[Fact],
    lens: str | Lens = "logit",
    backend: str | Backend = "transformer_lens",
    *,
    phrasings: str = "prompt",
    batch_size: int = 64,
) -> xr.Dataset:
    """Margin of new over old at every layer, where their tokens diverge: what ``read_depth`` has, and nothing else.

    Args:
        model: the model, as it is now: an applied change counts.
        facts: the facts.
        lens: how a layer is read.
        backend: who watches the residual stream.
        phrasings: ``prompt``, or ``all`` for a dimension ``phrasing`` over the prompt and its paraphrases.
        batch_size: prompts a forward pass. It bounds memory and changes nothing else.

    Returns:
        ``margin[fact, layer]`` in nats, layers 0..L, with ``depth`` = layer / L beside ``layer``.

    Raises:
        RouteError: if a value cannot be told from the prompt or from its rival; all facts in one message.
        ReadingError: if lens, backend or phrasings are not known, or the margin at L is not the model's own.
    """
    chosen, watcher = lens_of(lens, model), backend_of(backend, model)
    facts = [fact.model_copy(update={"distractors": ()}) for fact in facts]  # nothing is read of them
    reading = over_phrasings(
        model, facts, phrasings, lambda facts, contests: _read(model, facts, contests, chosen, watcher, batch_size)
    )
    layers = np.arange(model.n_layers + 1)
    about = provenance(model, score="divergence", **lens_provenance(chosen, model), backend=watcher.name)
    reading = reading.assign_coords(layer=layers, depth=("layer", layers / model.n_layers))
    return reading.assign_attrs(about, **reading.attrs)


def _read(
    model: Model, facts: list[Fact], contests: list[Contest | None], lens: Lens, backend: Backend, batch_size: int
) -> xr.Dataset:
    margins = np.full((len(facts), model.n_layers + 1), np.nan)
    with model.inference():
        for batch in batches(contests, score="divergence", batch_size=batch_size, pack=may_pack(model, contests)):
            margins[list(batch.divergence)] = _margins(model, lens, backend, batch, contests).T
    error = require_margin(model, contests, margins[:, -1])
    return xr.Dataset(
        {"margin": (("fact", "layer"), margins, {"units": "nats"})}, fact_coordinates(facts)
    ).assign_attrs(check_error_nats=error)


def _margins(
    model: Model, lens: Lens, backend: Backend, batch: Batch, contests: Sequence[Contest | None]
) -> np.ndarray:
    """``[layer, contest]``, the contests in the order of ``batch.divergence``."""
    rivals = [
        [contest.routes[route][contest.n_common] for route in ("old", "new")]
        for contest in (contests[index] for index in batch.divergence)
        if contest is not None
    ]
    residuals = backend.residuals(batch)
    nodes = torch.tensor(list(batch.divergence.values()), device=residuals.device)
    carried = torch.stack([lens.transport(residual[nodes], layer) for layer, residual in enumerate(residuals)])
    logits = token_logits(
        model.anatomy, model.anatomy.final_norm(carried), torch.tensor(rivals, device=residuals.device)
    )
    return (logits[..., 1] - logits[..., 0]).double().cpu().numpy()
