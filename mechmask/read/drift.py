"""How far a change moved the residual stream, layer by layer, and whether two changes moved it the same way.

Read where old and new diverge, one position a fact, so padding and positions that all prompts share play no part.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from mechmask.errors import ReadingError
from mechmask.facts.fact import Fact
from mechmask.facts.fact_set import FactSet
from mechmask.measure.cka import linear_cka
from mechmask.models.model import Model
from mechmask.models.packing import batches
from mechmask.models.routes import Contest, encode_contests
from mechmask.models.states import Variant, active
from mechmask.read.backends import backend_of
from mechmask.read.logits import may_pack
from mechmask.read.scoring.labels import fact_coordinates, provenance

_FEWEST_FOR_CKA = 4


def residual_drift(
    before: Model | Variant,
    after: Model | Variant,
    facts: FactSet | Sequence[Fact],
    *,
    backend: str = "transformer_lens",
    batch_size: int = 64,
) -> xr.Dataset:
    """How the residual stream of two models of one shape differs at the position where old and new diverge.

    Args:
        before: the model, or a model with a change on (``change.on(model)``).
        after: the other; it may share the first one's weights.
        facts: where to read.
        backend: who watches the residual stream.
        batch_size: prompts a forward pass.

    Returns:
        ``drift[fact, layer]``, the norm of the difference relative to that of ``before``; ``cosine[fact, layer]``
        between the two; ``cka[layer]``, unbiased linear CKA over the facts (NaN with fewer than four); layers 0..L
        with ``depth`` beside them. ``over_facts`` makes means with intervals of the first two.

    Raises:
        ReadingError: if the models differ in shape or there is no fact.
        RouteError: if a value cannot be told from the prompt or from its rival.
    """
    first, about = _residuals(before, facts, backend, batch_size)
    second, about_after = _residuals(after, facts, backend, batch_size)
    _require_same_shape(first, second)
    moved = np.linalg.norm(second - first, axis=-1) / np.linalg.norm(first, axis=-1)
    few = len(facts) < _FEWEST_FOR_CKA
    alike = [np.nan if few else linear_cka(*pair) for pair in zip(first, second, strict=True)]
    return _dataset(
        list(facts),
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
    facts: FactSet | Sequence[Fact],
    *,
    backend: str = "transformer_lens",
    batch_size: int = 64,
) -> xr.Dataset:
    """Whether two changes of one model move the residual stream the same way.

    Args:
        base: the model that both changes were made on.
        first: the model after one of them.
        second: the model after the other.
        facts: where to read.
        backend: who watches the residual stream.
        batch_size: prompts a forward pass.

    Returns:
        ``cosine[fact, layer]`` between the two differences to ``base``; NaN where one of them moves nothing.

    Raises:
        ReadingError: if the models differ in shape or there is no fact.
    """
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
    return _dataset(list(facts), {"cosine": (("layer", "fact"), cosine)}).assign_attrs(read[0][1], **names, **prints)


def _residuals(
    model: Model | Variant, facts: FactSet | Sequence[Fact], backend: str, batch_size: int
) -> tuple[np.ndarray, dict[str, str | float]]:
    """The residual stream where old and new diverge ``[layer, fact, width]`` in float64."""
    if not len(facts):
        raise ReadingError("There is no fact to read. Give at least one.")
    with active(model) as now, now.inference():
        contests: list[Contest | None] = encode_contests(now.tokenizer, facts)
        watcher = backend_of(backend, now)
        kept = np.empty((now.n_layers + 1, len(contests), now.width))
        for batch in batches(contests, score="divergence", batch_size=batch_size, pack=may_pack(now, contests)):
            nodes = torch.tensor(list(batch.divergence.values()))
            residuals = watcher.residuals(batch)
            kept[:, list(batch.divergence)] = residuals[:, nodes.to(residuals.device)].double().cpu().numpy()
        return kept, provenance(now, score="divergence", backend=watcher.name)


def _require_same_shape(first: np.ndarray, second: np.ndarray) -> None:
    if first.shape != second.shape:
        raise ReadingError(
            f"The models differ in shape: {first.shape[0] - 1} layers of width {first.shape[2]} and "
            f"{second.shape[0] - 1} of width {second.shape[2]}. Give two states of one model."
        )


def _cosine(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return (first * second).sum(-1) / (np.linalg.norm(first, axis=-1) * np.linalg.norm(second, axis=-1))


def _dataset(facts: list[Fact], variables: dict) -> xr.Dataset:
    n_layers = len(next(iter(variables.values()))[1]) - 1
    layers = np.arange(n_layers + 1)
    coordinates = {**fact_coordinates(facts), "layer": layers, "depth": ("layer", layers / n_layers)}
    return xr.Dataset(variables, coordinates).transpose("fact", "layer")
