"""The contest layer by layer: at which depth the new value takes the lead for good (paper 2F, finding 5).

One column for each state of the study, so that the same facts stand beside each other before and after a change.
Which lens read the layers is in the reading's attrs; a lens is not the model's output before the last layer.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mechmask.draw.band import Band, band_along, band_note, draw_band, entries_of, lines_of, n_text
from mechmask.draw.canvas import AxesLike, Canvas, Page, Width
from mechmask.draw.check import contest_along, require_level
from mechmask.draw.layers import MARGIN_NATS, depth_axis, frame, make_room_for_rug, mark_commits, mark_median, mark_zero
from mechmask.draw.palette import Palette
from mechmask.draw.states import by_state
from mechmask.draw.style import COLUMN_INCHES, DISTRACTORS, MARGIN, NEW, OLD, PAGE_INCHES
from mechmask.measure.commit import commit_layer
from mechmask.measure.contest import distractors_of

_WHAT = "The depth figure"
_LOGPROB = "log-probability"
_LOOKS = {"old": OLD, "new": NEW, "distractors": DISTRACTORS, "margin": MARGIN}
_ENTRIES = {"old": "old", "new": "new", "distractors": "mean of distractors", "margin": "margin"}


def depth(
    reading: xr.Dataset,
    *,
    level: float = 0.95,
    axes: AxesLike | None = None,
    width: Width | None = None,
    title: str | None = None,
    palette: Palette | None = None,
    font_size: float | None = None,
) -> Figure:
    """Log-probabilities (upper row) and margin (lower row) by layer, a column for each state.

    Args:
        reading: ``logprob[fact, route, layer]`` and ``margin[fact, layer]`` in nats; where it has them also the
            dimension ``state`` (a column each), the dimension ``phrasing`` (the prompt itself is drawn), ``role`` on
            ``fact`` (then the contradicted facts are drawn, if there are any), and ``depth`` on ``layer``.
        level: of all intervals, which are over facts; over draws of facts where ``fact`` has the coordinate ``seed``.
        axes: two panels for each state to draw into, the upper row first; without them a new figure is made.
        width: of a new figure: ``"single"`` or ``"double"`` column, or inches.
        title: above all panels.
        palette: colours of old, new, distractors and margin: by name, in this order, or a matplotlib map's name.
        font_size: of the labels, in points.

    Returns:
        The figure. Ticks under the margin are the commit layers of the new value, one a fact; the vertical line is
        their median over the facts that commit. The layers above the embedding rule the axes; where layer 0 lies
        outside, the legend says how far.

    Raises:
        ReadingError: if the reading lacks one of these, has other dimensions, or leaves out layers, or if an option
            does not fit.
    """
    require_level(level)
    states = _states(reading)
    n_states = len(states)
    inches = ({1: COLUMN_INCHES, 2: 5.25}.get(n_states, PAGE_INCHES / 3 * n_states), 4.4)
    canvas = Canvas(axes, width, title, palette, font_size)
    with canvas.page(_WHAT, (2, n_states), inches, looks=_LOOKS, share=(True, "row")) as page:
        bands: dict[str, list[Band]] = {name: [] for name in _LOOKS}
        for column, (name, state) in enumerate(states.items()):
            upper, lower = page.grid[:, column]
            for route, band in _draw(page, (upper, lower), state, level).items():
                bands[route].append(band)
            page.entitle(upper, name)
            page.entitle(lower, _draw_commits(page, (upper, lower), commit_layer(state)))
            depth_axis(upper, state)
            page.label_x(lower, "layer")
        routes = [band for name in _LOOKS if name != "margin" for band in bands[name]]
        outside = [frame(list(page.grid[0]), routes, _LOGPROB), frame(list(page.grid[1]), bands["margin"], "margin")]
        make_room_for_rug(list(page.grid[1]))
        page.label_y(page.grid[0, 0], f"{_LOGPROB} (nats)")
        page.label_y(page.grid[1, 0], MARGIN_NATS)
        all_bands = (band for of_name in bands.values() for band in of_name)
        _put_legend(page, bands, "\n".join([band_note(all_bands, level), *filter(None, outside)]))
    return page.root


def _states(reading: xr.Dataset) -> dict[str, xr.Dataset]:
    """The facts to draw, by what their column is called."""
    extra = ("state",) if isinstance(reading, xr.Dataset) and "state" in reading.dims else ()
    return by_state(contest_along(reading, _WHAT, extra=extra), "The contest")


def _draw(page: Page, panels: tuple[Axes, Axes], state: xr.Dataset, level: float) -> dict[str, Band]:
    """Routes in the upper panel and their margin in the lower; a route without any value has no line."""
    upper, lower = panels
    curves = {
        "old": (upper, state.logprob.sel(route="old")),
        "new": (upper, state.logprob.sel(route="new")),
        "distractors": (upper, distractors_of(state.logprob).mean("route")),
        "margin": (lower, state.margin),
    }
    mark_zero(lower)
    bands = {}
    for name, (axes, values) in curves.items():
        bands[name] = band_along(values, "layer", level)
        if name == "margin" or bands[name].n.any():
            draw_band(axes, bands[name], page.looks[name], _ENTRIES[name])
    return bands


def _draw_commits(page: Page, panels: tuple[Axes, Axes], commits: xr.DataArray) -> str:
    """A tick for each fact at its commit layer and a line at the median, in the lower panel; returns what it shows."""
    layers = commits.values[np.isfinite(commits.values)]
    mark_commits(panels[1], layers, page.looks["new"])
    mark_median(panels, layers, page.looks["new"])
    median = f", median {float(np.median(layers)):g}" if len(layers) else ""
    return f"{len(layers)} of {commits.size} commit{median}"


def _put_legend(page: Page, bands: dict[str, list[Band]], note: str) -> None:
    """Under all panels; each entry once, with n over all states. Routes are named at their ends where there is room."""
    drawn = entries_of(page.panels)
    entries = {}
    for name, label in _ENTRIES.items():
        if label in drawn:
            n = n_text(*bands[name])
            entries[f"{label} ({n})"] = drawn.pop(label)
            for line in lines_of(page.grid[0], label):
                page.name_line(line, name, f"{label} ({n})", n)
    page.legend(entries | drawn, note, min(3, len(page.panels) // 2 + 1))
