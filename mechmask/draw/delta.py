"""What a change did to the contest, layer by layer: the margin before, the margin after, and their difference.

The difference is paired: it is taken fact by fact and its interval is over those differences, so that facts which
differ among each other do not hide what the change did to all of them.
"""

from __future__ import annotations

from string import ascii_lowercase
from typing import NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mechmask.draw.band import (
    Band,
    band_along,
    band_note,
    draw_band,
    n_text,
    require_level,
    require_routes,
    require_shape,
)
from mechmask.draw.layers import (
    depth_axis,
    drawn_facts,
    frame,
    make_room_for_rug,
    mark_commits,
    mark_median,
)
from mechmask.draw.states import by_state
from mechmask.draw.style import (
    BEFORE,
    CHANGE,
    COLUMN_INCHES,
    GREY,
    MARGIN,
    PAGE_INCHES,
    Drawing,
    entitle,
    entries_of,
    legend_below,
    styled,
)
from mechmask.errors import ReadingError
from mechmask.measure.commit import commit_layer
from mechmask.measure.reading import require

_WHAT = "The delta figure"
_MINUS = "\N{MINUS SIGN}"
_LANES = ((0.03, 0.09), (0.14, 0.2))  # of the upper panel's height: commit layers before and after
_LANES_SHARE = 0.26
_LABELS = ("margin before", "margin after", f"difference after {_MINUS} before")


class _Change(NamedTuple):
    """The same facts at the same layers, before and after, and how many facts only one reading has."""

    before: xr.Dataset
    after: xr.Dataset
    n_alone: int


def delta(before: xr.Dataset, after: xr.Dataset | None = None, *, level: float = 0.95) -> Figure:
    """Margins before and after (upper row) and their paired difference (lower row) by layer, a column for each change.

    Args:
        before: ``logprob[fact, route, layer]`` and ``margin[fact, layer]`` in nats, as ``read_depth`` gives them; or,
            without ``after``, such a reading with the dimension ``state``: its state ``before`` (else its first) is
            compared with every other one.
        after: the same of the changed model. Facts meet by label; those in one reading only are left out and counted.
        level: of all intervals, which are over facts; over draws of facts where ``fact`` has the coordinate ``seed``.

    Returns:
        The figure. Ticks are the commit layers of the new value, one a fact, vertical lines their medians. Layers
        above the embedding rule the axes; where layer 0 lies outside, the legend says how far.

    Raises:
        ReadingError: if a reading lacks one of these, or the two share no fact or have other layers.
    """
    require_level(level)
    changes = _changes(before, after)
    with styled():
        n = len(changes)
        figure = Drawing({1: COLUMN_INCHES * 1.3, 2: PAGE_INCHES}.get(n, PAGE_INCHES / 3 * n), 4.6)
        grid = figure.subplots(2, n, sharex=True, sharey="row", squeeze=False)
        bands: dict[str, list[Band]] = {label: [] for label in _LABELS}
        for column, (name, change) in enumerate(changes.items()):
            drawn = _draw(grid[0, column], grid[1, column], change, level)
            for label, band in zip(_LABELS, drawn, strict=True):
                bands[label].append(band)
            entitle(grid[0, column], ascii_lowercase[column % 26], name)
            entitle(grid[1, column], ascii_lowercase[(n + column) % 26], _draw_commits(grid[:, column], change))
            depth_axis(grid[0, column], change.before)
            grid[1, column].set_xlabel("layer")
        outside = [frame(grid[0, 0], bands[_LABELS[0]] + bands[_LABELS[1]], "margin")]
        outside.append(frame(grid[1, 0], bands[_LABELS[2]], "difference"))
        make_room_for_rug(grid[0, 0], _LANES_SHARE)
        grid[0, 0].set_ylabel(f"margin new {_MINUS} old (nats)")
        grid[1, 0].set_ylabel("difference (nats)")
        all_bands = (band for of_label in bands.values() for band in of_label)
        _put_legend(figure, grid, bands, changes, [band_note(all_bands, level), *filter(None, outside)])
    return figure


