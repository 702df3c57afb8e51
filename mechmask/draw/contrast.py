"""Edited against fine-tuned at matched success: which statistic tells them apart, and where the old value is back.

Each place has two marks: where new leads by the same margin under every way, and where each way has taken all of its
steps. What separates the ways in the second and not in the first was the dose.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mechmask.draw.band import entries_of
from mechmask.draw.canvas import AxesLike, Canvas, Page, Width
from mechmask.draw.check import require_shape
from mechmask.draw.palette import Palette
from mechmask.draw.states import state_name
from mechmask.draw.style import CONTROL, NEW, OLD, PAGE_INCHES, Look, grey, light_grey, percent, stroke
from mechmask.measure.contrast import ANY
from mechmask.measure.reading import require

_WHAT = "The contrast figure"
_LOOKS = {"matched": OLD, "driven_on": NEW, "controls": CONTROL}
_LABELS = {
    "matched": "new leads by the same margin",
    "driven_on": "all steps of each way taken",
    "controls": "controls, same margin",
}
_ASKED = {
    "probes": "Probes",
    "letter": "Multiple choice, by letter",
    "text": "Multiple choice, by text",
}
_OFFSETS = {"matched": -0.22, "driven_on": 0.0, "controls": 0.22}


def contrast(
    auroc: xr.Dataset,
    rebound: xr.Dataset,
    *,
    axes: AxesLike | None = None,
    width: Width | None = None,
    title: str | None = None,
    palette: Palette | None = None,
    font_size: float | None = None,
) -> Figure:
    """AUROC of edited against fine-tuned by statistic (panel a), and the share of questions that old wins (b to d).

    Args:
        auroc: ``results/auroc`` of a ``ContrastStudy``: ``auroc[dose, of, edited, tuned, statistic]`` with its ends;
            all edits against all trainings are drawn, by the change of the statistic.
        rebound: ``results/rebound`` of it: ``share[dose, way, asked]`` and ``control_share``, with their ends.
        axes: four panels to draw into, row by row; without them a new figure is made.
        width: of a new figure: ``"single"`` or ``"double"`` column, or inches.
        title: above all panels.
        palette: colours of matched, driven_on and controls: by name, in this order, or a matplotlib map's name.
        font_size: of the labels, in points.

    Returns:
        The figure; bars are the intervals that the results hold. In panel a 1 means that every edit left less of old
        than every training; panel b is of phrasings that no training showed, led by old over new; c and d are of
        questions, led by old over every option.

    Raises:
        ReadingError: if a result lacks one of these or has other dimensions, or an option does not fit.
    """
    require(auroc, _WHAT, variables=("auroc", "auroc_low", "auroc_high", "n"), dims=("dose", "statistic"))
    require_shape(auroc, _WHAT, "auroc", ("dose", "of", "edited", "tuned", "statistic"))
    require(rebound, _WHAT, variables=("share", "share_low", "share_high", "control_share", "n"), dims=("dose", "way"))
    require_shape(rebound, _WHAT, "share", ("dose", "way", "asked"))
    told = auroc.sel(of="change", edited=ANY, tuned=ANY)
    rows = max(told.sizes["statistic"], rebound.sizes["way"])
    canvas = Canvas(axes, width, title, palette, font_size)
    with canvas.page(_WHAT, (2, 2), (PAGE_INCHES, 2.2 + 0.34 * rows), looks=_LOOKS) as page:
        first, *others = page.panels
        for dose in told.dose.values.tolist():
            _marks(page, first, told.sel(dose=dose), "auroc", str(dose))
        _rows(first, told.statistic.values, centre=0.5)
        page.entitle(first, "Told apart")
        page.label_x(first, "AUROC, fine-tuned above edited")
        for panel, (asked, heading) in zip(others, _ASKED.items(), strict=True):
            found = rebound.sel(asked=asked)
            for dose in found.dose.values.tolist():
                _marks(page, panel, found.sel(dose=dose), "share", str(dose))
            _marks(page, panel, found.isel(dose=0), "control_share", "controls")
            _rows(panel, rebound.way.values)
            page.entitle(panel, heading)
            page.label_x(panel, "share that old leads")
        page.legend(entries_of(page.panels), _note(told, rebound), 1)
    return page.root


def _marks(page: Page, axes: Axes, found: xr.Dataset, name: str, look: str) -> None:
    """An estimate with its interval in every row, a little above or below it."""
    style: Look = page.looks[look]
    estimate, low, high = (found[f"{name}{end}"].values.astype(float) for end in ("", "_low", "_high"))
    heights = np.arange(len(estimate)) + _OFFSETS[look]
    there = np.isfinite(low) & np.isfinite(high)
    axes.hlines(heights[there], low[there], high[there], color=style.color, linewidth=stroke(1.0), alpha=0.7)
    axes.plot(estimate, heights, linestyle="", marker=style.marker, color=style.color, label=_LABELS[look])


def _rows(axes: Axes, names: np.ndarray, centre: float | None = None) -> None:
    axes.set_yticks(range(len(names)), [state_name(name).replace("_", " ") for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(-0.04, 1.04)
    for row in range(1, len(names)):
        axes.axhline(row - 0.5, color=light_grey(), linewidth=stroke(0.6), zorder=0.5)
    if centre is not None:
        axes.axvline(centre, color=grey(), linewidth=stroke(0.8), linestyle=":", zorder=0.5)


def _note(told: xr.Dataset, rebound: xr.Dataset) -> str:
    """What is compared on how many facts, and how many a way did not bring to the margin."""
    pairs = {str(dose): int(told.n.sel(dose=dose).max()) for dose in told.dose.values}
    reached = rebound.n.isel(dose=0).sel(asked="probes")
    most = int(reached.max())
    short = [
        f"{way} on {int(n)} of {most}" for way, n in zip(reached.way.values, reached.values, strict=True) if n < most
    ]
    level = percent(float(told.attrs.get("level", 0.95)))
    counted = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in pairs.items())
    lines = [
        f"bars: {level} intervals, facts as clusters; a: facts that every way changed ({counted}); 0.5 tells nothing"
    ]
    return "\n".join([*lines, *([f"the margin was reached by {', '.join(short)}"] if short else [])])
