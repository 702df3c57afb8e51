"""Retention: how many edits and how much intrinsic knowledge later training leaves, and what is left of the new value.

Wen and Zhang (2025, figure 2) draw the shares; EI* beside them tells an edit that has decayed from one that is only no
longer said.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mechmask.draw.canvas import AxesLike, Canvas, Width
from mechmask.draw.palette import Palette
from mechmask.draw.states import state_name
from mechmask.draw.style import CONTROL, MARGIN, PAGE_INCHES, VERDICT_LOOKS, percent, shortened, stroke
from mechmask.draw.verdict_rows import RATIO, draw_ratios, name_rows
from mechmask.errors import ReadingError
from mechmask.measure.reading import require
from mechmask.measure.verdict import MARGIN_SHARE

_WHAT = "The retention figure"
_SHARES = {
    "edited": ("new, of edits that took (a)", MARGIN._replace(marker="P")),
    "intrinsic": ("true, of intrinsic facts (a)", CONTROL),
}
_OFFSETS = dict(zip(_SHARES, (-0.14, 0.14), strict=True))
_MOST_ROWS = 60


def retention(
    rates: xr.Dataset,
    *,
    axes: AxesLike | None = None,
    width: Width | None = None,
    title: str | None = None,
    palette: Palette | None = None,
    font_size: float | None = None,
) -> Figure:
    """Shares of facts that are still said (panel a) and EI* of the new values by the verdict on it (b).

    Args:
        rates: ``results/rates`` of a ``RetentionStudy``: shares ``estimate``, ``low`` and ``high`` ``[editor, task,
            quantity]``; ``normalised`` (a ratio) with its ends, ``verdict``, and the counts ``n`` and ``n_intrinsic``
            ``[editor, task]``.
        axes: two panels to draw into; without them a new figure is made.
        width: of a new figure: ``"single"`` or ``"double"`` column, or inches.
        title: above both panels.
        palette: colours of edited and intrinsic facts, then of masked, erased, suppressed and undecided: by name, in
            this order, or a matplotlib map's name.
        font_size: of the labels, in points.

    Returns:
        The figure; bars are the intervals that the results hold. In panel b the edit is what may be masked or erased
        by the later training; the grey region counts as erased.

    Raises:
        ReadingError: if the result lacks one of these, has more rows than a figure can show, or an option does not fit.
    """
    require(rates, _WHAT, variables=("estimate", "low", "high", *RATIO, "verdict", "n"), dims=("editor", "task"))
    rows = rates.stack(row=("editor", "task"), create_index=False)
    if rows.sizes["row"] > _MOST_ROWS:
        raise ReadingError(f"{_WHAT} can show {_MOST_ROWS} rows, and there are {rows.sizes['row']}. Select some.")
    names = [_name(rows.isel(row=row), rates.sizes["task"]) for row in range(rows.sizes["row"])]
    looks = {name: look for name, (_, look) in _SHARES.items()} | VERDICT_LOOKS
    canvas = Canvas(axes, width, title, palette, font_size)
    with canvas.page(_WHAT, (1, 2), (PAGE_INCHES, 1.9 + 0.3 * len(names)), looks=looks) as page:
        shares, left = page.panels
        entries = {}
        for name, (label, _) in _SHARES.items():
            look, one = page.looks[name], rows.sel(quantity=name)
            heights = np.arange(len(names)) + _OFFSETS[name]
            there = np.isfinite(one.low.values) & np.isfinite(one.high.values)
            ends = one.low.values[there], one.high.values[there]
            shares.hlines(heights[there], *ends, color=look.color, linewidth=stroke(1.0))
            shares.plot(one.estimate.values, heights, linestyle="", marker=look.marker, color=look.color)
            entries[label] = Line2D([], [], linestyle="", marker=look.marker, color=look.color)
        shares.set_xlim(-0.04, 1.04)
        margin = float(rates.attrs.get("margin_share", MARGIN_SHARE))
        goes_on = draw_ratios(page, left, rows.verdict, [rows[name] for name in RATIO], margin)
        for panel in page.panels:
            name_rows(panel, names, named=panel is shares)
        page.entitle(shares, "What is still said")
        page.label_x(shares, "share of facts")
        page.entitle(left, "What is left of the edit")
        page.label_x(left, "EI*: 0 all of it, 1 as if never edited")
        for verdict in VERDICT_LOOKS:
            if verdict in rows.verdict.values:
                look = page.looks[verdict]
                entries[f"{verdict} (b)"] = Line2D([], [], linestyle="-", marker=look.marker, color=look.color)
        page.legend(entries, _note(rates, goes_on), 2)
    return page.root


def _name(row: xr.Dataset, n_tasks: int) -> str:
    editor = shortened(state_name(str(row.editor.values)), 20)
    return f"{editor}, {shortened(str(row.task.values), 20)}" if n_tasks > 1 else editor


def _note(rates: xr.Dataset, goes_on: bool) -> str:
    level = percent(float(rates.attrs.get("level", 0.95)))
    inner = percent(float(rates.attrs.get("interval_level", 0.90)))
    n, n_intrinsic = (sorted({int(x) for x in rates[name].values.flat}) for name in ("n", "n_intrinsic"))
    lines = [
        f"n = {_span(n)} edits and {_span(n_intrinsic)} intrinsic facts a row",
        f"bars: {level} intervals in a, {inner} in b; grey: counts as erased",
    ]
    if rates.sizes["task"] == 1:
        lines.append(f"trained on {shortened(str(rates.task.values[0]), 30)}")
    return "\n".join([*lines, *(["an arrow: the interval goes on"] if goes_on else [])])


def _span(numbers: list[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
