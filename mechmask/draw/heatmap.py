"""Every fact by layer as colours: where in the model a value stands, and from which layer the new one leads.

Facts are in the order of their commit layers, so that a shared depth is an edge that goes straight down the figure.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import xarray as xr
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mechmask.draw.canvas import AxesLike, Canvas, Page, Width
from mechmask.draw.check import contest_along
from mechmask.draw.colour import SIGNED, Scale, draw_cells, mark_missing, missing_patch, scale_of
from mechmask.draw.layers import MARGIN_NATS, depth_axis
from mechmask.draw.palette import Palette
from mechmask.draw.states import by_state
from mechmask.draw.style import BLACK, PAGE_INCHES, shortened, stroke, text_points
from mechmask.errors import ReadingError
from mechmask.measure.commit import commit_layer
from mechmask.measure.contest import margin, standing

VALUES = {"margin": MARGIN_NATS, "standing": "standing S of old (nats)"}

_WHAT = "The heat map"
_MOST_LABELS = 40  # names that fit beside each other in a page's height at a readable size
_ROW_INCHES = 0.14
_NAME_CHARACTERS = 26


def heatmap(
    reading: xr.Dataset,
    value: Literal["margin", "standing"] = "margin",
    *,
    axes: AxesLike | None = None,
    width: Width | None = None,
    title: str | None = None,
    palette: Palette | None = None,
    font_size: float | None = None,
) -> Figure:
    """A row for every fact, a column for every layer, a panel for every state.

    Args:
        reading: ``logprob[fact, route, layer]`` in nats, as ``read_depth`` gives it; where it has them also the
            dimension ``state``, the dimension ``phrasing`` (the prompt itself is drawn), and ``role`` on ``fact`` (then
            the contradicted facts are drawn, if there are any).
        value: the margin ``logp(new) - logp(old)``, or the standing of old against its distractors. Both in nats.
        axes: a panel for each state to draw into; without it a new figure is made.
        width: of a new figure: ``"single"`` or ``"double"`` column, or inches.
        title: above all panels; of one state, in place of the panel's.
        palette: a diverging map of matplotlib or its name, colours from low to high, or a dictionary of ``low``,
            ``middle`` and ``high``.
        font_size: of the labels, in points.

    Returns:
        The figure. Colours are symmetric around zero; where a few values lie far beyond the others the colours end
        before them, and the colour bar's arrows and the legend say so. The black bar in a row is the commit layer of
        the new value; the last state's commit layers order the facts of all panels.

    Raises:
        ReadingError: if the reading lacks one of these, has other dimensions, or leaves out layers, if ``value`` is
            neither, or if an option does not fit.
    """
    states = ordered_states(reading, value, _WHAT)
    tables = {name: table_of(state, value) for name, state in states.items()}
    scale = scale_of(np.stack(list(tables.values())), reading.layer.values, _WHAT)
    n_facts = next(iter(tables.values())).shape[0]
    inches = (
        {1: 5.25, 2: PAGE_INCHES, 3: PAGE_INCHES}.get(len(states), PAGE_INCHES / 3 * len(states)),
        _ROW_INCHES * min(max(n_facts, 10), _MOST_LABELS) + 1.7,
    )
    canvas = Canvas(axes, width, title, palette, font_size)
    colours = canvas.colour_map(SIGNED, _WHAT)
    with canvas.page(_WHAT, (1, len(states)), inches, share=(True, True)) as page:
        for panel, (name, state) in zip(page.panels, states.items(), strict=True):
            _draw(panel, state, tables[name], scale, colours)
            commits = _draw_commits(panel, state)
            page.entitle(panel, f"{name}\n{commits}" if "state" in reading.dims else commits)
            depth_axis(panel, state)
            page.label_x(panel, "layer")
        every = _name_facts(page, next(iter(states.values())))
        page.colour_bar(scale, VALUES[value], extendfrac=0.07, pad=0.02)
        last = list(states)[-1] if len(states) > 1 else ""
        _put_legend(page, scale, every, last, any(np.isnan(table).any() for table in tables.values()))
    return page.root


def ordered_states(reading: xr.Dataset, value: str, what: str) -> dict[str, xr.Dataset]:
    """The facts to draw by state, in the order of the last state's commit layers; facts that do not commit come last.

    Raises:
        ReadingError: as ``heatmap``.
    """
    if value not in VALUES:
        raise ReadingError(f"{what} has no value {value!r}. It draws {' or '.join(VALUES)}.")
    extra = ("state",) if isinstance(reading, xr.Dataset) and "state" in reading.dims else ()
    reading = contest_along(reading, what, extra=extra, with_margin=False)
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
    values = margin(state.logprob) if value == "margin" else standing(state.logprob)
    return values.transpose("fact", "layer").values.astype(float)


def _draw(axes: Axes, state: xr.Dataset, table: np.ndarray, scale: Scale, colours: Colormap) -> None:
    layers, n_facts = state.layer.values, table.shape[0]
    mark_missing(axes)
    beyond = np.where(np.isinf(table), np.sign(table) * 2 * scale.limit, table)
    draw_cells(axes, beyond, scale, colours, (layers[0] - 0.5, layers[-1] + 0.5, n_facts - 0.5, -0.5))


def _draw_commits(axes: Axes, state: xr.Dataset) -> str:
    """A bar at the left edge of each fact's commit layer; returns how many there are."""
    commits = commit_layer(state).values
    rows = np.flatnonzero(np.isfinite(commits))
    if len(rows):
        width = 1.6 * float(np.clip(40 / len(commits), 0.4, 1.0))
        bars = axes.vlines(commits[rows] - 0.5, rows - 0.5, rows + 0.5, colors=BLACK, linewidth=stroke(width))
        bars.set_path_effects(_white_edge(stroke(width)))
    return f"{len(rows)} of {len(commits)} commit"


def _white_edge(linewidth: float) -> list[patheffects.AbstractPathEffect]:
    return [patheffects.Stroke(linewidth=linewidth + stroke(1.4), foreground="white"), patheffects.Normal()]


def _name_facts(page: Page, state: xr.Dataset) -> int:
    """Name every fact, or every k-th where all would not be legible; returns k."""
    names = [shortened(name, _NAME_CHARACTERS) for name in state.fact.values]
    every = math.ceil(len(names) / _MOST_LABELS)
    rows = range(0, len(names), every)
    page.panels[0].set_yticks(list(rows), [names[row] for row in rows], fontsize=text_points(6))
    for i, axes in enumerate(page.panels):
        axes.tick_params(axis="y", length=2 if every > 1 and i == 0 else 0, labelleft=i == 0)
    return every


def _put_legend(page: Page, scale: Scale, every: int, last: str, any_missing: bool) -> None:
    bar = {"linestyle": "", "marker": "|", "markersize": 9, "markeredgewidth": stroke(1.6), "color": BLACK}
    line = Line2D([], [], **bar, path_effects=_white_edge(stroke(1.6)))
    entries: dict[str, Line2D | Patch] = {"commit layer of new: it leads from here to the last layer": line}
    if any_missing:
        entries["no value"] = missing_patch()
    notes = [f"a row is a fact; facts in order of their commit layer{f' ({last})' if last else ''}"]
    if every > 1:
        notes.append(f"one fact in {every} is named")
    page.legend(entries, "\n".join([*notes, *filter(None, [scale.note])]))
