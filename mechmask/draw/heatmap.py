"""Every fact by layer as colours: where in the model a value stands, and from which layer the new one leads.

Facts are in the order of their commit layers, so that a shared depth is an edge that goes straight down the figure.
"""

from __future__ import annotations

from string import ascii_lowercase
from typing import Literal

import numpy as np
import xarray as xr
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mechmask.draw.band import require_routes, require_shape
from mechmask.draw.colour import SIGNED, Scale, scale_of
from mechmask.draw.layers import depth_axis, drawn_facts
from mechmask.draw.states import by_state
from mechmask.draw.style import (
    BLACK,
    GREY,
    PAGE_INCHES,
    Drawing,
    entitle,
    legend_below,
    shortened,
    styled,
)
from mechmask.errors import ReadingError
from mechmask.measure.commit import commit_layer
from mechmask.measure.contest import margin, standing
from mechmask.measure.reading import require

VALUES = {
    "margin": "margin new \N{MINUS SIGN} old (nats)",
    "standing": "standing S of old (nats)",
}

_WHAT = "The heat map"
_MOST_LABELS = 40  # names that fit beside each other in a page's height at a readable size
_ROW_INCHES = 0.14
_NAME_CHARACTERS = 26


def heatmap(reading: xr.Dataset, value: Literal["margin", "standing"] = "margin") -> Figure:
    """A row for every fact, a column for every layer, a panel for every state.

    Args:
        reading: ``logprob[fact, route, layer]`` in nats, as ``read_depth`` gives it; where it has them also the
            dimension ``state``, the dimension ``phrasing`` (the prompt itself is drawn), and ``role`` on ``fact`` (then
            the contradicted facts are drawn, if there are any).
        value: the margin ``logp(new) - logp(old)``, or the standing of old against its distractors. Both in nats.

    Returns:
        The figure. Colours are symmetric around zero; where a few values lie far beyond the others the colours end
        before them, and the colour bar's arrows and the legend say so. The black bar in a row is the commit layer of
        the new value; the last state's commit layers order the facts of all panels.

    Raises:
        ReadingError: if the reading lacks one of these, has other dimensions, or leaves out layers, or if ``value`` is
            neither.
    """
    states = ordered_states(reading, value, _WHAT)
    tables = {name: table_of(state, value) for name, state in states.items()}
    scale = scale_of(np.stack(list(tables.values())), reading.layer.values, _WHAT)
    n_facts = next(iter(tables.values())).shape[0]
    with styled():
        height = _ROW_INCHES * min(max(n_facts, 10), _MOST_LABELS)
        width = {1: 5.25, 2: PAGE_INCHES, 3: PAGE_INCHES}.get(len(states), PAGE_INCHES / 3 * len(states))
        figure = Drawing(width, height + 1.7)
        panels = figure.subplots(1, len(states), sharex=True, sharey=True, squeeze=False)[0]
        for letter, axes, (name, state) in zip(ascii_lowercase * len(states), panels, states.items(), strict=False):
            _draw(axes, state, tables[name], scale)
            commits = _draw_commits(axes, state)
            title = name if "state" in reading.dims else ""
            entitle(axes, letter, f"{title}\n{commits}" if title else commits)
            depth_axis(axes, state)
            axes.set_xlabel("layer")
        every = _name_facts(panels, next(iter(states.values())))
        bar = figure.colorbar(panels[0].images[0], ax=panels, extend=scale.extend, extendfrac=0.07, pad=0.02, aspect=30)
        bar.set_label(VALUES[value])
        bar.outline.set_linewidth(0.6)  # pyright: ignore[reportCallIssue]
        last = list(states)[-1] if len(states) > 1 else ""
        _put_legend(figure, scale, every, last, any(np.isnan(table).any() for table in tables.values()))
    return figure


