"""Dose and response: what is left of old and what the correction costs, by how far the weights moved and by p(new).

The left column asks what a dose does; the right one holds doses against each other where new is equally likely, which
is where changes may be compared (DESIGN, matched success).
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mechmask.draw.band import entries_of
from mechmask.draw.canvas import AxesLike, Canvas, Page, Width
from mechmask.draw.check import require_level, require_shape
from mechmask.draw.palette import Palette
from mechmask.draw.style import PAGE_INCHES, SERIES, grey, percent, plain, stroke, text_points
from mechmask.errors import ReadingError
from mechmask.measure.dose import dose_curve, dose_erased
from mechmask.measure.reading import require
from mechmask.measure.verdict import MARGIN_SHARE

_WHAT = "The dose figure"
_ROWS = {  # the unit of each row, and what it shows
    "trace": ("nats", "Trace of old"),
    "index": ("nats", "Raw erase index"),
    "control_drop": ("nats", "Fall of the controls"),
    "text_cost": ("nats per token", "Cost to other text"),
}
_COLUMNS = {"norm": "norm of the change", "probability_new": "p(new), mean over facts"}
_UNITS = {"facts": "fact", "controls": "control", "sequences of text": "sequence"}
_BY_SCALE = "scale"  # a path of multiples of one trained change: thin, with hollow markers


def dose(
    doses: xr.Dataset,
    *,
    level: float = 0.95,
    axes: AxesLike | None = None,
    width: Width | None = None,
    title: str | None = None,
    palette: Palette | None = None,
    font_size: float | None = None,
) -> Figure:
    """Trace, raw index and collateral (rows) against the norm of the change and against p(new) (columns).

    Args:
        doses: what ``DoseStudy`` finds, ``results/doses``: ``trace_after[dose, fact]`` and all else that ``dose_curve``
            and ``dose_erased`` take, in nats, with ``path``, ``course``, ``by`` and ``at`` along ``dose``.
        level: of all intervals of means.
        axes: eight panels to draw into, row by row; without them a new figure is made.
        width: of a new figure: ``"single"`` or ``"double"`` column, or inches.
        title: above all panels.
        palette: colours of the courses: by name, in their order, or a matplotlib map's name.
        font_size: of the labels, in points.

    Returns:
        The figure. A line is a path: the steps of a training (filled markers) or multiples of its change (hollow). A
        star stands where the trace is gone for good; the legend says which dose that is, with its interval at the level
        of the verdict, or that it is not reached.

    Raises:
        ReadingError: if ``doses`` lacks one of these, has more courses than can be told apart, or an option does not
            fit.
    """
    require(doses, _WHAT, variables=("trace_after", "trace_before"), dims=("dose", "fact"))
    require_shape(doses, _WHAT, "trace_after", ("dose", "fact"))
    require_level(level)
    courses = list(dict.fromkeys(map(str, doses.course.values)))
    if len(courses) > len(SERIES):
        raise ReadingError(f"{_WHAT} tells {len(SERIES)} courses apart, and there are {len(courses)}. Select some.")
    curve, erased = dose_curve(doses, level), dose_erased(doses)
    canvas = Canvas(axes, width, title, palette, font_size)
    looks = dict(zip(courses, SERIES, strict=False))
    with canvas.page(_WHAT, (4, 2), (PAGE_INCHES, 8.6), looks=looks, share=("col", "row")) as page:
        for row, (name, (label, heading)) in enumerate(_ROWS.items()):
            for panel, along in zip(page.grid[row], _COLUMNS, strict=True):
                _draw_paths(page, panel, curve, erased, name, along)
                panel.axhline(0, color=grey(), linewidth=stroke(0.6), zorder=0.5)
                page.entitle(panel, heading if along == "norm" else "by p(new)")
            page.label_y(page.grid[row, 0], label)
            _mark_bounds(page, row, name, doses)
        for panel, label in zip(page.grid[-1], _COLUMNS.values(), strict=True):
            page.label_x(panel, label)
        page.legend(entries_of(page.panels), _note(doses, level))
    return page.root


def _draw_paths(page: Page, axes: Axes, curve: xr.Dataset, erased: xr.Dataset, name: str, along: str) -> None:
    x = curve[along].values.astype(float)
    if along == "norm":
        x = x * np.where(curve["scale"].values < 0, -1, 1)
    for path in erased.path.values.tolist():
        rows = np.flatnonzero(curve.path.values == path)
        rows = rows[np.argsort(curve["at"].values[rows], kind="stable")]
        if along != "norm":  # the opposite of a change teaches nothing, so that no success is to be matched
            rows = rows[curve["scale"].values[rows] >= 0]
        first = curve.isel(dose=rows[0])
        look, hollow = page.looks[str(first.course.values)], str(first.by.values) == _BY_SCALE
        low, high = (curve[f"{name}_{end}"].values[rows] for end in ("low", "high"))
        axes.vlines(x[rows], low, high, color=look.color, linewidth=stroke(0.8), alpha=0.6)
        axes.plot(
            *(x[rows], curve[name].values[rows]),
            color=look.color,
            linestyle=look.linestyle,
            marker=look.marker,
            linewidth=stroke(0.8 if hollow else look.linewidth),
            markerfacecolor="none" if hollow else look.color,
            label=_entry(erased, path, first),
        )
        row = int(erased.row.sel(path=path))
        if row >= 0 and name == "trace":
            star = {"marker": "*", "markersize": text_points(10), "markeredgecolor": look.color, "linestyle": ""}
            label = "from here on the trace is gone"
            axes.plot(x[row], curve[name].values[row], markerfacecolor="white", zorder=5, label=label, **star)


def _entry(erased: xr.Dataset, path: str, first: xr.Dataset) -> str:
    """A path and the dose at which the trace is gone on it."""
    by, found = str(first.by.values), erased.sel(path=path)
    if not np.isfinite(found.dose):
        perhaps = f", perhaps from {by} {_place(float(found.low))} on" if np.isfinite(found.low) else ""
        return f"{plain(path)}: trace gone at no dose (not reached{perhaps})"
    low, high = (_place(float(found[end])) for end in ("low", "high"))
    return f"{plain(path)}: trace gone at {by} {_place(float(found.dose))} [{low}, {high}]"


def _place(at: float) -> str:
    return "unknown" if np.isnan(at) else "not reached" if np.isinf(at) else f"{at:g}"


def _mark_bounds(page: Page, row: int, name: str, doses: xr.Dataset) -> None:
    """The margin within which a trace is called gone; the paper's cutoff of the raw index."""
    share = float(doses.attrs.get("margin_share", MARGIN_SHARE))
    bounds = {
        "trace": (share * float(doses.trace_before.mean()), f"margin: {share:.0%} of the mean trace before"),
        "index": (float(doses.attrs.get("cutoff_nats", np.nan)), "the paper's cutoff"),
    }
    height, label = bounds.get(name, (np.nan, ""))
    if not np.isfinite(height):
        return
    dashes = {"trace": (0, (5, 1.5)), "index": (0, (1, 1))}[name]
    for panel in page.grid[row]:
        panel.axhline(height, color=grey(), linewidth=stroke(0.8), linestyle=dashes, zorder=0.6, label=label)


def _note(doses: xr.Dataset, level: float) -> str:
    n = {name: doses.sizes[dim] for name, dim in _UNITS.items()}
    counted = ", ".join(f"{count} {name}" for name, count in n.items())
    return (
        f"marker: mean; bar: its {percent(level)} t interval (n = {counted}); filled: steps of a training, hollow: "
        "multiples of its change (left of 0: of its opposite); controls: fall of their log p(old)"
    )