def _changes(before: xr.Dataset, after: xr.Dataset | None) -> dict[str, _Change]:
    """The pairs to draw, by what their column is called."""
    if after is not None:
        return {"The change": _paired(_checked(before, ()), _checked(after, ()))}
    require(before, _WHAT, dims=("fact", "route", "layer"))
    if before.sizes.get("state", 0) < 2:
        raise ReadingError(
            f"{_WHAT} needs two readings, or one with two states or more along the dimension state. Give the reading "
            "after the change as the second argument."
        )
    labels = [str(label) for label in before.state.values]
    first = labels.index("before") if "before" in labels else 0
    states = list(by_state(_checked(before, ("state",)), "").items())
    base = states.pop(first)[1]
    return {name: _Change(base, state, 0) for name, state in states}


def _checked(reading: xr.Dataset, extra: tuple[str, ...]) -> xr.Dataset:
    require(reading, _WHAT, variables=("logprob", "margin"), dims=("fact", "route", "layer"))
    reading = drawn_facts(reading)
    require_shape(reading, _WHAT, "logprob", ("fact", "route", "layer", *extra))
    require_shape(reading, _WHAT, "margin", ("fact", "layer", *extra))
    require_routes(reading, _WHAT)
    return reading


def _paired(before: xr.Dataset, after: xr.Dataset) -> _Change:
    if not np.array_equal(before.layer.values, after.layer.values):
        spans = [f"{reading.layer.values[0]} to {reading.layer.values[-1]}" for reading in (before, after)]
        raise ReadingError(
            f"{_WHAT} compares the same layers: before has {spans[0]}, after has {spans[1]}. Read one model before "
            "and after its change."
        )
    labels = [reading.fact.values.tolist() for reading in (before, after)]
    if any(len(set(names)) < len(names) for names in labels):
        raise ReadingError(f"{_WHAT} pairs facts by label, and some have the same one. Give every fact its own label.")
    shared = [name for name in labels[0] if name in set(labels[1])]
    if not shared:
        raise ReadingError(f"{_WHAT} finds no fact in both readings. Read the same facts before and after.")
    n_alone = sum(len(names) - len(shared) for names in labels)
    return _Change(before.sel(fact=shared), after.sel(fact=shared), n_alone)


def _draw(upper: Axes, lower: Axes, change: _Change, level: float) -> list[Band]:
    after = change.after.margin.transpose("fact", "layer")
    difference = after.copy(data=after.values - change.before.margin.transpose("fact", "layer").values)
    drawn = ((upper, BEFORE, change.before.margin), (upper, MARGIN, change.after.margin), (lower, CHANGE, difference))
    bands = []
    for (axes, look, values), label in zip(drawn, _LABELS, strict=True):
        bands.append(band_along(values, "layer", level))
        draw_band(axes, bands[-1], look, label)
    for axes in (upper, lower):
        axes.axhline(0, color=GREY, linewidth=0.6, zorder=0.5)
    return bands


def _draw_commits(panels: np.ndarray, change: _Change) -> str:
    """Commit layers before and after, each in its lane; returns how many facts commit."""
    said = []
    for reading, look, when, lane, line in zip(
        change[:2], (BEFORE, MARGIN), ("before", "after"), _LANES, ("--", ":"), strict=True
    ):
        commits = commit_layer(reading).values
        mark_commits(panels[0], commits, look, f", {when}", lane=lane)
        mark_median(list(panels), commits, look, f", {when}", linestyle=line)
        said.append(f"{np.isfinite(commits).sum()}")
    return f"commit: {said[0]}, then {said[1]} of {change.before.sizes['fact']}"


def _put_legend(
    figure: Figure, grid: np.ndarray, bands: dict[str, list[Band]], changes: dict[str, _Change], notes: list[str]
) -> None:
    n_alone = sum(change.n_alone for change in changes.values())
    if n_alone:
        notes.append(f"{n_alone} fact{'s' * (n_alone != 1)} in one reading only left out")
    drawn = entries_of(grid.flat)
    entries = {f"{label} ({n_text(*of_label)})": drawn.pop(label) for label, of_label in bands.items()}
    legend_below(figure, entries | drawn, "\n".join(notes), 2)
