"""Reacquisition: how many facts each arm recalls after how many steps, and the paired increment (paper 2F, finding 6).

Facts that are not recalled when the budget ends stand as what they are: a curve that stays below 1, a caret where the
difference goes on.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mechmask.draw.band import entries_of
from mechmask.draw.canvas import AxesLike, Canvas, Page, Width
from mechmask.draw.check import require_shape
from mechmask.draw.palette import Palette
from mechmask.draw.style import (
    GREEN,
    NEVER,
    NEW,
    OLD,
    PAGE_INCHES,
    SERIES,
    SKY,
    Look,
    count,
    grey,
    ink,
    light_grey,
    percent,
    plain,
    shortened,
    stroke,
    text_points,
)
from mechmask.errors import ReadingError
from mechmask.measure.reading import require

_WHAT = "The reacquisition figure"
_LOOKS = {
    "old_masked": OLD,
    "old_fresh": Look(SKY, (0, (4, 1.2, 1, 1.2, 1, 1.2)), "P"),
    "novel": NEW,
    "never": NEVER,
    "twin": Look(GREEN, (0, (1, 1)), "D"),
}
_NAMES = {
    "old_masked": "old value, masked",
    "old_fresh": "old value, fresh base",
    "novel": "third value, masked model",
    "never": "never-known facts",
    "twin": "old value, twin",
}
_MOST_NAMES, _NAME_CHARACTERS = 40, 20
_ROW = 0.055  # of the height of the curves: between two arms' medians under them


def reacquisition(
    recall: xr.Dataset,
    increment: xr.Dataset,
    *,
    axes: AxesLike | None = None,
    width: Width | None = None,
    title: str | None = None,
    palette: Palette | None = None,
    font_size: float | None = None,
) -> Figure:
    """Facts recalled by step in each arm (panel a), and by how many steps old came before a third value (panel b).

    Args:
        recall: a study's ``results/recall``: ``survival[arm, step]``, the
            shares of facts not yet recalled, ``median_steps``, ``median_low`` and ``median_high`` ``[arm]`` in steps,
            and the counts ``n[arm]`` and ``n_censored[arm]``. Drawn too if it has it: the attribute ``share``.
        increment: the same study's ``results/increment``: ``difference[fact]`` in steps and ``bounded[fact]``, with
            ``shift``, ``shift_low``, ``shift_high`` and ``p_value``.
        axes: two panels to draw into; without them a new figure is made.
        width: of a new figure: ``"single"`` or ``"double"`` column, or inches.
        title: above both panels.
        palette: colours of the arms: by name, in this order, or a matplotlib map's name.
        font_size: of the labels, in points.

    Returns:
        The figure. Facts of panel b stand in the order of their difference.

    Raises:
        ReadingError: if a result lacks one of these or has other dimensions, or has more arms than there are line
            styles, or if an option does not fit.
    """
    _check(recall, increment)
    recall = recall.sortby("step")
    n_facts = int(increment.difference.notnull().sum())
    canvas = Canvas(axes, width, title, palette, font_size)
    inches = (PAGE_INCHES, max(3.9, 2.4 + 0.1 * min(n_facts, _MOST_NAMES)))
    with canvas.page(_WHAT, (1, 2), inches, looks=_looks(recall)) as page:
        left, right = page.panels
        _draw_curves(page, left, recall)
        note = _draw_differences(page, right, increment)
        at_level = f" with {percent(float(recall.attrs['level']))} interval" if "level" in recall.attrs else ""
        medians = f"under the curves: the step at which half of the facts are recalled{at_level}"
        page.legend(entries_of(page.panels), "\n".join(filter(None, [medians, note])))
    return page.root


def _check(recall: xr.Dataset, increment: xr.Dataset) -> None:
    by_arm = ("median_steps", "median_low", "median_high", "n", "n_censored")
    require(recall, f"{_WHAT} (recall)", variables=("survival", *by_arm), dims=("arm", "step"))
    require_shape(recall, f"{_WHAT} (recall)", "survival", ("arm", "step"))
    variables = ("difference", "bounded", "shift", "shift_low", "shift_high", "p_value")
    require(increment, f"{_WHAT} (increment)", variables=variables, dims=("fact",))
    require_shape(increment, f"{_WHAT} (increment)", "difference", ("fact",))
    if recall.sizes["arm"] > len(SERIES):
        raise ReadingError(
            f"{_WHAT} tells {len(SERIES)} arms apart, this result has {recall.sizes['arm']}. Select some of them."
        )


def _looks(recall: xr.Dataset) -> dict[str, Look]:
    """The arms of the protocol have looks of their own, others those of a series."""
    names = [str(name) for name in recall.arm.values]
    if set(names) <= set(_LOOKS):
        return {name: _LOOKS[name] for name in _LOOKS if name in names}
    return dict(zip(names, SERIES, strict=False))


def _draw_curves(page: Page, axes: Axes, recall: xr.Dataset) -> None:
    steps = recall.step.values
    for name, look in page.looks.items():
        arm = recall.sel(arm=name)
        n, n_censored = int(arm.n), int(arm.n_censored)
        if not n:
            continue
        never = f", {n_censored} censored" if n_censored else ""
        label = f"{plain(_NAMES.get(name, name))} (n = {n}{never})"
        style = {"color": look.color, "linestyle": look.linestyle, "linewidth": stroke(look.linewidth)}
        axes.plot(steps, 1 - arm.survival.values, drawstyle="steps-post", label=label, **style)
        _draw_median(axes, arm, look, -_ROW * (1 + list(page.looks).index(name)))
    if "share" in recall.attrs:
        share = float(recall.attrs["share"])
        axes.axhline(share, color=grey(), linewidth=stroke(0.8), linestyle=":", label=f"{share:g} of the facts")
    axes.set_ylim(-_ROW * (1 + len(page.looks)), 1.02)
    axes.set_yticks(np.linspace(0, 1, 6))
    axes.set_xlim(right=float(steps[-1]) * 1.02)  # what is recalled at the last step rises inside the panel
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    page.label_x(axes, "optimizer step")
    page.label_y(axes, "share of facts recalled")
    page.entitle(axes, "Recall under one budget")


def _draw_median(axes: Axes, arm: xr.Dataset, look: Look, height: float) -> None:
    """Under the curves: at which step half of the facts are recalled, as far as that is within the budget."""
    end = float(arm.step.values[-1])
    median, low, high = (float(arm[name]) for name in ("median_steps", "median_low", "median_high"))
    axes.hlines(height, min(low, end), min(high, end), color=look.color, linewidth=stroke(1.0))
    inside = {"marker": look.marker or "o", "linestyle": "", "color": look.color, "markersize": 3.5}
    if median <= end:
        axes.plot([median], [height], **inside)
    if high > end:
        axes.plot([end], [height], **{**inside, "marker": ">", "markersize": 3}, clip_on=False)


def _draw_differences(page: Page, axes: Axes, increment: xr.Dataset) -> str:
    """A line for each fact, and the shift below them; returns what is not drawn."""
    shown = increment.isel(fact=np.flatnonzero(increment.difference.notnull().values)).sortby("difference")
    values, bounded = shown.difference.values, shown.bounded.values.astype(bool)
    heights = np.arange(len(values), dtype=float)
    axes.axvline(0, color=grey(), linewidth=stroke(0.8), zorder=0.5)
    axes.hlines(heights, 0, values, colors=light_grey(), linewidth=stroke(1.0), zorder=1)
    old, third = (page.looks.get(name, look) for name, look in (("old_masked", OLD), ("novel", NEW)))
    kinds = {
        "old value first": (values > 0, old.color, "o"),
        "third value first": (values < 0, third.color, "s"),
        "at the same step": (values == 0, grey(), "D"),
    }
    for name, (chosen, color, marker) in kinds.items():
        label = f"{name} ({count(int(chosen.sum()), 'fact')})"
        axes.plot(values[chosen], heights[chosen], linestyle="", marker=marker, color=color, label=label, zorder=3)
    if bounded.any():
        beyond = values[bounded] + np.sign(values[bounded]) * 0.5
        label = "censored in one arm: at least so far"
        style = {"linestyle": "", "marker": "$\N{HORIZONTAL ELLIPSIS}$", "color": ink(), "zorder": 3}
        axes.plot(beyond, heights[bounded], label=label, **style)
    _draw_shift(axes, increment)
    _name_facts(axes, shown.fact.values, heights)
    axes.set_ylim(-2.4, max(len(values), 1) - 0.4)
    page.label_x(axes, "steps to the third value less steps to old")
    page.entitle(axes, "The same fact in both arms")
    n_lost = int(increment.n_censored_in_both) if "n_censored_in_both" in increment else 0
    return f"{count(n_lost, 'fact')} recalled in neither arm not drawn" if n_lost else ""


def _draw_shift(axes: Axes, increment: xr.Dataset) -> None:
    shift, low, high = (float(increment[name]) for name in ("shift", "shift_low", "shift_high"))
    if not np.isfinite(shift):
        return
    left, right = axes.get_xlim()
    bar = np.clip([low, high], left, right)  # no bound where too few facts exclude any shift
    at_level = f" with {percent(float(increment.attrs['level']))} interval" if "level" in increment.attrs else ""
    label = f"median shift{at_level} (Wilcoxon p = {float(increment.p_value):.2g})"
    axes.hlines(-1.5, *bar, color=ink(), linewidth=stroke(1.4))
    axes.plot([shift], [-1.5], linestyle="", marker="|", markersize=8, color=ink(), label=label)
    axes.set_xlim(left, right)


def _name_facts(axes: Axes, names: np.ndarray, heights: np.ndarray) -> None:
    if len(names) > _MOST_NAMES:
        axes.set_yticks([])
        axes.set_ylabel(f"{len(names)} facts, in order")
        return
    axes.set_yticks(heights, [shortened(name, _NAME_CHARACTERS) for name in names])
    axes.tick_params(axis="y", length=0, labelsize=text_points(6))
