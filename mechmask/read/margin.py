"""``read_margin``: by how much new leads old at every layer, for little more than the forward pass.

A margin is a difference of two logits, so neither the rest of the vocabulary nor a softmax is needed.
"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from einops import rearrange
from jaxtyping import Float

from mechmask.models.model import Model
from mechmask.models.packing import Batch
from mechmask.models.states import Variant, active, unchanged
from mechmask.read.backends import Backend, BackendName, backend_of
from mechmask.read.lenses.lens import Lens, lens_of, lens_provenance
from mechmask.read.scoring.check import require_margin
from mechmask.read.scoring.contests import ContestSet, Facts, Phrasings, facts_of
from mechmask.read.scoring.labels import layer_coordinates, provenance
from mechmask.read.scoring.unembed import token_logits


def read_margin(
    model: Model | Variant,
    facts: Facts,
    lens: str | Lens = "logit",
    backend: BackendName | Backend = "transformer_lens",
    *,
    phrasings: Phrasings = "prompt",
    batch_size: int = 64,
) -> xr.Dataset:
    """Margin of new over old at every layer, where their tokens diverge: what ``read_depth`` has, and nothing else.

    Args:
        model: a model or a state (``change.on(model)``).
        facts: a fact set, facts, mappings with their fields, a pandas table, or the path of a fact file.
        lens: how a layer is read, as in ``read_depth``.
        backend: who watches the residual stream, as in ``read_depth``.
        phrasings: ``prompt``, or ``all`` for a dimension ``phrasing`` over the prompt and its paraphrases.
        batch_size: prompts per forward pass; affects memory only.

    Returns:
        ``margin[fact, layer]`` in nats, layers 0..L, with ``depth`` = layer / L beside ``layer``.

    Raises:
        FactError: listing every problem of the facts in one message.
        RouteError: if a value cannot be told from the prompt or from its rival; all facts in one message.
        ReadingError: if lens, backend or phrasings are not known, the backend was made over another model, or the
            margin at L is not the model's own.
        ChangeError: if a state's change was made on another model.
    """
    chosen = lens_of(lens, unchanged(model))
    with active(model) as now:
        watcher = backend_of(backend, now)
        contests = ContestSet.of(now, facts_of(facts, distractors=False), phrasings)
        margins = np.full((len(contests), now.n_layers + 1), np.nan)
        masked = np.zeros(len(contests), dtype=bool)
        with now.inference():
            for batch in contests.batches(now, "divergence", batch_size):
                margins[list(batch.divergence)] = _margins(now, chosen, watcher, batch, contests)
                masked[list(batch.divergence)] = batch.attention_mask is not None
        error = require_margin(now, contests, margins[:, -1], masked)
        about = provenance(
            now, model, score="divergence", **lens_provenance(chosen, now), backend=watcher.name, check_error_nats=error
        )
    reading = contests.dataset({"margin": (("layer",), margins, {"units": "nats"})})
    return reading.assign_coords(layer_coordinates(now.n_layers)).assign_attrs(about)


def _margins(
    model: Model, lens: Lens, backend: Backend, batch: Batch, contests: ContestSet
) -> Float[np.ndarray, "contest layer"]:
    """The contests in the order of ``batch.divergence``."""
    residuals = backend.residuals(batch)
    nodes = torch.tensor(list(batch.divergence.values()), device=residuals.device)
    carried = torch.stack([lens.transport(residual[nodes], layer) for layer, residual in enumerate(residuals)])
    normed = model.anatomy.final_norm(carried)
    logits = token_logits(model.anatomy, normed, contests.rivals(batch).to(normed.device))
    return rearrange(logits[..., 1] - logits[..., 0], "layer contest -> contest layer").double().cpu().numpy()
