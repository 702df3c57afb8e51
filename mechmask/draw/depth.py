"""The contest layer by layer: at which depth the new value takes the lead for good (paper 2F, finding 5).

One column for each state of the study, so that the same facts stand beside each other before and after a change.
Which lens read the layers is in the reading's attrs; a lens is not the model's output before the last layer.
"""

from __future__ import annotations

from string import ascii_lowercase

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
from mechmask.draw.layers import depth_axis, drawn_facts, frame, make_room_for_rug, mark_commits, mark_median
from mechmask.draw.states import by_state
from mechmask.draw.style import (
    COLUMN_INCHES,
    DISTRACTORS,
    GREY,
    MARGIN,
    NEW,
    OLD,
    PAGE_INCHES,
    Drawing,
    entitle,
    styled,
)
from mechmask.measure.commit import commit_layer
from mechmask.measure.contest import distractors_of
from mechmask.measure.reading import require

_WHAT = "The depth figure"


def depth(reading: xr.Dataset, *, level: float = 0.95) -> Figure:
    """Log-probabilities (upper row) and margin (lower row) by layer, a column for each state.

    Args:
        reading: ``logprob[fact, route, layer]`` and ``margin[fact, layer]`` in nats; where it has them also
            the dimension ``state``, the dimension ``phrasing`` (the prompt itself is drawn), ``depth`` on ``layer``,
            and ``role`` on ``fact`` (then the contradicted facts are drawn, if there are any).
        level: of all intervals.

    Returns:
        The figure. Ticks under the margin are the commit layers of the new value, one a fact; the vertical line is
        their median over the facts that commit. The layers above the embedding rule the axes; where layer 0 lies
        outside, the legend says how far.

    Raises:
        ReadingError: if the reading lacks one of these, has other dimensions, or leaves out layers.
    """
    require_level(level)
    states = _states(reading)
    with styled():
        n_states = len(states)
        figure = Drawing({1: COLUMN_INCHES, 2: 5.25}.get(n_states, PAGE_INCHES / 3 * n_states), 4.4)
        grid = figure.subplots(2, n_states, sharex=True, sharey="row", squeeze=False)
        bands: dict[str, list[Band]] = {}
        for column, (name, state) in enumerate(states.items()):
            upper, lower = grid[:, column]
            for label, band in (_draw_routes(upper, state, level) | _draw_margin(lower, state, level)).items():
                bands.setdefault(label, []).append(band)
            entitle(upper, ascii_lowercase[column % 26], name)
            committed = _draw_commits((upper, lower), commit_layer(state))
            entitle(lower, ascii_lowercase[(n_states + column) % 26], committed)
            depth_axis(upper, state)
            lower.set_xlabel("layer")
        outside = [_frame(axes, bands, labels) for axes, labels in zip(grid[:, 0], _rows(bands), strict=True)]
        make_room_for_rug(grid[1, 0])
        grid[0, 0].set_ylabel("log-probability (nats)")
        grid[1, 0].set_ylabel("margin new \N{MINUS SIGN} old (nats)")
        _put_legend(figure, grid, bands, level, [said for said in outside if said])
    return figure


def _states(reading: xr.Dataset) -> dict[str, xr.Dataset]:
    """The facts to draw, by what their column is called."""
    require(reading, _WHAT, variables=("logprob", "margin"), dims=("fact", "route", "layer"))
    reading = drawn_facts(reading)
    extra = ("state",) if "state" in reading.dims else ()
    require_shape(reading, _WHAT, "logprob", ("fact", "route", "layer", *extra))
    require_shape(reading, _WHAT, "margin", ("fact", "layer", *extra))
    require_routes(reading, _WHAT)
    return by_state(reading, "The contest")


def _draw_routes(axes: Axes, state: xr.Dataset, level: float) -> dict[str, Band]:
    lines = {
        "old": (OLD, state.logprob.sel(route="old")),
        "new": (NEW, state.logprob.sel(route="new")),
        "mean of distractors": (DISTRACTORS, distractors_of(state.logprob).mean("route")),
    }
    bands = {label: band_along(values, "layer", level) for label, (_, values) in lines.items()}
    for label, band in bands.items():
        if band.n.any():
            draw_band(axes, band, lines[label][0], label)
    return bands


def _draw_margin(axes: Axes, state: xr.Dataset, level: float) -> dict[str, Band]:
    band = band_along(state.margin, "layer", level)
    axes.axhline(0, color=GREY, linewidth=0.6, zorder=0.5)
    draw_band(axes, band, MARGIN, "margin")
    return {"margin": band}


def _draw_commits(panels: tuple[Axes, Axes], commits: xr.DataArray) -> str:
    """A tick for each fact at its commit layer and a line at the median, in the lower panel; returns what it shows."""
    layers = commits.values[np.isfinite(commits.values)]
    said = f"{len(layers)} of {commits.size} commit"
    if not len(layers):
        return said
    mark_commits(panels[1], layers)
    mark_median(panels, layers)
    return f"{said}, median {float(np.median(layers)):g}"


def _rows(bands: dict[str, list[Band]]) -> tuple[list[str], list[str]]:
    """What is drawn in the upper and in the lower row."""
    return [label for label in bands if label != "margin"], ["margin"]


def _frame(axes: Axes, bands: dict[str, list[Band]], labels: list[str]) -> str:
    """The frame of a row, over all its states."""
    drawn = [band for label in labels for band in bands[label]]
    return frame(axes, drawn, "margin" if labels == ["margin"] else "log-probability")


def _put_legend(
    figure: Figure, grid: np.ndarray, bands: dict[str, list[Band]], level: float, outside: list[str]
) -> None:
    """Under all panels; each entry once, with n over all states."""
    drawn = {
        label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    entries = {f"{label} ({n_text(*bands[label])})": drawn.pop(label) for label in bands if label in drawn} | drawn
    note = "\n".join([band_note((band for of_states in bands.values() for band in of_states), level), *outside])
    n_columns = min(3, grid.shape[1] + 1)
    figure.legend(
        list(entries.values()), list(entries), title=note, loc="outside lower center", ncols=n_columns, alignment="left"
    )
