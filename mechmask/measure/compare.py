"""Models of different height on one axis: depth readings resampled to ``depth`` = layer / L.

Layer 6 of a 12-block model and of a 30-block model do not correspond; equal fractions of the height do. Values between
two layers are interpolated linearly, fact by fact, so that intervals are over facts and not over layers.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from mechmask.errors import ReadingError
from mechmask.measure.commit import commit_layer
from mechmask.measure.reading import require, require_every_layer, require_same
from mechmask.measure.statistics import mean_interval

_WHAT = "A comparison of models"


def compare(readings: Mapping[str, xr.Dataset], *, n_depths: int = 101, level: float = 0.95) -> xr.Dataset:
    """The contest of several models along one depth axis.

    Args:
        readings: depth readings by the name of their model, each ``logprob[fact, route, layer]`` and
            ``margin[fact, layer]`` in nats over all layers; the facts may differ. If a reading has contradicted facts,
            only those count; if it has phrasings, only the prompt.
        n_depths: points of the depth axis from 0 to 1.
        level: of all intervals.

    Returns:
        Mean over facts, in nats: ``margin[model, depth]`` with ``margin_low`` and ``margin_high``, and
        ``logprob[model, route, depth]`` of old and new. Shares of depth: ``commit_depth[model]`` of the new value,
        the mean over the facts that commit, with ``commit_depth_low`` and ``commit_depth_high``. Counts:
        ``n_facts[model]``, ``n_committed[model]``, ``n_layers[model]``.

    Raises:
        ReadingError: if there is no reading, one lacks what is needed or a layer, two were made through different
            lenses or by different scores, or ``n_depths`` is less than 2.
    """
    if not readings:
        raise ReadingError(f"{_WHAT} needs at least one reading. Give a name and a depth reading of each.")
    for name, reading in readings.items():
        require(reading, f"{_WHAT} ({name})", variables=("logprob", "margin"), dims=("fact", "route", "layer"))
        require_every_layer(reading, f"{_WHAT} ({name})")
    require_same(readings, _WHAT, attributes=("lens", "score"))
    if n_depths < 2:
        raise ReadingError(f"n_depths={n_depths} makes no axis. Give at least 2.")
    grid = np.linspace(0, 1, n_depths)
    rows = [_on_depth(reading, grid, level) for reading in readings.values()]
    models = xr.DataArray(list(readings), dims="model", name="model")
    lens = str(next(iter(readings.values())).attrs.get("lens", ""))
    return xr.concat(rows, models).assign_attrs(level=level, lens=lens)


def _on_depth(reading: xr.Dataset, grid: np.ndarray, level: float) -> xr.Dataset:
    if "phrasing" in reading.dims:
        reading = reading.isel(phrasing=0, drop=True)
    other = set(reading.margin.dims) - {"fact", "layer"}
    if other:
        raise ReadingError(
            f"{_WHAT} takes one contest each; this reading has {', '.join(map(str, other))}. Select one."
        )
    if "role" in reading.coords and (reading.role == "contradicted").any():
        reading = reading.isel(fact=np.flatnonzero(reading.role.values == "contradicted"))
    n_layers = int(reading.layer[-1])
    commit = mean_interval(commit_layer(reading, "new").values / n_layers, level)
    by_layer = xr.Dataset(
        {"margin": reading.margin, "logprob": reading.logprob.sel(route=["old", "new"]).mean("fact")}
    ).reset_coords(drop=True)
    by_depth = by_layer.assign_coords(layer=by_layer.layer / n_layers).rename(layer="depth").interp(depth=grid)
    margin = by_depth.margin.transpose("fact", "depth").values
    low, high = np.array([mean_interval(column, level)[1:3] for column in margin.T]).T
    return xr.Dataset(
        {
            "margin": ("depth", margin.mean(0), {"units": "nats"}),
            "margin_low": ("depth", low),
            "margin_high": ("depth", high),
            "logprob": (("route", "depth"), by_depth.logprob.transpose("route", "depth").values, {"units": "nats"}),
            "commit_depth": commit.estimate,
            "commit_depth_low": commit.low,
            "commit_depth_high": commit.high,
            "n_facts": len(margin),
            "n_committed": commit.n,
            "n_layers": n_layers,
        },
        {"depth": grid, "route": ["old", "new"]},
    )
