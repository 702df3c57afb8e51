"""Edits one after the other on one model: what becomes of the edited facts, of their neighbors and of other text."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mechmask.draw.band import Band, draw_band, entries_of
from mechmask.draw.canvas import AxesLike, Canvas, Page, Width
from mechmask.draw.changes import by_change, looks_of
from mechmask.draw.check import require_shape
from mechmask.draw.palette import Palette
from mechmask.draw.style import PAGE_INCHES, count, grey, percent, stroke
from mechmask.errors import ReadingError
from mechmask.measure.reading import require

_WHAT = "The figure of a sequence of edits"
_PANELS = {
    "efficacy_score": ("ES so far", "share"),
    "paraphrase_score": ("PS so far", "share"),
    "neighborhood_score": ("NS of all facts", "share"),
    "perplexity_ratio": ("Held-out text", "perplexity / that before"),
}


def editors_sequence(
    sequence: xr.Dataset,
    *,
    axes: AxesLike | None = None,
    width: Width | None = None,
    title: str | None = None,
    palette: Palette | None = None,
    font_size: float | None = None,
) -> Figure:
    """ES and PS of the facts edited so far, NS of all and perplexity by the number of edits, a line for each editor.

    Args:
        sequence: ``results/sequence`` of an ``EditStudy``: ``estimate``, ``low``, ``high`` and ``n`` ``[state, edits,
            metric]``, of which the editing field's three scores (shares) are drawn and, where a text was read, the
            perplexity relative to that before any edit.
        axes: a panel for each of these to draw into; without them a new figure is made.
        width: of a new figure: ``"single"`` or ``"double"`` column, or inches.
        title: above all panels.
        palette: colours of the editors: by name, in their order, or a matplotlib map's name.
        font_size: of the labels, in points.

    Returns:
        The figure; bands are the intervals that the result holds. NS begins before any edit.

    Raises:
        ReadingError: if the result lacks one of these or has other dimensions, if there are more editors than line
            styles, or if an option does not fit.
    """
    require(sequence, _WHAT, variables=("estimate", "low", "high", "n"), dims=("state", "edits", "metric"))
    require_shape(sequence, _WHAT, "estimate", ("state", "edits", "metric"))
    scores = [name for name in _PANELS if name != "perplexity_ratio"]
    if missing := [name for name in scores if name not in sequence.metric.values]:
        raise ReadingError(f"{_WHAT} needs {', '.join(missing)}, which this result lacks. Give that of one study.")
    drawn = [name for name in _PANELS if _is_there(sequence, name)]
    editors = by_change(sequence.sortby("edits"), _WHAT)
    shape = (2, 2) if len(drawn) == len(_PANELS) else (1, len(drawn))
    canvas = Canvas(axes, width, title, palette, font_size)
    looks = looks_of(editors, _WHAT)
    with canvas.page(_WHAT, shape, (PAGE_INCHES, 2.6 * shape[0] + 0.4), looks=looks) as page:
        for panel, metric in zip(page.panels, drawn, strict=True):
            for name, editor in editors.items():
                draw_band(panel, _band(editor.sel(metric=metric)), page.looks[name], name)
            _label(page, panel, metric)
            panel.set_xlim(*_range(sequence.edits.values))
        page.legend(entries_of(page.panels), _note(sequence, "perplexity_ratio" in drawn), 4)
    return page.root


def _range(edits: np.ndarray) -> tuple[float, float]:
    """From none to all edits, in every panel."""
    most = float(edits.max())
    return -0.04 * most, 1.04 * most


def _is_there(sequence: xr.Dataset, metric: str) -> bool:
    return metric in sequence.metric.values and bool(np.isfinite(sequence.estimate.sel(metric=metric)).any())


def _band(metric: xr.Dataset) -> Band:
    """Of one editor; before any edit nothing but the neighbors is there."""
    estimate, low, high = (metric[name].values.astype(float) for name in ("estimate", "low", "high"))
    return Band(metric.edits.values, estimate, low, high, metric.n.values, 0)


def _label(page: Page, axes: Axes, metric: str) -> None:
    heading, unit = _PANELS[metric]
    page.entitle(axes, heading)
    page.label_x(axes, "edits")
    page.label_y(axes, unit)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    if metric == "perplexity_ratio":
        axes.axhline(1.0, color=grey(), linewidth=stroke(0.8), linestyle=":", zorder=0.5)
    else:
        axes.set_ylim(-0.04, 1.04)


def _note(sequence: xr.Dataset, with_text: bool) -> str:
    n = int(sequence.n.sel(metric="neighborhood_score").max())
    text = f"; {count(int(sequence.n.sel(metric='perplexity_ratio').max()), 'text')}" if with_text else ""
    return f"bands: {percent(float(sequence.attrs.get('level', 0.95)))} intervals; {count(n, 'fact')}{text}"
