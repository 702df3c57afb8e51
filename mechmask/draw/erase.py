"""Deleted or out-competed: the erase index of every fact beside its normalised form and its verdict (paper 2F).

The raw index counts probability that the new value took; the verdict, shown by marker, rests on the standing of old.
The two panels stand beside each other so that a reader sees where they part.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from mechmask.draw.band import require_level, require_shape
from mechmask.draw.states import by_state
from mechmask.draw.style import (
    BLACK,
    GREY,
    LIGHT_GREY,
    PAGE_INCHES,
    VERDICT_LOOKS,
    Drawing,
    Look,
    entitle,
    percent,
    styled,
)
from mechmask.errors import ReadingError
from mechmask.measure.reading import require
from mechmask.measure.statistics import mean_interval

PAPER_BAND_NATS = (3.0, 13.0)  # published: every cutoff in it separates the paper's two regimes

_WHAT = "The erase figure"
_HALF_STRIP = 0.3  # of the distance between two states: what the points of one may fill to either side
_POINTS_ABREAST = 38  # markers of 4 points that fit beside each other in half a page
_VARIABLES = ("index", "normalised", "normalised_low", "normalised_high", "verdict")


def erase(result: xr.Dataset, *, level: float = 0.95) -> Figure:
    """Erase index (panel a) and normalised erase index (panel b) of every contradicted fact.

    Args:
        result: what ``erase_index`` returned, or several of them along a dimension ``state``.
        level: of the interval of the mean; intervals of single facts are those in ``result``.

    Returns:
        The figure: a strip for each state, markers by verdict, counts in the legend.

    Raises:
        ReadingError: if the result lacks a variable, has other dimensions, or a verdict that is none.
    """
    require_level(level)
    states = _states(result)
    with styled():
        figure = Drawing(PAGE_INCHES, 1.9 + 1.05 * len(states))
        left, right = figure.subplots(1, 2, sharey=True)
        _draw_index(left, states, result.attrs, level)
        any_goes_on = _draw_normalised(figure, right, states)
        names = [f"{name}\nn = {state.sizes['fact']}" for name, state in states.items()]
        left.set_yticks(range(len(names)), names)
        left.set_ylim(len(states) - 0.5, -0.5)
        right.tick_params(left=False)
        _put_legend(figure, left, states, result.attrs, any_goes_on)
    return figure


def _states(result: xr.Dataset) -> dict[str, xr.Dataset]:
    require(result, _WHAT, variables=_VARIABLES, dims=("fact",))
    dims = ("state", "fact") if "state" in result.dims else ("fact",)
    for name in _VARIABLES:
        require_shape(result, _WHAT, name, dims)
    unknown = sorted({str(verdict) for verdict in result.verdict.values.flat} - set(VERDICT_LOOKS))
    if unknown:
        raise ReadingError(
            f"{_WHAT} does not know the verdict {', '.join(unknown)}. It knows {', '.join(VERDICT_LOOKS)}."
        )
    return by_state(result, "all facts")


def _draw_index(axes: Axes, states: dict[str, xr.Dataset], attrs: dict, level: float) -> None:
    """A swarm of points for each state, with their mean under it."""
    _draw_cutoffs(axes, attrs)
    values = np.concatenate([state["index"].values for state in states.values()])
    extent = float(np.ptp([*values[np.isfinite(values)], 0.0, PAPER_BAND_NATS[1]]))
    for row, state in enumerate(states.values()):
        index = state["index"].values.astype(float)
        offsets = _swarm(index, extent / _POINTS_ABREAST)
        for verdict, look in VERDICT_LOOKS.items():
            chosen = (state.verdict.values == verdict) & np.isfinite(index)
            axes.plot(index[chosen], row + offsets[chosen], **_points(look, len(index)))
        mean = mean_interval(index[np.isfinite(index)], level)
        label = f"mean with {percent(level)} t interval" if row == 0 else None
        half = mean.high - mean.estimate
        bar = {"fmt": "|", "color": BLACK, "markersize": 7, "markeredgewidth": 1.4, "elinewidth": 1.4}
        axes.errorbar(mean.estimate, row + 0.4, xerr=half, label=label, **bar)
    axes.set_xlabel("erase index EI (nats; 0 is untouched)")
    entitle(axes, "a", "What old lost", pad=14)


def _draw_cutoffs(axes: Axes, attrs: dict) -> None:
    regimes = "any cutoff here separates the paper's regimes"
    axes.axvspan(*PAPER_BAND_NATS, color=LIGHT_GREY, alpha=0.6, linewidth=0, zorder=0, label=regimes)
    axes.axvline(0, color=GREY, linewidth=0.8, linestyle=":", zorder=0.5)
    if "cutoff_nats" in attrs:
        cutoff = float(attrs["cutoff_nats"])
        label = f"cutoff of the paper's verdict: {cutoff:g} nats"
        axes.axvline(cutoff, color=GREY, linewidth=0.9, linestyle="--", zorder=0.5, label=label)


def _draw_normalised(figure: Figure, axes: Axes, states: dict[str, xr.Dataset]) -> bool:
    """Facts in order of EI*, each with its interval; returns whether an interval goes on beyond the panel."""
    for at, text, side in ((0.0, "kept", "right"), (1.0, "as never known", "left")):
        axes.axvline(at, color=GREY, linewidth=0.8, linestyle="-" if at else ":", zorder=0.5)
        above = axes.get_xaxis_transform() + ScaledTranslation(0, 2 / 72, figure.dpi_scale_trans)
        name = axes.text(at, 1, text, ha=side, fontsize=7, color=GREY, transform=above)
        name.set_in_layout(False)  # it may stick out to a side, which must not shrink the panel
    low, high = _limits(np.concatenate([state.normalised.values for state in states.values()]))
    axes.set_xlim(low, high)
    any_goes_on = False
    for row, state in enumerate(states.values()):
        there = np.flatnonzero(np.isfinite(state.normalised.values))
        order = there[np.argsort(state.normalised.values[there], kind="stable")]
        half = _HALF_STRIP if len(order) > 1 else 0.0
        heights = row + np.linspace(-half, half, len(order))
        ordered = state.isel(fact=order)
        any_goes_on |= _draw_intervals(axes, ordered, heights)
        for verdict, look in VERDICT_LOOKS.items():
            chosen = ordered.verdict.values == verdict
            axes.plot(ordered.normalised.values[chosen], heights[chosen], **_points(look, len(order)))
    axes.set_xlabel("normalised erase index EI*")
    entitle(axes, "b", "How far towards never known", pad=14)
    return any_goes_on


def _draw_intervals(axes: Axes, facts: xr.Dataset, heights: np.ndarray) -> bool:
    colors = [VERDICT_LOOKS[str(verdict)].color for verdict in facts.verdict.values]
    low, high = facts.normalised_low.values, facts.normalised_high.values
    left, right = axes.get_xlim()
    axes.hlines(heights, low, high, colors=colors, linewidth=0.8)
    below, above = low < left, high > right
    for edge, beyond, marker in ((left, below, "<"), (right, above, ">")):
        at = heights[beyond]
        carets = axes.plot(
            np.full(len(at), edge), at, linestyle="", marker=marker, markersize=3, color=GREY, clip_on=False
        )
        carets[0].set_in_layout(False)  # unclipped and without points it has no extent that a layout could use
    return bool(below.any() or above.any())


def _limits(values: np.ndarray) -> tuple[float, float]:
    """All estimates and half their range to either side: a fact that hardly stood has an interval without end."""
    shown = [*values[np.isfinite(values)], 0.0, 1.0]
    low, high = float(np.min(shown)), float(np.max(shown))
    return low - (high - low) / 2, high + (high - low) / 2


def _swarm(values: np.ndarray, width: float) -> np.ndarray:
    """Offsets that keep points nearer than ``width`` apart: each takes the free place nearest to the middle."""
    places = np.zeros(len(values), dtype=int)
    placed: list[int] = []
    for i in np.argsort(values, kind="stable"):
        near = {places[j] for j in placed if values[i] - values[j] < width}
        places[i] = next(p for k in range(len(values) + 1) for p in (k, -k) if p not in near)
        placed.append(int(i))
    return places * min(0.085, _HALF_STRIP / max(1, np.abs(places).max(initial=0)))


def _points(look: Look, n: int = 1) -> dict:
    """How the points of a verdict look among ``n``: smaller where there are many."""
    size = 4 * float(np.clip(np.sqrt(24 / n), 0.5, 1)) if n else 4
    face = "white" if look is VERDICT_LOOKS["undecided"] else look.color
    shape = {"linestyle": "", "marker": look.marker, "markersize": size}
    return {**shape, "color": look.color, "markerfacecolor": face, "zorder": 3}


def _put_legend(figure: Figure, axes: Axes, states: dict[str, xr.Dataset], attrs: dict, any_goes_on: bool) -> None:
    """Under both panels: verdicts with their counts, then what else is drawn."""
    handles: list = []
    for verdict, look in VERDICT_LOOKS.items():
        counts = {name: int((state.verdict == verdict).sum()) for name, state in states.items()}
        said = ", ".join(f"{name} {count}" if len(counts) > 1 else f"{count}" for name, count in counts.items())
        handles.append(Line2D([], [], label=f"{verdict} ({said})", **_points(look)))
    handles += axes.get_legend_handles_labels()[0]
    own = f"{percent(attrs['level'])} " if "level" in attrs else ""
    handles.append(Line2D([], [], color=GREY, linewidth=0.8, label=f"a fact's own {own}interval of EI*"))
    if any_goes_on:
        handles.append(
            Line2D(
                [], [], linestyle="", marker=">", markersize=3, color=GREY, label="interval goes on beyond the panel"
            )
        )
    figure.legend(handles=handles, title=_left_out(states), loc="outside lower center", ncols=2, alignment="left")


def _left_out(states: dict[str, xr.Dataset]) -> str | None:
    """What is not drawn, and why; None where all is."""
    without = {
        name: sum(int((~np.isfinite(state[name].values)).sum()) for state in states.values())
        for name in ("index", "normalised")
    }
    said = []
    if without["normalised"]:
        said.append(f"{without['normalised']} without EI*: old did not stand above never-known facts before")
    if without["index"]:
        said.append(f"{without['index']} without a finite EI")
    return "; ".join(said) or None
