"""Who wrote the margin: each component's direct contribution, added up from the embedding to the model's answer.

Contributions are exact parts of the margin, so the bars have to end at it; a dataset in which they do not is refused.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mechmask.draw.canvas import AxesLike, Canvas, Page, Width
from mechmask.draw.check import drawn_facts, require_level, require_shape
from mechmask.draw.palette import Palette
from mechmask.draw.style import (
    BLACK,
    BLUE,
    LIGHT_GREY,
    VERMILION,
    Look,
    count,
    grey,
    ink,
    paper,
    percent,
    shortened,
    stroke,
)
from mechmask.errors import ReadingError
from mechmask.measure.reading import require
from mechmask.measure.statistics import Interval, mean_interval

_WHAT = "The waterfall"
_TOLERANCE = (0.01, 1e-4)  # nats, and of the sum of sizes: under a pixel, and what float32 sums of thousands lose
_BAR_INCHES = 0.16
_LAST = 10**9  # behind every block
_LOOKS = {"new": Look(VERMILION), "old": Look(BLUE), "others": Look(LIGHT_GREY), "margin": Look(BLACK)}
_ENTRIES = {"new": "towards new", "old": "towards old", "others": "all others together", "margin": "sum: the margin"}
_HATCH = "//////"


class _Bar(NamedTuple):
    """A bar, from where the one above it ends; ``kind`` is one of the looks."""

    name: str
    start: float
    contribution: Interval
    kind: str


def waterfall(
    attribution: xr.Dataset,
    *,
    top: int = 20,
    level: float = 0.95,
    ax: Axes | None = None,
    axes: AxesLike | None = None,
    width: Width | None = None,
    title: str | None = None,
    palette: Palette | None = None,
    font_size: float | None = None,
) -> Figure:
    """Mean contribution of every component to the margin, from the embedding (above) to the bias and the sum (below).

    Args:
        attribution: ``attribution[fact, component]`` and ``margin[fact]`` in nats, with ``block`` (-1: none) and
            ``kind`` (``embedding``, ``bias`` ...) on ``component``, as ``attribute`` gives them; ``phrasing`` and
            ``role`` as in the depth figure.
        top: how many components have a bar to themselves, the largest by their mean's size; the others share one.
        level: of the intervals, which are Student's over facts.
        ax: a panel to draw into; without it a new figure is made.
        axes: the same, by the name that it has where a figure has several.
        width: of a new figure: ``"single"`` or ``"double"`` column, or inches.
        title: in place of the panel's.
        palette: colours of new, old (towards which a bar goes), others and margin: by name, in this order, or a
            matplotlib map's name.
        font_size: of the labels, in points.

    Returns:
        The figure. A bar begins where the one above it ends; its whisker is the interval of its contribution.

    Raises:
        ReadingError: if something is missing, or the contributions do not add up to the margin, or if an option does
            not fit.
    """
    require_level(level)
    if top < 1:
        raise ReadingError(f"top={top} leaves no component to draw. Give 1 or more.")
    facts, n_left_out = _checked(attribution)
    bars = _bars(facts, top, level)
    canvas = Canvas(axes, width, title, palette, font_size, ax)
    with canvas.page(_WHAT, (1, 1), (5.25, 1.75 + _BAR_INCHES * len(bars)), looks=_LOOKS) as page:
        (panel,) = page.panels
        _draw(page, panel, bars)
        page.entitle(panel, _title(facts))
        page.legend(_entries(page, bars), _note(bars, n_left_out, level))
    return page.root


def _title(facts: xr.Dataset) -> str:
    one = facts.sizes["fact"] == 1
    return f"Who wrote the margin{f' of {shortened(facts.fact.values[0], 40)}' if one else ''}"


def _checked(attribution: xr.Dataset) -> tuple[xr.Dataset, int]:
    """The facts whose numbers are all finite, in the order in which the model adds; and how many are left out."""
    require(attribution, _WHAT, variables=("attribution", "margin", "block", "kind"), dims=("fact", "component"))
    facts = drawn_facts(attribution)
    require_shape(facts, _WHAT, "attribution", ("fact", "component"))
    require_shape(facts, _WHAT, "margin", ("fact",))
    facts = facts.transpose("fact", "component", ...)
    finite = np.isfinite(facts.attribution.values).all(1) & np.isfinite(facts.margin.values)
    if not finite.any():
        raise ReadingError(f"{_WHAT} has no fact whose contributions are all finite. Give at least one.")
    facts = facts.isel(fact=np.flatnonzero(finite))
    off = np.abs(facts.attribution.values.sum(1) - facts.margin.values)
    allowed = _TOLERANCE[0] + _TOLERANCE[1] * np.abs(facts.attribution.values).sum(1)
    allowed += float(facts.attrs.get("check_error_nats", 0.0))  # in bfloat16 a sound reading may be off by more
    if (off > allowed).any():
        worst = int((off - allowed).argmax())
        raise ReadingError(
            f"The contributions to fact {str(facts.fact.values[worst])!r} miss its margin by {off[worst]:.3g} nats. "
            "Give the attribution whole, with embedding and bias."
        )
    kinds = facts.kind.values.astype(str)
    order = np.argsort(np.where(kinds == "bias", _LAST, facts.block.values), kind="stable")
    return facts.isel(component=order), int((~finite).sum())


def _bars(facts: xr.Dataset, top: int, level: float) -> list[_Bar]:
    values = facts.attribution.values.astype(float)
    largest = np.argsort(-np.abs(values.mean(0)), kind="stable")
    alone = set((largest if values.shape[1] <= top + 1 else largest[:top]).tolist())
    parts = [(shortened(facts.component.values[i], 24), values[:, i]) for i in sorted(alone)]
    rest = [i for i in range(values.shape[1]) if i not in alone]
    if rest:
        parts.append((f"{len(rest)} others", values[:, rest].sum(1)))
    bars, reached = [], 0.0
    for i, (name, part) in enumerate(parts):
        contribution = mean_interval(part, level)
        kind = "new" if contribution.estimate >= 0 else "old"
        bars.append(_Bar(name, reached, contribution, "others" if rest and i == len(parts) - 1 else kind))
        reached += contribution.estimate
    return [*bars, _Bar("margin", 0.0, mean_interval(facts.margin.values, level), "margin")]


def _draw(page: Page, axes: Axes, bars: list[_Bar]) -> None:
    for row, bar in enumerate(bars):
        size = bar.contribution.estimate
        axes.barh(row, size, left=bar.start, height=0.72, **_fill(page, bar.kind, size < 0))
        ends = bar.start + np.array([bar.contribution.low, bar.contribution.high])
        whisker = grey() if bar.kind == "margin" else ink()
        axes.plot(ends, [row, row], color=whisker, linewidth=stroke(0.9), marker="|", markersize=3.5, zorder=3)
        if row < len(bars) - 1:
            axes.vlines(bar.start + size, row, row + 1, colors=grey(), linewidth=stroke(0.5), zorder=0.8)
    axes.axvline(0, color=grey(), linewidth=stroke(0.6), zorder=0.5)
    axes.set_yticks(range(len(bars)), [bar.name for bar in bars])
    axes.get_yticklabels()[-1].set_fontweight("bold")
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    page.label_x(axes, "margin new \N{MINUS SIGN} old, added up (nats)")


def _fill(page: Page, kind: str, negative: bool) -> dict[str, Any]:
    """Colour and hatch of a bar: what goes towards old is hatched, so that grey print keeps the sign."""
    color = page.looks[kind].color
    hatched = kind == "old" or (negative and kind == "others")
    edge = paper() if hatched else color
    return {"facecolor": color, "edgecolor": edge, "hatch": _HATCH if hatched else "", "linewidth": 0}


def _entries(page: Page, bars: list[_Bar]) -> dict[str, Patch]:
    kinds = {bar.kind for bar in bars}
    return {label: Patch(**_fill(page, kind, False)) for kind, label in _ENTRIES.items() if kind in kinds}


def _note(bars: list[_Bar], n_left_out: int, level: float) -> str:
    line = f"bar: mean over facts (n = {bars[-1].contribution.n}); whisker: its {percent(level)} t interval"
    return f"{line}\n{count(n_left_out, 'fact')} with a value that is not finite left out" if n_left_out else line
