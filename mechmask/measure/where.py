"""Where the correction was written: by lens, patching and grafting side by side, and the paper's measures of depth.

A lens only observes; patching and grafting intervene. ``where_written`` gives the layer that each of them names and
flags the facts on which they disagree. Evidence share and layers computed are from paper 2F, finding 5. Labelled arrays
only.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
import xarray as xr

from mechmask.errors import ReadingError
from mechmask.measure.commit import lead, leads_from, suffices_up_to
from mechmask.measure.commit_interval import CommitInterval as CommitInterval
from mechmask.measure.commit_interval import commit_interval
from mechmask.measure.contest import margin
from mechmask.measure.reading import require, require_every_layer, require_same

METHODS = ("lens", "patched", "grafted")
TOLERANCE_LAYERS = 3.0  # chosen here: a tenth of a 30-layer model


def where_written(
    depth_after: xr.Dataset,
    patched: xr.Dataset | None = None,
    grafted: xr.Dataset | None = None,
    tolerance_layers: float = TOLERANCE_LAYERS,
) -> xr.Dataset:
    """The layer at which new is committed, by lens, by patching and by grafting.

    Args:
        depth_after: ``read_depth`` of the changed model, ``logprob[fact, route, layer]``.
        patched: ``patch_residual`` with the changed model as source and the one before as target,
            ``margin[fact, layer]`` and, where it is there, ``logprob[fact, route, layer]``.
        grafted: ``graft_curve`` from the model before to the changed one, the same.
        tolerance_layers: how far apart two answers may be without disagreeing, in layers.

    Returns:
        Over ``fact``, in layers 0..L: ``lens``, the commit layer of new; ``patched``, the first layer from which on the
        residual of the changed model makes the model before prefer new; ``grafted``, the last layer l such that the
        changed blocks above it, and above every layer before it, suffice (L where new leads without any). NaN where
        there is no such layer, or the fact was not read in that way. To make the three comparable, new has to lead
        every other route if all readings have their log-probabilities, and old alone otherwise (``attrs["rivals"]``:
        ``all`` or ``old``). ``spread``: the largest difference between the answers; ``disagree``: 1 where it exceeds
        the tolerance, else 0; both NaN where there are fewer than two answers.

    Raises:
        ReadingError: if a reading lacks layers, is of another model, of other values of the facts, or shares no fact
            with ``depth_after``.
    """
    require(depth_after, "Where it was written (lens)", variables=("logprob",), dims=("fact", "route", "layer"))
    require_every_layer(depth_after, "Where it was written (lens)")
    if extra := set(depth_after.logprob.dims) - {"fact", "route", "layer"}:
        raise ReadingError(
            f"Where it was written takes one depth reading; this one has {', '.join(map(str, extra))} too. Select one."
        )
    others = {"patched": patched, "grafted": grafted}
    given = {name: _alone(reading, depth_after, name) for name, reading in others.items() if reading is not None}
    by_logprob = all("logprob" in reading for reading in given.values())
    answers = {"lens": leads_from(_lead(depth_after, by_logprob))}
    nowhere = xr.full_like(answers["lens"], np.nan, dtype=float)
    for name, locate in (("patched", leads_from), ("grafted", suffices_up_to)):
        answers[name] = locate(_lead(given[name], by_logprob)).reindex_like(nowhere) if name in given else nowhere
    layers = xr.Dataset(answers).to_dataarray("method")
    spread = (layers.max("method") - layers.min("method")).where(layers.count("method") > 1)
    disagree = (spread > tolerance_layers).astype(float).where(spread.notnull())
    return xr.Dataset(
        {**answers, "spread": spread, "disagree": disagree},
        attrs={
            "n_layers": int(depth_after.layer[-1]),
            "tolerance_layers": tolerance_layers,
            "rivals": "all" if by_logprob else "old",
        },
    )


def where_overview(
    where: xr.Dataset, level: float = 0.95, statistic: Literal["mean", "median"] = "median"
) -> pd.DataFrame:
    """One row for each of the three answers: its ``commit_interval`` over facts.

    Args:
        where: what ``where_written`` returned: ``lens[fact]``, ``patched[fact]`` and ``grafted[fact]`` in layers.
        level: of the intervals.
        statistic: ``mean`` or ``median``.

    Returns:
        ``estimate``, ``low`` and ``high`` in layers, ``n`` facts with a layer and ``n_none`` without.

    Raises:
        ReadingError: if ``where`` lacks an answer, or the statistic is another one.
    """
    require(where, "The overview", variables=METHODS, dims=("fact",))
    rows = {name: commit_interval(where[name].values, statistic, level)._asdict() for name in METHODS}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("method")


def evidence_share(before_depth: xr.Dataset, after_depth: xr.Dataset, above_layer: int) -> xr.DataArray:
    """The part of the final change in margin that the layers above one added (DESIGN, definitions).

    ``1 - change(above_layer) / change(L)``, with ``change(l)`` the margin after less the margin before at layer l.
    Below 0 or above 1 where layers work against each other; unsteady where the final change is small.

    Args:
        before_depth: ``read_depth`` before the change, ``margin[fact, layer]`` in nats.
        after_depth: the same facts by the same lens after it.
        above_layer: the layer, 0..L.

    Returns:
        ``[fact]``, a ratio, NaN where the margin at L has not changed. Further dimensions, such as
        ``step``, stay.

    Raises:
        ReadingError: if the readings are not of the same facts, values, layers, model, lens and score, or there is no
            such layer.
    """
    _same_reading(before_depth, after_depth)
    layers = before_depth.layer.values
    if above_layer not in layers:
        raise ReadingError(
            f"There is no layer {above_layer} in these readings. Give one of {layers[0]} to {layers[-1]}."
        )
    change = after_depth.margin - before_depth.margin
    final = change.isel(layer=-1, drop=True)
    return (1 - change.sel(layer=above_layer, drop=True) / final.where(final != 0)).rename("evidence_share")


def evidence_share_last_third(before_depth: xr.Dataset, after_depth: xr.Dataset) -> xr.DataArray:
    """``evidence_share`` above layer 2L/3, rounded to the nearest layer.

    Args:
        before_depth: ``read_depth`` before the change, ``margin[fact, layer]`` in nats.
        after_depth: the same facts by the same lens after it.

    Returns:
        ``[fact]``, a ratio, as ``evidence_share`` gives it.

    Raises:
        ReadingError: if the readings are not of the same facts, values, layers, model, lens and score.
    """
    _same_reading(before_depth, after_depth)
    return evidence_share(before_depth, after_depth, round(2 * int(before_depth.layer[-1]) / 3))


def layers_computed(depth: xr.Dataset, route: Literal["old", "new"] = "old") -> xr.DataArray:
    """At how many layers a route leads its rival, old against new: the paper's "35 of 36".

    Args:
        depth: reading with ``logprob[fact, route, layer]`` in nats.
        route: ``old`` or ``new``.

    Returns:
        ``[fact]``, of the L layers that a block makes (the embedding computes nothing); ``attrs["n_layers"]`` is L. A
        tie is not a lead. NaN where a layer was not read. Further dimensions, such as ``step``, stay.

    Raises:
        ReadingError: if ``route`` is another one, or the reading lacks layers.
    """
    require(depth, "The number of layers", variables=("logprob",), dims=("fact", "route", "layer"))
    if route not in ("old", "new"):
        raise ReadingError(f"{route!r} has no rival: old and new are each other's. Give one of them.")
    require_every_layer(depth, "The number of layers")
    rival = depth.logprob.sel(route={"old": "new", "new": "old"}[route], drop=True)
    lead = (depth.logprob.sel(route=route, drop=True) - rival).isel(layer=slice(1, None))
    count = (lead > 0).sum("layer").where(lead.notnull().all("layer"))
    return count.rename("layers_computed").assign_attrs(route=route, n_layers=int(depth.layer[-1]))


def _lead(reading: xr.Dataset, by_logprob: bool) -> xr.DataArray:
    """By how much new leads every other route, or old alone."""
    if by_logprob:
        return lead(reading.logprob)
    return reading.margin if "margin" in reading else margin(reading.logprob)


def _alone(reading: xr.Dataset, depth: xr.Dataset, name: str) -> xr.Dataset:
    """A reading at every layer of a model of the same height, without its coordinates."""
    what = f"Where it was written ({name})"
    require(reading, what, variables=("margin",), dims=("fact", "layer"))
    if extra := set(reading.margin.dims) - {"fact", "layer"}:
        raise ReadingError(
            f"{what} takes one margin per fact and layer, not one per {', '.join(map(str, extra))}. Select one."
        )
    require_every_layer(reading, what)
    if reading.sizes["layer"] != depth.sizes["layer"]:
        raise ReadingError(
            f"{what} is of {reading.sizes['layer'] - 1} layers and the depth reading of {depth.sizes['layer'] - 1}. "
            "Read the same model."
        )
    if not set(reading.fact.values) & set(depth.fact.values):
        raise ReadingError(f"{what} shares no fact with the depth reading. Read the same facts.")
    require_same(
        {"the depth reading": depth, name: reading},
        what,
        coordinates=("subject", "value"),
        same_model=True,
    )
    return reading.reset_coords(drop=True)


def _same_reading(before: xr.Dataset, after: xr.Dataset) -> None:
    for name, reading in (("before", before), ("after", after)):
        require(reading, f"The evidence share ({name})", variables=("margin",), dims=("fact", "layer"))
        require_every_layer(reading, f"The evidence share ({name})")
    require_same(
        {"before": before, "after": after},
        "The evidence share",
        dims=("fact", "layer", "phrasing"),
        attributes=("lens", "lens_hash", "score"),
        coordinates=("subject", "value", "token"),
        same_model=True,
    )
