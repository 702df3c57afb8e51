"""Elasticity: how soon old values come back by how long they were contradicted, and what either way costs."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mechmask.draw.canvas import AxesLike, Canvas, Page, Width
from mechmask.draw.palette import Palette
from mechmask.draw.style import NEVER, OLD, PAGE_INCHES, grey, percent, stroke
from mechmask.errors import ReadingError
from mechmask.measure.reading import require

_WHAT = "The elasticity figure"
_ARMS = {"installed": ("old value installed before", OLD), "never": ("never installed", NEVER)}


def elasticity(
    table: xr.Dataset,
    *,
    axes: AxesLike | None = None,
    width: Width | None = None,
    title: str | None = None,
    palette: Palette | None = None,
    font_size: float | None = None,
) -> Figure:
    """Steps until half of the facts are back, by dose (panel a), and the loss out less the loss back (b).

    Args:
        table: ``results/elasticity`` of an ``ElasticityStudy``: ``median_steps`` and ``resistance`` (nats per token)
            with their ends, and the counts ``n`` and ``n_censored``, each ``[arm, dose]``.
        axes: two panels to draw into; without them a new figure is made.
        width: of a new figure: ``"single"`` or ``"double"`` column, or inches.
        title: above both panels.
        palette: colours of installed and never installed facts: by name, in this order, or a matplotlib map's name.
        font_size: of the labels, in points.

    Returns:
        The figure; bars are the intervals that the results hold. Where half of the facts never come back, the point
        stands at the top of panel a as an arrow.

    Raises:
        ReadingError: if the result lacks one of these or holds other arms, or an option does not fit.
    """
    names = ("median_steps", "median_low", "median_high", "resistance", "resistance_low", "resistance_high", "n")
    require(table, _WHAT, variables=(*names, "n_censored"), dims=("arm", "dose"))
    unknown = sorted(set(map(str, table.arm.values)) - set(_ARMS))
    if unknown:
        raise ReadingError(f"{_WHAT} does not know the arm {unknown[0]}. It knows {', '.join(_ARMS)}.")
    looks = {name: look for name, (_, look) in _ARMS.items()}
    canvas = Canvas(axes, width, title, palette, font_size)
    with canvas.page(_WHAT, (1, 2), (PAGE_INCHES, 3.4), looks=looks) as page:
        steps, losses = page.panels
        ordered = table.sortby("dose")
        finite = ordered.median_steps.values[np.isfinite(ordered.median_steps.values)]
        top = 1.15 * max([*finite.tolist(), float(ordered.attrs.get("budget_steps", 0.0)), 1.0])
        entries = {}
        for shift, arm in zip((-0.06, 0.06), map(str, ordered.arm.values), strict=False):
            one, look = ordered.sel(arm=arm), page.looks[arm]
            places = np.arange(one.sizes["dose"]) + shift
            _draw(page, steps, places, one, ("median_steps", "median_low", "median_high"), arm, top)
            _draw(page, losses, places, one, ("resistance", "resistance_low", "resistance_high"), arm)
            counted = f"{_ARMS[arm][0]}, n = {int(one.n.max())}"
            entries[counted] = Line2D([], [], color=look.color, marker=look.marker, linestyle=look.linestyle)
        for panel in page.panels:
            panel.set_xticks(range(ordered.sizes["dose"]), [str(int(dose)) for dose in ordered.dose.values])
            panel.set_xlim(-0.5, ordered.sizes["dose"] - 0.5)
            page.label_x(panel, "contradicted for so many steps")
        steps.set_ylim(0, top)
        losses.axhline(0, color=grey(), linewidth=stroke(0.8), linestyle=":")
        page.entitle(steps, "The way back")
        page.label_y(steps, "steps until half are back")
        page.entitle(losses, "Resistance")
        page.label_y(losses, "loss out less loss back\nnats per token")
        level = percent(float(table.attrs.get("level", 0.95)))
        note = f"bars: {level} intervals; above 0 in b the way back is the easier"
        if not np.isfinite(ordered.median_steps.values).all():
            note += "\nan arrow: half of the facts are not back within the budget"
        page.legend(entries, note)
    return page.root


def _draw(
    page: Page,
    axes: Axes,
    places: np.ndarray,
    one: xr.Dataset,
    names: tuple[str, str, str],
    arm: str,
    top: float = np.inf,
) -> None:
    """An arm's estimates, joined, with their intervals as far as the panel goes."""
    look = page.looks[arm]
    estimate, low, high = (one[name].values.astype(float) for name in names)
    there = np.isfinite(estimate)
    axes.plot(places[there], estimate[there], color=look.color, marker=look.marker, linestyle=look.linestyle)
    for place in places[~there]:
        axes.plot([place], [top], color=look.color, marker="^", linestyle="", clip_on=False)
    drawn = np.isfinite(low)
    axes.vlines(places[drawn], low[drawn], np.minimum(high[drawn], top), color=look.color, linewidth=stroke(1.0))
