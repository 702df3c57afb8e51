"""Who wrote the margin: each component's direct contribution, added up from the embedding to the model's answer.

Contributions are exact parts of the margin, so the bars have to end at it; a dataset in which they do not is refused.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mechmask.draw.band import require_level, require_shape
from mechmask.draw.layers import drawn_facts
from mechmask.draw.style import (
    BLACK,
    BLUE,
    GREY,
    LIGHT_GREY,
    VERMILION,
    Drawing,
    legend_below,
    percent,
    shortened,
    styled,
)
from mechmask.errors import ReadingError
from mechmask.measure.reading import require
from mechmask.measure.statistics import Interval, mean_interval

_WHAT = "The waterfall"
_TOLERANCE = (0.01, 1e-4)  # nats, and of the sum of sizes: under a pixel, and what float32 sums of thousands lose
_BAR_INCHES = 0.16
_LAST = 10**9  # behind every block


class _Bar(NamedTuple):
    name: str
    start: float
    contribution: Interval
    color: str
    hatch: str


def waterfall(attribution: xr.Dataset, *, top: int = 20, level: float = 0.95) -> Figure:
    """Mean contribution of every component to the margin, from the embedding (above) to the bias and the sum (below).

    Args:
        attribution: ``attribution[fact, component]`` and ``margin[fact]`` in nats, with ``block`` (-1: none) and
            ``kind`` (``embedding``, ``bias`` ...) on ``component``, as ``attribute`` gives them; ``phrasing`` and
            ``role`` as in the depth figure.
        top: how many components have a bar of their own, the largest by their mean's size; the others share one.
        level: of the intervals, which are Student's over facts.

    Returns:
        The figure. A bar begins where the one above it ends; its whisker is the interval of its own contribution.

    Raises:
        ReadingError: if something is missing, or the contributions do not add up to the margin.
    """
    require_level(level)
    if top < 1:
        raise ReadingError(f"top={top} leaves no component to draw. Give 1 or more.")
    facts, n_left_out = _checked(attribution)
    bars = _bars(facts, top, level)
    with styled():
        figure = Drawing(5.25, 1.55 + _BAR_INCHES * len(bars))
        axes = figure.subplots()
        _draw(axes, bars)
        legend_below(figure, _entries(bars), _note(bars, n_left_out, level), 2)
    return figure


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
    own = set((largest if values.shape[1] <= top + 1 else largest[:top]).tolist())
    parts = [(shortened(facts.component.values[i], 24), values[:, i]) for i in sorted(own)]
    rest = [i for i in range(values.shape[1]) if i not in own]
    if rest:
        parts.append((f"{len(rest)} others", values[:, rest].sum(1)))
    bars, reached = [], 0.0
    for i, (name, part) in enumerate(parts):
        contribution = mean_interval(part, level)
        color, hatch = (VERMILION, "") if contribution.estimate >= 0 else (BLUE, "//////")
        color = LIGHT_GREY if rest and i == len(parts) - 1 else color
        bars.append(_Bar(name, reached, contribution, color, hatch))
        reached += contribution.estimate
    return [*bars, _Bar("margin", 0.0, mean_interval(facts.margin.values, level), BLACK, "")]


def _draw(axes: Axes, bars: list[_Bar]) -> None:
    for row, bar in enumerate(bars):
        size = bar.contribution.estimate
        edge = {"edgecolor": "white" if bar.color == BLUE else bar.color, "linewidth": 0}
        axes.barh(row, size, left=bar.start, height=0.72, color=bar.color, hatch=bar.hatch, **edge)
        ends = bar.start + np.array([bar.contribution.low, bar.contribution.high])
        whisker = GREY if bar.color == BLACK else BLACK
        axes.plot(ends, [row, row], color=whisker, linewidth=0.9, marker="|", markersize=3.5, zorder=3)
        if row < len(bars) - 1:
            axes.vlines(bar.start + size, row, row + 1, colors=GREY, linewidth=0.5, zorder=0.8)
    axes.axvline(0, color=GREY, linewidth=0.6, zorder=0.5)
    axes.set_yticks(range(len(bars)), [bar.name for bar in bars])
    axes.get_yticklabels()[-1].set_fontweight("bold")
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("margin new \N{MINUS SIGN} old, added up (nats)")


def _entries(bars: list[_Bar]) -> dict:
    patches = {
        VERMILION: ("towards new", Patch(facecolor=VERMILION)),
        BLUE: ("towards old", Patch(facecolor=BLUE, edgecolor="white", hatch="//////", linewidth=0)),
        LIGHT_GREY: ("all others together", Patch(facecolor=LIGHT_GREY)),
        BLACK: ("sum: the margin", Patch(facecolor=BLACK)),
    }
    drawn = {bar.color for bar in bars}
    return dict(entry for color, entry in patches.items() if color in drawn)


def _note(bars: list[_Bar], n_left_out: int, level: float) -> str:
    said = f"bar: mean over facts (n = {bars[-1].contribution.n}); whisker: its {percent(level)} t interval"
    if n_left_out:
        said += f"\n{n_left_out} fact{'s' * (n_left_out != 1)} with a value that is not finite left out"
    return said
