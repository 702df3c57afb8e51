"""Where each editor writes the new value: the margin by layer before and after, one small panel an editor.

All panels share their axes, so that the layer at which the margin turns can be read across them. The lens that read the
layers is in the reading's attrs; a lens is not the model's output before the last layer.
"""

from __future__ import annotations

import math

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mechmask.draw.band import Band, band_along, band_note, draw_band, entries_of, n_text
from mechmask.draw.canvas import AxesLike, Canvas, Page, Width
from mechmask.draw.check import contest_along, require_level
from mechmask.draw.layers import (
    MARGIN_NATS,
    depth_axis,
    frame,
    make_room_for_rug,
    mark_commits,
    mark_median,
    mark_zero,
)
from mechmask.draw.palette import Palette
from mechmask.draw.states import state_name
from mechmask.draw.style import BEFORE, NEW, PAGE_INCHES
from mechmask.errors import ReadingError
from mechmask.measure.commit import commit_layer

_WHAT = "The depth figure of editors"
_BEFORE = "before"
_LOOKS = {"before": BEFORE, "after": NEW}
_MOST_ABREAST = 3


def editors_depth(
    reading: xr.Dataset,
    *,
    level: float = 0.95,
    axes: AxesLike | None = None,
    width: Width | None = None,
    title: str | None = None,
    palette: Palette | None = None,
    font_size: float | None = None,
) -> Figure:
    """Margin of new over old by layer, before any edit and after that of each editor.

    Args:
        reading: ``results/depth`` of an ``EditStudy``: ``logprob[state, fact, route, layer]`` and ``margin[state, fact,
            layer]`` in nats, of which the state ``before`` stands in every panel; the dimension ``phrasing`` (the
            prompt is drawn), ``role`` on ``fact`` and ``depth`` on ``layer`` where it has them.
        level: of all intervals, which are over facts.
        axes: a panel for each editor to draw into, row by row; without them a new figure is made.
        width: of a new figure: ``"single"`` or ``"double"`` column, or inches.
        title: above all panels.
        palette: colours of before and after: by name, in this order, or a matplotlib map's name.
        font_size: of the labels, in points.

    Returns:
        The figure. Ticks at a panel's foot are the commit layers of the new value after the edit, one a fact; the
        vertical line is their median.

    Raises:
        ReadingError: if the reading lacks one of these or the state ``before``, has other dimensions, or leaves out
            layers, or an option does not fit.
    """
    require_level(level)
    drawn = contest_along(reading, _WHAT, extra=("state",))
    names = [str(name) for name in drawn.state.values if str(name) != _BEFORE]
    if _BEFORE not in drawn.state.values or not names:
        raise ReadingError(f"{_WHAT} needs the state before and at least one editor. Give the depth of a whole study.")
    n_columns = min(_MOST_ABREAST, len(names))
    n_rows = math.ceil(len(names) / n_columns)
    inches = (PAGE_INCHES * max(n_columns, 1.6) / _MOST_ABREAST, 1.5 + 1.9 * n_rows)
    canvas = Canvas(axes, width, title, palette, font_size)
    with canvas.page(_WHAT, (n_rows, n_columns), inches, looks=_LOOKS, n_panels=len(names), share=(True, True)) as page:
        bands = []
        for name, panel in zip(names, page.panels, strict=True):
            bands += _draw_editor(page, panel, drawn, name, level)
        _label_axes(page, drawn, n_columns)
        outside = frame(page.panels, bands, "margin")
        make_room_for_rug(page.panels)
        note = "\n".join(filter(None, [band_note(bands, level), n_text(*bands), outside]))
        page.legend(entries_of(page.panels), note, 2)
    return page.root


def _draw_editor(page: Page, panel: Axes, drawn: xr.Dataset, name: str, level: float) -> list[Band]:
    """One editor's panel; returns what its bands are."""
    mark_zero(panel)
    bands = []
    for look, label, state in (("before", "before any edit", _BEFORE), ("after", "after the edit", name)):
        bands.append(band_along(drawn.margin.sel(state=state), "layer", level))
        draw_band(panel, bands[-1], page.looks[look], label)
    layers = commit_layer(drawn.sel(state=name)).values
    layers = layers[np.isfinite(layers)]
    mark_commits(panel, layers, page.looks["after"])
    mark_median([panel], layers, page.looks["after"])
    page.entitle(panel, _heading(name, layers, drawn.sizes["fact"]))
    return bands


def _label_axes(page: Page, drawn: xr.Dataset, n_columns: int) -> None:
    """Depth above the first row, layers below the last panel of each column, nats beside the first column."""
    for number, panel in enumerate(page.panels):
        if number < n_columns:
            depth_axis(panel, drawn)
        if number + n_columns >= page.n:
            page.label_x(panel, "layer")
            panel.tick_params(labelbottom=True)
        if number % n_columns == 0:
            page.label_y(panel, MARGIN_NATS)


def _heading(name: str, layers: np.ndarray, n: int) -> str:
    median = f", median {float(np.median(layers)):g}" if len(layers) else ""
    return f"{state_name(name).replace('_', ' ')}\n{len(layers)} of {n} commit{median}"
