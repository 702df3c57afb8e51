"""Rows of verdicts: EI* of a group with its interval by what was judged, and how many facts were judged how.

A row is an editor, or a cell of a sweep; panels beside each other share their rows, which are named once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from mechmask.draw.canvas import Page
from mechmask.draw.style import VERDICT_LOOKS, grey, light_grey, paper, stroke

RATIO = ("normalised", "normalised_low", "normalised_high")
LABEL_OF_RATIO = "EI*: 0 kept, 1 as never known"

_ROOM = 0.04  # of the facts: a piece of a bar that is wide enough for a marker


def draw_ratios(
    page: Page, axes: Axes, verdicts: xr.DataArray, ratio: Sequence[xr.DataArray], margin_share: float
) -> bool:
    """EI* of every row by its verdict.

    Args:
        page: whose looks there are.
        axes: the panel.
        verdicts: on each group, ``[row]``.
        ratio: EI* of each group and the ends of its interval, each ``[row]``.
        margin_share: of the verdict, around 1.

    Returns:
        Whether an interval goes on beyond the panel, where it ends in an arrow.
    """
    estimate, low, high = (of.values.astype(float) for of in ratio)
    finite = np.concatenate([[0.0, 1.0 + margin_share], *(of[np.isfinite(of)] for of in (estimate, low, high))])
    left, right = np.clip([finite.min(), finite.max()], -1.0, 3.0) + np.array([-0.1, 0.1])
    axes.axvspan(1 - margin_share, 1 + margin_share, color=light_grey(), linewidth=0, zorder=0.4)
    for place in (0.0, 1.0):
        axes.axvline(place, color=grey(), linewidth=stroke(0.8), linestyle=":", zorder=0.5)
    goes_on = False
    for row, verdict in enumerate(verdicts.values.tolist()):
        if not np.isfinite(estimate[row]):
            continue
        look = page.looks[verdict]
        ends = np.where(np.isnan([low[row], high[row]]), [-np.inf, np.inf], [low[row], high[row]])
        axes.hlines(row, *np.clip(ends, left, right), color=look.color, linewidth=stroke(1.2))
        for end, marker, beyond in ((left, "<", ends[0] < left), (right, ">", ends[1] > right)):
            if beyond:
                goes_on = True
                axes.plot([end], [row], linestyle="", marker=marker, color=look.color, clip_on=False)
        if left <= estimate[row] <= right:
            axes.plot([estimate[row]], [row], linestyle="", marker=look.marker, color=look.color)
    axes.set_xlim(left, right)
    return goes_on


def draw_counts(page: Page, axes: Axes, counts: Mapping[str, np.ndarray]) -> None:
    """How many facts are judged how, as one bar a row.

    Args:
        page: whose looks there are.
        axes: the panel.
        counts: of every verdict, ``[row]``.
    """
    most = max(1.0, *np.sum(list(counts.values()), axis=0))
    rows = np.arange(len(next(iter(counts.values()))))
    start = np.zeros(len(rows))
    for verdict in VERDICT_LOOKS:
        n, look = counts[verdict].astype(float), page.looks[verdict]
        axes.barh(rows, n, left=start, height=0.6, color=look.color, edgecolor=paper(), linewidth=stroke(0.8))
        # colours that grey print cannot tell apart have the legend's marker in them, where it has room
        there = (n > 0) & (n >= _ROOM * most)
        axes.plot((start + n / 2)[there], rows[there], linestyle="", marker=look.marker, color=paper())
        start += n
    axes.set_xlim(0, most)
    axes.locator_params(axis="x", integer=True, nbins=5)


def name_rows(axes: Axes, names: Sequence[str], *, named: bool) -> None:
    """Rows from above to below, divided by lines.

    Args:
        axes: the panel.
        names: of the rows.
        named: whether they stand at this panel.
    """
    axes.set_yticks(range(len(names)), names if named else [""] * len(names))
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.5, -0.5)
    for row in range(1, len(names)):
        axes.axhline(row - 0.5, color=light_grey(), linewidth=stroke(0.6), zorder=0.5)
