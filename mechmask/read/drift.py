"""How far a change moved the residual stream, layer by layer, and whether two changes moved it the same way.

Read where old and new diverge, one position a fact, so padding and positions that all prompts share play no part.
"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from einops import einsum
from jaxtyping import Float

from mechmask.errors import ReadingError
from mechmask.facts.fact_set import FactSet
from mechmask.measure.cka import linear_cka
from mechmask.models.model import Model
from mechmask.models.states import Variant, active
from mechmask.read.backends import Backend, BackendName, backend_of
from mechmask.read.scoring.contests import ContestSet, Facts, facts_of
from mechmask.read.scoring.labels import fact_coordinates, layer_coordinates, provenance

_FEWEST_FOR_CKA = 4


def residual_drift(
    before: Model | Variant,
    after: Model | Variant,
    facts: Facts,
    *,
    backend: BackendName | Backend = "transformer_lens",
    batch_size: int = 64,
) -> xr.Dataset:
    """How the residual stream of two models of one shape differs at the position where old and new diverge.

    Args:
        before: a model or a state (``change.on(model)``).
        after: the other; it may share the first one's weights.
        facts: where to read; facts in any form that a reading takes.
        backend: who watches the residual stream; by name where ``before`` and ``after`` are two modules.
        batch_size: prompts per forward pass; affects memory only.

    Returns:
        ``drift[fact, layer]``, the norm of the difference relative to that of ``before``; ``cosine[fact, layer]``
        between the two; ``cka[layer]``, unbiased linear CKA over the facts (NaN with fewer than four); layers 0..L
        with ``depth`` beside them. ``over_facts`` makes means with intervals of the first two.

    Raises:
        FactError: listing every problem of the facts in one message.
        ReadingError: if the models differ in shape, there is no fact, or the backend was made over another model.
        RouteError: if a value cannot be told from the prompt or from its rival.
        ChangeError: if a state's change was made on another model.
    """
    facts = facts_of(facts)
    first, about = _residuals(before, facts, backend, batch_size)
    second, about_after = _residuals(after, facts, backend, batch_size)
    _require_same_shape(first, second)
    moved = np.linalg.norm(second - first, axis=-1) / np.linalg.norm(first, axis=-1)
    few = len(facts) < _FEWEST_FOR_CKA
    alike = [np.nan if few else linear_cka(*pair) for pair in zip(first, second, strict=True)]
    return _dataset(
        facts,
        {
            "drift": (("layer", "fact"), moved),
            "cosine": (("layer", "fact"), _cosine(first, second)),
            "cka": ("layer", alike),
        },
    ).assign_attrs(about, model_after=about_after["model"], fingerprint_after=about_after["fingerprint"])


def change_cosine(
    base: Model | Variant,
    first: Model | Variant,
    second: Model | Variant,
    facts: Facts,
    *,
    backend: BackendName | Backend = "transformer_lens",
    batch_size: int = 64,
) -> xr.Dataset:
    """Whether two changes of one model move the residual stream the same way.

    Args:
        base: the model that both changes were made on.
        first: the model, or the state, after one of them.
        second: the model, or the state, after the other.
        facts: where to read; facts in any form that a reading takes.
        backend: who watches the residual stream; by name where they are several modules.
        batch_size: prompts per forward pass; affects memory only.

    Returns:
        ``cosine[fact, layer]`` between the two differences to ``base``, layers 0..L; NaN where one of them moves
        nothing.

    Raises:
        FactError: listing every problem of the facts in one message.
        ReadingError: if the models differ in shape, there is no fact, or the backend was made over another model.
    """
    facts = facts_of(facts)
    read = [_residuals(model, facts, backend, batch_size) for model in (base, first, second)]
    origin = read[0][0]
    for residuals, _ in read[1:]:
        _require_same_shape(origin, residuals)
    cosine = _cosine(read[1][0] - origin, read[2][0] - origin)
    names = {f"model_{name}": about["model"] for name, (_, about) in zip(("first", "second"), read[1:], strict=True)}
    prints = {
        f"fingerprint_{name}": about["fingerprint"]
        for name, (_, about) in zip(("first", "second"), read[1:], strict=True)
    }
    return _dataset(facts, {"cosine": (("layer", "fact"), cosine)}).assign_attrs(read[0][1], **names, **prints)


def _residuals(
    model: Model | Variant, facts: FactSet, backend: BackendName | Backend, batch_size: int
) -> tuple[Float[np.ndarray, "layer fact width"], dict[str, str | float]]:
    """The residual stream where old and new diverge in float64, and the provenance of what was read."""
    with active(model) as now, now.inference():
        contests = ContestSet.of(now, facts_of(facts, distractors=False))
        watcher = backend_of(backend, now)
        stream = np.empty((now.n_layers + 1, len(contests), now.width))
        for batch in contests.batches(now, "divergence", batch_size):
            nodes = torch.tensor(list(batch.divergence.values()))
            residuals = watcher.residuals(batch)
            stream[:, list(batch.divergence)] = residuals[:, nodes.to(residuals.device)].double().cpu().numpy()
        return stream, provenance(now, model, score="divergence", backend=watcher.name)


def _require_same_shape(first: Float[np.ndarray, ...], second: Float[np.ndarray, ...]) -> None:
    if first.shape != second.shape:
        raise ReadingError(
            f"The models differ in shape: {first.shape[0] - 1} layers of width {first.shape[2]} and "
            f"{second.shape[0] - 1} of width {second.shape[2]}. Give two states of one model."
        )


def _cosine(
    first: Float[np.ndarray, "layer fact width"], second: Float[np.ndarray, "layer fact width"]
) -> Float[np.ndarray, "layer fact"]:
    products = einsum(first, second, "layer fact width, layer fact width -> layer fact")
    with np.errstate(invalid="ignore"):
        return products / (np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1))


def _dataset(facts: FactSet, variables: dict) -> xr.Dataset:
    n_layers = len(next(iter(variables.values()))[1]) - 1
    coordinates = {**fact_coordinates(facts), **layer_coordinates(n_layers)}
    return xr.Dataset(variables, coordinates).transpose("fact", "layer")
