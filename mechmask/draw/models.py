"""The same contest in several models: the margin along a depth that models of different height share.

Depth is layer / L, so a value at 0.8 stands at four fifths of its model, whether that has 12 blocks or 80.
"""

from __future__ import annotations

from collections.abc import Mapping
from string import ascii_lowercase

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mechmask.draw.band import (
    band_along,
    band_note,
    draw_band,
    n_text,
    require_level,
    require_routes,
    require_shape,
)
from mechmask.draw.layers import (
    commits_along,
    drawn_facts,
    frame,
    make_room_for_rug,
    mark_commits,
    mark_median,
)
from mechmask.draw.style import (
    GREY,
    MARGIN,
    PAGE_INCHES,
    Drawing,
    entitle,
    entries_of,
    legend_below,
    shortened,
    styled,
)
from mechmask.errors import ReadingError
from mechmask.measure.reading import require

_WHAT = "The figure of models"
_COLUMNS = 3


def models(readings: Mapping[str, xr.Dataset] | xr.Dataset, *, level: float = 0.95) -> Figure:
    """Margin by depth, a panel for each model, all on the same axes.

    Args:
        readings: depth readings by what their model is called, each with ``logprob[fact, route, layer]`` and
            ``margin[fact, layer]`` in nats; or one dataset with the dimension ``model`` and, in place of ``layer``,
            ``depth``, or ``layer`` with ``depth[model, layer]``; NaN where a model has nothing at a depth.
        level: of all intervals, over facts; over draws of facts where ``fact`` has the coordinate ``seed``.

    Returns:
        The figure. Ticks are the commit layers of the new value as depths, one a fact; vertical lines their medians.

    Raises:
        ReadingError: if there is no model, or one's reading lacks one of these.
    """
    require_level(level)
    by_depth = {name: _along_depth(reading, name) for name, reading in _readings(readings).items()}
    with styled():
        n_rows, n_columns = -(-len(by_depth) // _COLUMNS), min(len(by_depth), _COLUMNS)
        width = {1: 3.5, 2: 5.25}.get(n_columns, PAGE_INCHES)
        figure = Drawing(width, 1.1 + 1.75 * n_rows)
        grid = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False)
        panels = list(grid.flat)[: len(by_depth)]
        bands = []
        for i, (axes, (name, reading)) in enumerate(zip(panels, by_depth.items(), strict=True)):
            bands.append(band_along(reading.margin, "depth", level))
            draw_band(axes, bands[-1], MARGIN, "margin")
            said = _draw_commits(axes, reading)
            entitle(axes, ascii_lowercase[i % 26], f"{_own_name(name)}\n{said}")
        _label(grid, len(panels))
        outside = frame(panels[0], bands, "margin")
        make_room_for_rug(panels[0])
        notes = [band_note(bands, level), outside]
        drawn = entries_of(panels)
        entries = {f"margin new \N{MINUS SIGN} old ({n_text(*bands)})": drawn.pop("margin")} | drawn
        legend_below(figure, entries, "\n".join(filter(None, notes)), n_columns)
    return figure


def _readings(readings: Mapping[str, xr.Dataset] | xr.Dataset) -> dict[str, xr.Dataset]:
    if isinstance(readings, xr.Dataset):
        require(readings, _WHAT, variables=("logprob", "margin"), dims=("model", "fact", "route"))
        names = [str(name) for name in readings.model.values]
        by_name = {name: readings.isel(model=i) for i, name in enumerate(names)}
        if len(by_name) < len(names):
            raise ReadingError(f"Two models have one name in {', '.join(names)}. Give every model its own.")
    elif isinstance(readings, Mapping):
        by_name = {str(name): reading for name, reading in readings.items()}
    else:
        raise ReadingError(
            f"{_WHAT} takes depth readings by name, not a {type(readings).__name__}. Give a dictionary from a model's "
            "name to its reading."
        )
    if not by_name:
        raise ReadingError(f"{_WHAT} has no model to draw. Give at least one.")
    return by_name


def _along_depth(reading: xr.Dataset, name: str) -> xr.Dataset:
    """One model's reading with the dimension ``depth``, without the places where it has nothing."""
    what = f"{_WHAT} ({name})"
    require(reading, what, variables=("logprob", "margin"), dims=("fact", "route"))
    along = "depth" if "depth" in reading.dims else "layer"
    require(reading, what, dims=(along,))
    reading = drawn_facts(reading)
    require_shape(reading, what, "logprob", ("fact", "route", along))
    require_shape(reading, what, "margin", ("fact", along))
    require_routes(reading, what)
    reading = reading.isel({along: np.flatnonzero(reading.margin.notnull().any("fact").values)})
    if not reading.sizes[along]:
        raise ReadingError(f"{what} has no margin to draw: all are NaN. Give a reading that has some.")
    if along == "layer":
        last = float(reading.layer.values[-1])
        depth = reading["depth"].values if "depth" in reading.coords else reading.layer.values / (last or 1.0)
        reading = reading.drop_vars("depth", errors="ignore").assign_coords(depth=("layer", depth))
        reading = reading.swap_dims(layer="depth").drop_vars("layer")
    return reading.sortby("depth")


def _draw_commits(axes: Axes, reading: xr.Dataset) -> str:
    """Zero, ticks and median; returns the second line of the title."""
    commits = commits_along(reading.logprob, "depth")
    axes.axhline(0, color=GREY, linewidth=0.6, zorder=0.5)
    mark_commits(axes, commits)
    mark_median([axes], commits)
    there = commits[np.isfinite(commits)]
    median = f", median {np.median(there):.2f}" if len(there) else ""
    return f"{len(there)} of {commits.size} commit{median}"


def _own_name(name: str) -> str:
    """A model's own name: the organisation before it is left out where there is one."""
    return shortened(name.rstrip("/").rsplit("/", 1)[-1], 24)


def _label(grid: np.ndarray, n: int) -> None:
    """Labels of the outer axes; the empty panels of the last row go, and those above them get the labels."""
    for i, axes in enumerate(grid.flat):
        if i >= n:
            axes.remove()
        elif i + grid.shape[1] >= n:
            axes.tick_params(labelbottom=True)
            axes.set_xlabel("depth (layer / L)")
    for axes in grid[:, 0]:
        axes.set_ylabel("margin (nats)")
    grid.flat[0].set_xlim(-0.03, 1.03)
    grid.flat[0].set_xticks([0, 0.5, 1])