def ordered_states(reading: xr.Dataset, value: str, what: str) -> dict[str, xr.Dataset]:
    """The facts to draw by state, in the order of the last state's commit layers; facts that do not commit come last.

    Raises:
        ReadingError: as ``heatmap``.
    """
    if value not in VALUES:
        raise ReadingError(f"{what} has no value {value!r}. It draws {' or '.join(VALUES)}.")
    require(reading, what, variables=("logprob",), dims=("fact", "route", "layer"))
    reading = drawn_facts(reading)
    extra = ("state",) if "state" in reading.dims else ()
    require_shape(reading, what, "logprob", ("fact", "route", "layer", *extra))
    require_routes(reading, what)
    if value == "standing" and not any(str(route).startswith("distractor_") for route in reading.route.values):
        raise ReadingError(f"{what} of the standing needs distractors, and this reading has none. Read their routes.")
    states = by_state(reading, "The contest")
    last = list(states.values())[-1]
    commits = commit_layer(last).values
    at_the_end = margin(last.logprob).isel(layer=-1).values
    order = np.lexsort((-np.nan_to_num(at_the_end), np.nan_to_num(commits, nan=np.inf)))
    return {name: state.isel(fact=order) for name, state in states.items()}


def table_of(state: xr.Dataset, value: str) -> np.ndarray:
    """``[fact, layer]`` in nats: what the heat map colours."""
    made = margin(state.logprob) if value == "margin" else standing(state.logprob)
    return made.transpose("fact", "layer").values.astype(float)


def _draw(axes: Axes, state: xr.Dataset, table: np.ndarray, scale: Scale) -> None:
    layers, n_facts = state.layer.values, table.shape[0]
    axes.patch.set(hatch="//////", edgecolor=GREY, facecolor="white")
    axes.imshow(
        np.ma.masked_invalid(np.where(np.isinf(table), np.sign(table) * 2 * scale.limit, table)),
        cmap=SIGNED.with_extremes(bad=(0, 0, 0, 0)),
        vmin=-scale.limit,
        vmax=scale.limit,
        extent=(layers[0] - 0.5, layers[-1] + 0.5, n_facts - 0.5, -0.5),
        aspect="auto",
        interpolation="nearest",
    )


def _draw_commits(axes: Axes, state: xr.Dataset) -> str:
    """A bar at the left edge of each fact's commit layer; returns how many there are."""
    commits = commit_layer(state).values
    rows = np.flatnonzero(np.isfinite(commits))
    if len(rows):
        width = float(np.clip(40 / len(commits), 0.4, 1.0))
        bars = axes.vlines(commits[rows] - 0.5, rows - 0.5, rows + 0.5, colors=BLACK, linewidth=1.6 * width)
        bars.set_path_effects(_white_edge(1.6 * width))
    return f"{len(rows)} of {len(commits)} commit"


def _white_edge(linewidth: float) -> list[patheffects.AbstractPathEffect]:
    return [patheffects.Stroke(linewidth=linewidth + 1.4, foreground="white"), patheffects.Normal()]


def _name_facts(panels: np.ndarray, state: xr.Dataset) -> int:
    """Name every fact, or every k-th where all would not be legible; returns k."""
    names = [shortened(name, _NAME_CHARACTERS) for name in state.fact.values]
    every = -(-len(names) // _MOST_LABELS)
    rows = range(0, len(names), every)
    panels[0].set_yticks(list(rows), [names[row] for row in rows], fontsize=6)
    for i, axes in enumerate(panels):
        axes.tick_params(axis="y", length=2 if every > 1 and i == 0 else 0)
    return every


def _put_legend(figure: Figure, scale: Scale, every: int, last: str, any_missing: bool) -> None:
    line = Line2D([], [], linestyle="", marker="|", markersize=9, markeredgewidth=1.6, color=BLACK)
    entries: dict = {"commit layer of new: it leads from here to the last layer": line}
    if any_missing:
        entries["no value"] = Patch(facecolor="white", edgecolor=GREY, hatch="//////", linewidth=0)
    notes = [f"a row is a fact; facts in order of their commit layer{f' ({last})' if last else ''}"]
    if every > 1:
        notes.append(f"one fact in {every} is named")
    legend_below(figure, entries, "\n".join([*notes, *filter(None, [scale.note])]), 2)
