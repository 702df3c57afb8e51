"""Unlearning Depth Score (arXiv 2605.24614): how much of a value's depth a change has emptied, by patching.

Works on two readings of ``patch_residual`` into the model that knows the value: one with a model that never learned it
as source (the reference), one with the changed model. It needs that reference; the erase index does without.
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
    if not tau >= 0:
        raise ReadingError(f"tau={tau} is not a threshold. Give 0 nats or more.")
    _comparable(reference_patch, change_patch)
    reference, change = _drop(reference_patch), _drop(change_patch)
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
    return result.assign_attrs(
        tau_nats=tau,
        model=reference_patch.attrs.get("model_target", ""),
        model_reference=reference_patch.attrs.get("model_source", ""),
        model_change=change_patch.attrs.get("model_source", ""),
    )


def _drop(patch: xr.Dataset) -> xr.DataArray:
    """What the target loses of old, at every block's output ``[fact, layer]``."""
    old = patch.sel(route="old", drop=True)
    return (old.logprob_target - old.logprob).isel(layer=slice(1, None))


def _comparable(reference: xr.Dataset, change: xr.Dataset) -> None:
    patches = {"reference": reference, "change": change}
    for name, patch in patches.items():
        what = f"The depth score ({name})"
        require(patch, what, variables=("logprob", "logprob_target"), dims=("fact", "route", "layer"))
        if "old" not in patch.route.values:
            raise ReadingError(f"{what} needs the route old, which this reading lacks. Patch with it.")
        require_every_layer(patch, what)
    require_same(
        patches,
        "The depth score",
        dims=("fact", "layer"),
        attributes=("fingerprint_target", "positions", "score"),
        coordinates=("subject", "value", "token"),
    )
