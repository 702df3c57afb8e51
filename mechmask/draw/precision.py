"""Does the verdict stand where weights are rounded: the same correction in float32, bfloat16, int8 and NF4.

Panel a has every fact's trace after the correction under each precision, a fact joined from row to row; panel b what
rounding moved of it; panel c the group, beside the margin within which old values count as erased.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mechmask.draw.canvas import AxesLike, Canvas, Page, Width
from mechmask.draw.check import require_shape
from mechmask.draw.palette import Palette
from mechmask.draw.states import state_name
from mechmask.draw.style import PAGE_INCHES, VERDICT_LOOKS, grey, ink, light_grey, paper, percent, stroke
from mechmask.errors import ReadingError
from mechmask.measure.precision import CONTROL
from mechmask.measure.reading import require

_WHAT = "The precision figure"
_PER_FACT = ("trace_after", "trace_change", "verdict", "verdict_changed")
_PER_GROUP = tuple(
    f"{name}{end}" for name in ("mean_trace_change", "group_normalised") for end in ("", "_low", "_high")
)
_HALF_ROW = 0.26  # of the distance between two precisions: what the points of one fill to either side


def precision(
    table: xr.Dataset,
    *,
    axes: AxesLike | None = None,
    width: Width | None = None,
    title: str | None = None,
    palette: Palette | None = None,
    font_size: float | None = None,
) -> Figure:
    """Trace of every fact (panel a), its change beside float32 (panel b) and EI* of the group (panel c).

    Args:
        table: what ``precision_table`` returned: ``trace_after``, ``trace_change``, ``verdict`` and
            ``verdict_changed``, each ``[precision, fact]``; ``mean_trace_change`` and ``group_normalised`` with their
            intervals, each ``[precision]``; traces in nats.
        axes: three panels to draw into; without them a new figure is made.
        width: of a new figure: ``"single"`` or ``"double"`` column, or inches.
        title: above all panels.
        palette: colours of masked, erased, suppressed and undecided: by name, in this order, or a matplotlib map's
            name.
        font_size: of the labels, in points.

    Returns:
        The figure: a row for each precision; markers by verdict, ringed where the verdict is another one than in
        float32; counts of both in the legend.

    Raises:
        ReadingError: if the table lacks a variable, has other dimensions, or an unknown verdict, or if an option does
            not fit.
    """
    require(table, _WHAT, variables=(*_PER_FACT, *_PER_GROUP), dims=("precision", "fact"))
    for name in _PER_FACT:
        require_shape(table, _WHAT, name, ("precision", "fact"))
    unknown = sorted({str(verdict) for verdict in table.verdict.values.flat} - set(VERDICT_LOOKS))
    if unknown:
        raise ReadingError(
            f"{_WHAT} does not know the verdict {', '.join(unknown)}. It knows {', '.join(VERDICT_LOOKS)}."
        )
    table = table.transpose("precision", "fact", ...)
    names = [state_name(name) for name in table.precision.values]
    canvas = Canvas(axes, width, title, palette, font_size)
    with canvas.page(
        _WHAT, (1, 3), (PAGE_INCHES, 1.6 + 0.55 * len(names)), looks=VERDICT_LOOKS, share=(False, True)
    ) as page:
        traces, changes, group = page.panels
        heights = _heights(table)
        traces.plot(table.trace_after.values, heights, color=light_grey(), linewidth=stroke(0.5), zorder=1)
        _draw_facts(page, traces, table, table.trace_after, heights)
        page.label_x(traces, "trace of old after it (nats)")
        page.entitle(traces, "Every fact, corrected")
        _draw_facts(page, changes, table, table.trace_change, heights)
        _draw_means(changes, table, "mean_trace_change", "mean")
        page.label_x(changes, f"change beside {CONTROL} (nats)")
        page.entitle(changes, "What rounding moved")
        _draw_group(page, group, table)
        traces.set_yticks(range(len(names)), names)
        for panel in page.panels:
            panel.set_ylim(len(names) - 0.5, -0.5)
        for panel in (changes, group):
            panel.tick_params(left=False, labelleft=False)
        page.legend(_entries(page, table), _note(table, names))
    return page.root


def _heights(table: xr.Dataset) -> np.ndarray:
    """Where each fact stands in each row ``[precision, fact]``: in the order of its trace in the first precision."""
    n = table.sizes["fact"]
    places = np.argsort(np.argsort(table.trace_after.values[0], kind="stable"), kind="stable")
    offsets = np.linspace(-_HALF_ROW, _HALF_ROW, n)[places] if n > 1 else np.zeros(1)
    return np.arange(table.sizes["precision"])[:, None] + offsets


def _draw_facts(page: Page, axes: Axes, table: xr.Dataset, values: xr.DataArray, heights: np.ndarray) -> None:
    """A point for each fact in each row, a ring where its verdict is another than in float32."""
    axes.axvline(0, color=grey(), linewidth=stroke(0.8), linestyle=":", zorder=0.5)
    for verdict, look in page.looks.items():
        chosen = table.verdict.values == verdict
        axes.plot(values.values[chosen], heights[chosen], **_points(verdict, look.color))
    changed = table.verdict_changed.values.astype(bool)
    axes.plot(values.values[changed], heights[changed], **_ring())


def _draw_means(axes: Axes, table: xr.Dataset, name: str, label: str) -> None:
    """Estimate and interval under the points of each row."""
    at = np.arange(table.sizes["precision"]) + 0.38
    low, estimate, high = (table[f"{name}{end}"].values for end in ("_low", "", "_high"))
    axes.hlines(at, low, high, color=ink(), linewidth=stroke(1.3))
    axes.plot(estimate, at, color=ink(), linestyle="", marker="|", markersize=6, label=label)


def _draw_group(page: Page, axes: Axes, table: xr.Dataset) -> None:
    axes.axvline(0, color=grey(), linewidth=stroke(0.8), linestyle=":", zorder=0.5)
    axes.axvline(1, color=grey(), linewidth=stroke(0.8), zorder=0.5)
    if "margin_share" in table.attrs:
        share = float(table.attrs["margin_share"])
        label = f"margin of erased: {percent(share)} of the trace before"
        axes.axvspan(1 - share, 1 + share, color=light_grey(), alpha=0.6, linewidth=0, zorder=0, label=label)
    shown = table.group_normalised.values
    shown = [*shown[np.isfinite(shown)], 0.0, 1.0]
    room = (max(shown) - min(shown)) / 3
    axes.set_xlim(min(shown) - room, max(shown) + room)
    at = np.arange(table.sizes["precision"])
    left, right = axes.get_xlim()
    low, high = (np.clip(table[f"group_normalised_{end}"].values, left, right) for end in ("low", "high"))
    axes.hlines(at, low, high, color=ink(), linewidth=stroke(1.3))
    axes.plot(table.group_normalised.values, at, color=ink(), linestyle="", marker="|", markersize=6)
    page.label_x(axes, "normalised erase index EI*")
    page.entitle(axes, "The group")


def _points(verdict: str, color: str) -> dict[str, Any]:
    marker = VERDICT_LOOKS[verdict].marker
    face = paper() if verdict == "undecided" else color
    return {"linestyle": "", "marker": marker, "markersize": 3.5, "color": color, "markerfacecolor": face, "zorder": 3}


def _ring() -> dict[str, Any]:
    return {"linestyle": "", "marker": "o", "markersize": 7, "color": ink(), "markerfacecolor": "none", "zorder": 2}


def _entries(page: Page, table: xr.Dataset) -> dict[str, Any]:
    """Verdicts with their counts, rings, intervals, and what else is drawn."""
    names = [state_name(name) for name in table.precision.values]
    entries: dict[str, Any] = {}
    for verdict, look in page.looks.items():
        counts = (table.verdict == verdict).sum("fact").values.tolist()
        shown = ", ".join(f"{name} {n}" for name, n in zip(names, counts, strict=True))
        entries[f"{verdict} ({shown})"] = Line2D([], [], **_points(verdict, look.color))
    n_changed = int(table.verdict_changed.sum())
    entries[f"another verdict than in {CONTROL} ({n_changed})"] = Line2D([], [], **_ring())
    levels = [percent(float(table.attrs[name])) for name in ("change_level", "interval_level") if name in table.attrs]
    bar = Line2D([], [], color=ink(), linewidth=stroke(1.3), marker="|", markersize=6)
    entries[" ".join(["mean change and EI*, with interval", *([f"({' and '.join(levels)})"] if levels else [])])] = bar
    handles, labels = page.panels[-1].get_legend_handles_labels()
    return entries | dict(zip(labels, handles, strict=True))


def _note(table: xr.Dataset, names: list[str]) -> str:
    n = table.sizes["fact"]
    rows = zip(names, table.precision.values, table.n_changed.values.tolist(), strict=True)
    changed = ", ".join(f"{name} {count} of {n}" for name, label, count in rows if label != CONTROL)
    return f"verdicts that rounding changed: {changed}" if changed else ""
