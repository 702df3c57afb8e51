"""Unlearning Depth Score (arXiv 2605.24614): how much of a value's depth a change has emptied, by patching or a lens.

By patching it works on two readings of ``patch_residual`` into the model that knows the value: one with a model that
never learned it as source (the reference), one with the changed model. By a lens, which the paper takes as a baseline,
it works on readings of the three models at every layer. Either needs that reference; the erase index does without.
"""

from __future__ import annotations

import xarray as xr

from mechmask.errors import ReadingError
from mechmask.measure.reading import require, require_every_layer, require_same

TAU_NATS = 0.05  # the published threshold; theirs is a mean over the value's tokens, here it is the diverging token


def depth_score(reference_patch: xr.Dataset, change_patch: xr.Dataset, tau: float = TAU_NATS) -> xr.Dataset:
    """Unlearning Depth Score of the old value of every fact.

    ``D1[l]`` is what the full model loses of ``logp(old)`` when the residual after block l comes from the reference,
    ``D2[l]`` when it comes from the changed model. Over the knowledge-encoding layers, ``D1 > tau``:
    ``UDS = sum D1 * clip(D2 / D1, 0, 1) / sum D1`` (arXiv 2605.24614). As published, layers are outputs of blocks,
    1..L; unlike there, one token is scored, the one at which old and new diverge.

    Args:
        reference_patch: ``patch_residual(reference, full, facts)``, with ``logprob[fact, route, layer]`` and
            ``logprob_target[fact, route]`` in nats.
        change_patch: ``patch_residual(changed, full, facts)``, of the same facts, target and positions.
        tau: threshold of D1 in nats.

    Returns:
        Over ``fact``: ``score``, 0 (as deep as in the full model) to 1 (as in the reference); ``unclipped``, the same
        ratio without the clip, so that suppression below the reference (above 1) and strengthening (below 0) show;
        ``n_layers``, how many layers encode the value. The first two are NaN where none does. ``drop_reference`` and
        ``drop_change`` ``[fact, layer]`` are D1 and D2.

    Raises:
        ReadingError: if the readings are not of the same facts, values, layers, target model and positions, or ``tau``
            is negative.
    """
    _require_threshold(tau)
    _comparable(reference_patch, change_patch)
    return _score(_drop(reference_patch), _drop(change_patch), tau).assign_attrs(
        model=reference_patch.attrs.get("model_target", ""),
        model_reference=reference_patch.attrs.get("model_source", ""),
        model_change=change_patch.attrs.get("model_source", ""),
    )


def lens_depth_score(full: xr.Dataset, reference: xr.Dataset, changed: xr.Dataset, tau: float = TAU_NATS) -> xr.Dataset:
    """The depth score with a lens in place of patching (the paper's baseline).

    ``D1[l]`` is what ``logp(old)``, read by the lens after block l, is lower in the reference than in the full model,
    ``D2[l]`` what it is lower in the changed model.

    Args:
        full: ``read_depth`` of the model that knows the value, ``logprob[fact, route, layer]`` in nats; ``phrasing``
            stays, where all three have it.
        reference: the same of a model that never learned it.
        changed: the same of the changed model.
        tau: threshold of D1 in nats.

    Returns:
        As ``depth_score``.

    Raises:
        ReadingError: if the readings are not of the same facts, values and layers by the same lens and score, or
            ``tau`` is negative.
    """
    _require_threshold(tau)
    readings = {"full": full, "reference": reference, "changed": changed}
    for name, reading in readings.items():
        _require_old(reading, f"The depth score by a lens ({name})", ("logprob",))
    require_same(
        readings,
        "The depth score by a lens",
        dims=("fact", "phrasing", "layer"),
        attributes=("lens", "score"),
        coordinates=("subject", "value", "token"),
    )
    by_layer = {name: _after_blocks(reading.logprob) for name, reading in readings.items()}
    names = {"model": full, "model_reference": reference, "model_change": changed}
    lost = by_layer["full"] - by_layer["reference"], by_layer["full"] - by_layer["changed"]
    return _score(*lost, tau).assign_attrs({n: reading.attrs.get("model", "") for n, reading in names.items()})


def _score(reference: xr.DataArray, change: xr.DataArray, tau: float) -> xr.Dataset:
    """The score from D1 and D2, each ``[fact, layer]``."""
    encoding = reference > tau
    weight = reference.where(encoding).sum("layer", min_count=1)
    lost = change.where(encoding)
    clipped = lost.clip(0, reference)  # D1 * clip(D2 / D1, 0, 1), since D1 > 0
    result = xr.Dataset(
        {
            "score": clipped.sum("layer", min_count=1) / weight,
            "unclipped": lost.sum("layer", min_count=1) / weight,
            "n_layers": encoding.sum("layer"),
            "drop_reference": reference,
            "drop_change": change,
        }
    )
    return result.assign_attrs(tau_nats=tau)


def _drop(patch: xr.Dataset) -> xr.DataArray:
    """What the target loses of old, at every block's output ``[fact, layer]``."""
    return patch.logprob_target.sel(route="old", drop=True) - _after_blocks(patch.logprob)


def _after_blocks(logprob: xr.DataArray) -> xr.DataArray:
    """Of old, at every block's output ``[fact, layer]``."""
    return logprob.sel(route="old", drop=True).isel(layer=slice(1, None))


def _require_threshold(tau: float) -> None:
    if not tau >= 0:
        raise ReadingError(f"tau={tau} is not a threshold. Give 0 nats or more.")


def _require_old(reading: xr.Dataset, what: str, variables: tuple[str, ...]) -> None:
    require(reading, what, variables=variables, dims=("fact", "route", "layer"))
    if "old" not in reading.route.values:
        raise ReadingError(f"{what} needs the route old, which this reading lacks. Read it with it.")
    require_every_layer(reading, what)


def _comparable(reference: xr.Dataset, change: xr.Dataset) -> None:
    patches = {"reference": reference, "change": change}
    for name, patch in patches.items():
        _require_old(patch, f"The depth score ({name})", ("logprob", "logprob_target"))
    require_same(
        patches,
        "The depth score",
        dims=("fact", "layer"),
        attributes=("fingerprint_target", "positions", "score"),
        coordinates=("subject", "value", "token"),
    )
