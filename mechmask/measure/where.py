"""Where the correction was written: three answers side by side, and the paper's own numbers of depth.

A lens only looks; patching and grafting intervene. ``where_written`` sets the layer that each names beside the others
and says where they disagree. Evidence share and layers computed are paper 2F's, finding 5. Labelled arrays only.
"""

from __future__ import annotations

import warnings
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import ArrayLike
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.commit import lead, leads_from, suffices_up_to
from mechmask.measure.contest import margin
from mechmask.measure.reading import require

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
        tolerance_layers: how far two answers may lie apart without disagreeing.

    Returns:
        Over ``fact``, in layers 0..L: ``lens``, the commit layer of new; ``patched``, the first layer from which on the
        residual of the changed model makes the one before say new; ``grafted``, the last layer l such that the changed
        blocks above it, and above every layer before it, suffice (L where new leads without any). NaN where there is
        none, or the fact was not read so. So that they compare, new has to lead every other route where each reading
        has their log-probabilities, else old alone (``attrs["rivals"]``: ``all`` or ``old``). ``spread``: the largest
        difference between those that there are; ``disagree``: 1 where it passes the tolerance, 0 where not; both NaN
        where fewer than two are there.

    Raises:
        ReadingError: if a reading lacks layers, is of a model of another height, or shares no fact with
            ``depth_after``.
    """
    require(depth_after, "Where it was written (lens)", variables=("logprob",), dims=("fact", "route", "layer"))
    _every_layer(depth_after, "Where it was written (lens)")
    if extra := set(depth_after.logprob.dims) - {"fact", "route", "layer"}:
        raise ReadingError(
            f"Where it was written takes one depth reading; this one has {', '.join(map(str, extra))} too. Select one."
        )
    others = {"patched": patched, "grafted": grafted}
    given = {name: _alone(reading, depth_after, name) for name, reading in others.items() if reading is not None}
    by_logprob = all("logprob" in reading for reading in given.values())
    found = xr.Dataset({"lens": leads_from(_lead(depth_after, by_logprob))})
    nowhere = xr.full_like(found.lens, np.nan, dtype=float)
    for name, locate in (("patched", leads_from), ("grafted", suffices_up_to)):
        there = name in given
        found[name] = locate(_lead(given[name], by_logprob)).reindex_like(nowhere) if there else nowhere
    answers = found.to_dataarray("method")
    spread = (answers.max("method") - answers.min("method")).where(answers.count("method") > 1)
    disagree = (spread > tolerance_layers).astype(float).where(spread.notnull())
    last = int(depth_after.layer[-1])
    return found.assign(spread=spread, disagree=disagree).assign_attrs(
        n_layers=last, tolerance_layers=tolerance_layers, rivals="all" if by_logprob else "old"
    )


def where_overview(
    where: xr.Dataset, level: float = 0.95, statistic: Literal["mean", "median"] = "median", seed: int = 0
) -> pd.DataFrame:
    """One row for each of the three answers: its ``commit_interval`` over facts, in layers."""
    require(where, "The overview", variables=METHODS, dims=("fact",))
    rows = {name: commit_interval(where[name].values, statistic, level, seed)._asdict() for name in METHODS}
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
        ``[fact]``, a ratio, NaN where the margin at L has not changed. Other dimensions are kept.

    Raises:
        ReadingError: if the readings are not of the same facts, layers, lens and score, or there is no such layer.
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
    """``evidence_share`` above layer 2L/3, rounded to the nearest layer."""
    _same_reading(before_depth, after_depth)
    return evidence_share(before_depth, after_depth, round(2 * int(before_depth.layer[-1]) / 3))


def layers_computed(depth: xr.Dataset, route: Literal["old", "new"] = "old") -> xr.DataArray:
    """At how many layers a route leads its rival, old against new: the paper's "35 of 36".

    Args:
        depth: reading with ``logprob[fact, route, layer]`` in nats.
        route: ``old`` or ``new``.

    Returns:
        ``[fact]``, of the L layers that a block makes (the embedding computes nothing); ``attrs["n_layers"]`` is L. A
        tie is no lead. NaN where a layer was not read. Other dimensions are kept.

    Raises:
        ReadingError: if ``route`` is another one, or the reading lacks layers.
    """
    require(depth, "The number of layers", variables=("logprob",), dims=("fact", "route", "layer"))
    if route not in ("old", "new"):
        raise ReadingError(f"{route!r} has no rival: old and new are each other's. Give one of them.")
    _every_layer(depth, "The number of layers")
    rival = depth.logprob.sel(route={"old": "new", "new": "old"}[route], drop=True)
    lead = (depth.logprob.sel(route=route, drop=True) - rival).isel(layer=slice(1, None))
    count = (lead > 0).sum("layer").where(lead.notnull().all("layer"))
    return count.rename("layers_computed").assign_attrs(route=route, n_layers=int(depth.layer[-1]))


class CommitInterval(NamedTuple):
    """A mean or median layer over facts, its interval, and how many facts there were with and without a layer."""

    estimate: float
    low: float
    high: float
    n: int
    n_none: int

    def __str__(self) -> str:
        none = f", {self.n_none} never commit" if self.n_none else ""
        return f"{self.estimate:.1f} [{self.low:.1f}, {self.high:.1f}] (n={self.n}{none})"


def commit_interval(
    layers: ArrayLike, statistic: Literal["mean", "median"] = "mean", level: float = 0.95, seed: int = 0
) -> CommitInterval:
    """Mean or median commit layer with its bootstrap interval over facts (BCa, Efron 1987; 9999 resamples).

    Facts that never commit are left out and counted. Where BCa is not defined, because no single fact moves the
    statistic, the interval is the bootstrap's percentiles; with fewer than two facts it is NaN.

    Args:
        layers: commit layer of every fact, NaN where there is none.
        statistic: ``mean`` or ``median``.
        level: of the interval.
        seed: of the resampling.

    Raises:
        ReadingError: if the statistic is another one.
    """
    if statistic not in ("mean", "median"):
        raise ReadingError(f"{statistic!r} is no statistic of commit layers. Give 'mean' or 'median'.")
    of = {"mean": np.mean, "median": np.median}[statistic]
    every = np.asarray(layers, dtype=float).ravel()
    sample = every[~np.isnan(every)]
    n, n_none = len(sample), len(every) - len(sample)
    if n < 2:
        return CommitInterval(float(of(sample)) if n else np.nan, np.nan, np.nan, n, n_none)
    for method in ("BCa", "percentile"):
        with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
            warnings.simplefilter("ignore")  # that BCa is degenerate shows in its bounds
            random = np.random.default_rng(seed)  # under its old name, which scipy before 1.15 knows too
            found = stats.bootstrap((sample,), of, confidence_level=level, method=method, random_state=random)  # pyright: ignore[reportCallIssue]
        low, high = found.confidence_interval
        if np.isfinite([low, high]).all():
            break
    return CommitInterval(float(of(sample)), float(low), float(high), n, n_none)


def _lead(reading: xr.Dataset, by_logprob: bool) -> xr.DataArray:
    """By how much new leads every other route, or old alone."""
    if by_logprob:
        return lead(reading.logprob)
    return reading.margin if "margin" in reading else margin(reading.logprob)


def _alone(reading: xr.Dataset, depth: xr.Dataset, name: str) -> xr.Dataset:
    """A reading of one model at every layer of the same height, without its coordinates."""
    what = f"Where it was written ({name})"
    require(reading, what, variables=("margin",), dims=("fact", "layer"))
    if extra := set(reading.margin.dims) - {"fact", "layer"}:
        raise ReadingError(f"{what} takes one margin a fact and layer, not one a {', '.join(map(str, extra))}. Select.")
    _every_layer(reading, what)
    if reading.sizes["layer"] != depth.sizes["layer"]:
        raise ReadingError(
            f"{what} is of {reading.sizes['layer'] - 1} layers and the depth reading of {depth.sizes['layer'] - 1}. "
            "Read the same model."
        )
    if not set(reading.fact.values) & set(depth.fact.values):
        raise ReadingError(f"{what} shares no fact with the depth reading. Read the same facts.")
    return reading.reset_coords(drop=True)


def _every_layer(reading: xr.Dataset, what: str) -> None:
    if list(reading.layer.values) != list(range(reading.sizes["layer"])):
        raise ReadingError(f"{what} needs every layer from 0 to L, in order. Read all of them.")


def _same_reading(before: xr.Dataset, after: xr.Dataset) -> None:
    for name, reading in (("before", before), ("after", after)):
        require(reading, f"The evidence share ({name})", variables=("margin",), dims=("fact", "layer"))
        _every_layer(reading, f"The evidence share ({name})")
    same = all(list(before[dim].values) == list(after[dim].values) for dim in ("fact", "layer"))
    if not same or any(before.attrs.get(name) != after.attrs.get(name) for name in ("lens", "lens_hash", "score")):
        raise ReadingError(
            "Before and after are not of the same facts and layers by the same lens and score. Read both alike."
        )
