"""Deleted or out-competed: the erase index of every fact beside its normalised form and its verdict (paper 2F).

The raw index counts probability that the new value took; the verdict, shown by marker, rests on the trace of old.
The two panels stand beside each other so that a reader sees where they part.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from mechmask.draw.canvas import AxesLike, Canvas, Page, Width
from mechmask.draw.check import require_level, require_shape
from mechmask.draw.palette import Palette
from mechmask.draw.states import by_state
from mechmask.draw.style import (
    PAGE_INCHES,
    VERDICT_LOOKS,
    count,
    grey,
    ink,
    light_grey,
    paper,
    percent,
    plain,
    shortened,
    stroke,
    text_points,
)
from mechmask.errors import ReadingError
from mechmask.measure.reading import require
from mechmask.measure.statistics import mean_interval

PAPER_BAND_NATS = (3.0, 13.0)  # published: every cutoff in it separates the paper's two regimes

_WHAT = "The erase figure"
_HALF_STRIP = 0.3  # of the distance between two states: what the points of one may fill to either side
_HALF_LIST = 0.42  # the same in panel b, where a state's facts are a list
_NAME_INCHES, _MOST_NAMES, _NAME_CHARACTERS = 0.105, 60, 22  # of facts beside panel b, in all states together
_TITLE_PAD = 14.0  # points: above panel b stand the names of its two lines
_POINTS_ABREAST = 38  # markers of 4 points that fit beside each other in half a page
_VARIABLES = ("index", "normalised", "normalised_low", "normalised_high", "verdict")
_MORE_MARKERS = ("X", "P", "p", "8")  # of undecided facts, for the reasons after the first; open, as they all are
_MOST_REMEDIES = 2  # in the legend's note, the most frequent first


@dataclass(frozen=True)
class _Kind:
    """Facts that look alike.

    Attributes:
        label: in the legend.
        verdict: of all of them.
        marker: of their points.
        color: of their points.
        chosen: which facts of each state they are ``[fact]``, by state.
    """

    label: str
    verdict: str
    marker: str
    color: str
    chosen: dict[str, np.ndarray]


def erase(
    result: xr.Dataset,
    *,
    level: float = 0.95,
    axes: AxesLike | None = None,
    width: Width | None = None,
    title: str | None = None,
    palette: Palette | None = None,
    font_size: float | None = None,
) -> Figure:
    """Erase index (panel a) and normalised erase index (panel b) of every contradicted fact.

    Args:
        result: what ``erase_index`` returned, or several of them along a dimension ``state``: ``index[fact]`` in nats,
            ``normalised``, ``normalised_low``, ``normalised_high`` and ``verdict``; where they are there also
            ``reason[fact]`` and ``remedy[fact]`` of a fact that is undecided, and ``took[fact]``.
        level: of the interval of the mean; intervals of single facts are those in ``result``.
        axes: two panels to draw into; without them a new figure is made.
        width: of a new figure: ``"single"`` or ``"double"`` column, or inches.
        title: above both panels.
        palette: colours of masked, erased, suppressed and undecided: by name, in this order, or a matplotlib map's
            name.
        font_size: of the labels, in points.

    Returns:
        The figure: a strip for each state, markers by verdict, counts in the legend, and there, of undecided facts, why
        they are and what would decide them. The facts of panel b are named beside it, in the order of EI*.

    Raises:
        ReadingError: if the result lacks a variable, has other dimensions, or an unknown verdict, or if an option
            does not fit.
    """
    require_level(level)
    states = _states(result)
    every = _every(states)
    most = max(state.sizes["fact"] for state in states.values())
    row_inches = max(1.05, _NAME_INCHES * most / every / (2 * _HALF_LIST))
    canvas = Canvas(axes, width, title, palette, font_size)
    inches = (PAGE_INCHES, 1.9 + row_inches * len(states))
    with canvas.page(_WHAT, (1, 2), inches, looks=VERDICT_LOOKS, share=(False, True)) as page:
        left, right = page.panels
        kinds = _kinds(page, states)
        _draw_index(page, left, states, kinds, result.attrs, level)
        any_goes_on = _draw_normalised(page, right, states, kinds, every)
        _draw_margin(right, result.attrs)
        names = [f"{name}\nn = {state.sizes['fact']}" for name, state in states.items()]
        left.set_yticks(range(len(names)), names)
        for panel in page.panels:
            panel.set_ylim(len(states) - 0.5, -0.5)
            for row in range(1, len(states)):  # panel b has no names of its states: the rule joins it to panel a
                panel.axhline(row - 0.5, color=light_grey(), linewidth=stroke(0.8), zorder=0.5)
        right.tick_params(left=False, labelleft=False)
        _put_legend(page, states, kinds, result.attrs, any_goes_on)
    return page.root


def _every(states: dict[str, xr.Dataset]) -> int:
    """One fact in how many is named beside panel b."""
    return math.ceil(sum(state.sizes["fact"] for state in states.values()) / _MOST_NAMES)


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


def _draw_index(
    page: Page, axes: Axes, states: dict[str, xr.Dataset], kinds: list[_Kind], attrs: dict, level: float
) -> None:
    """A swarm of points for each state, with their mean under it."""
    _draw_cutoffs(axes, attrs)
    values = np.concatenate([state["index"].values for state in states.values()])
    extent = float(np.ptp([*values[np.isfinite(values)], 0.0, PAPER_BAND_NATS[1]]))
    for row, (name, state) in enumerate(states.items()):
        index = state["index"].values.astype(float)
        offsets = _swarm(index, extent / _POINTS_ABREAST)
        for kind in kinds:
            chosen = kind.chosen[name] & np.isfinite(index)
            axes.plot(index[chosen], row + offsets[chosen], **_points(kind, len(index)))
        mean = mean_interval(index[np.isfinite(index)], level)
        label = f"mean with {percent(level)} t interval" if row == 0 else None
        half = mean.high - mean.estimate
        bar = {"fmt": "|", "color": ink(), "markersize": 7, "markeredgewidth": stroke(1.4), "elinewidth": stroke(1.4)}
        axes.errorbar(mean.estimate, row + 0.4, xerr=half, label=label, **bar)
    page.label_x(axes, "erase index EI (nats; 0 is untouched)")
    page.entitle(axes, "What old lost", pad=_TITLE_PAD)


def _draw_cutoffs(axes: Axes, attrs: dict) -> None:
    regimes = "any cutoff here separates the paper's regimes"
    axes.axvspan(*PAPER_BAND_NATS, color=light_grey(), alpha=0.6, linewidth=0, zorder=0, label=regimes)
    axes.axvline(0, color=grey(), linewidth=stroke(0.8), linestyle=":", zorder=0.5)
    if "cutoff_nats" in attrs:
        cutoff = float(attrs["cutoff_nats"])
        label = f"cutoff of the paper's verdict: {cutoff:g} nats"
        axes.axvline(cutoff, color=grey(), linewidth=stroke(0.9), linestyle="--", zorder=0.5, label=label)


def _draw_normalised(page: Page, axes: Axes, states: dict[str, xr.Dataset], kinds: list[_Kind], every: int) -> bool:
    """Facts in order of EI*, each with its interval and name; returns whether an interval goes on beyond the panel."""
    for at, text, side in ((0.0, "kept", "right"), (1.0, "as never known", "left")):
        axes.axvline(at, color=grey(), linewidth=stroke(0.8), linestyle="-" if at else ":", zorder=0.5)
        above = axes.get_xaxis_transform() + ScaledTranslation(0, 2 / 72, page.figure.dpi_scale_trans)
        name = axes.text(at, 1, text, ha=side, fontsize=text_points(7), color=grey(), transform=above)
        name.set_in_layout(False)  # it may stick out to a side, which must not shrink the panel
    axes.set_xlim(*_limits(np.concatenate([state.normalised.values for state in states.values()])))
    any_goes_on = False
    names: dict[float, str] = {}
    for row, (name, state) in enumerate(states.items()):
        there = np.flatnonzero(np.isfinite(state.normalised.values))
        order = there[np.argsort(state.normalised.values[there], kind="stable")]
        ordered = state.isel(fact=order)
        half = _HALF_LIST if len(there) > 1 else 0.0
        heights = row + np.linspace(-half, half, len(there))
        any_goes_on |= _draw_intervals(page, axes, ordered, heights)
        for kind in kinds:
            chosen = kind.chosen[name][order]
            axes.plot(ordered.normalised.values[chosen], heights[chosen], **_points(kind, len(there)))
        names |= dict(zip(heights.tolist()[::every], ordered.fact.values[::every], strict=True))
    _name_facts(axes, names)
    page.label_x(axes, "normalised erase index EI*")
    page.entitle(axes, "How far towards never known", pad=_TITLE_PAD)
    return any_goes_on


def _draw_margin(axes: Axes, attrs: dict) -> None:
    """Where an interval has to lie for erased; to its left is masked, to its right suppressed."""
    if "margin_share" not in attrs:
        return
    share = float(attrs["margin_share"])
    label = f"margin of erased: {percent(share)} of the trace before"
    axes.axvspan(1 - share, 1 + share, color=light_grey(), alpha=0.6, linewidth=0, zorder=0, label=label)


def _name_facts(axes: Axes, names: dict[float, str]) -> None:
    """Names to the right of the panel, each at the height of its fact."""
    beside = axes.secondary_yaxis("right")
    beside.set_yticks(list(names), [shortened(name, _NAME_CHARACTERS) for name in names.values()])
    beside.tick_params(length=0, labelsize=text_points(6))
    beside.spines["right"].set_visible(False)


def _draw_intervals(page: Page, axes: Axes, facts: xr.Dataset, heights: np.ndarray) -> bool:
    colors = [page.looks[str(verdict)].color for verdict in facts.verdict.values]
    low, high = facts.normalised_low.values, facts.normalised_high.values
    left, right = axes.get_xlim()
    axes.hlines(heights, low, high, colors=colors, linewidth=stroke(0.8))
    below, above = low < left, high > right
    for edge, beyond, marker in ((left, below, "<"), (right, above, ">")):
        at = heights[beyond]
        carets = axes.plot(np.full(len(at), edge), at, clip_on=False, **_caret(marker))
        carets[0].set_in_layout(False)  # unclipped and without points it has no extent that a layout could use
    return bool(below.any() or above.any())


def _caret(marker: str) -> dict[str, Any]:
    return {"linestyle": "", "marker": marker, "markersize": 3, "color": grey()}


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


def _points(kind: _Kind, n: int = 1) -> dict[str, Any]:
    """How the points of a kind look among ``n``: smaller where there are many."""
    size = 4 * float(np.clip(np.sqrt(24 / n), 0.5, 1)) if n else 4
    face = paper() if kind.verdict == "undecided" else kind.color
    shape = {"linestyle": "", "marker": kind.marker, "markersize": size}
    return {**shape, "color": kind.color, "markerfacecolor": face, "zorder": 3}


def _put_legend(page: Page, states: dict[str, xr.Dataset], kinds: list[_Kind], attrs: dict, any_goes_on: bool) -> None:
    """Under both panels: verdicts with their counts, undecided ones by their reasons, then what else is drawn."""
    entries: dict[str, Any] = {}
    for kind in kinds:
        counts = {name: int(of_state.sum()) for name, of_state in kind.chosen.items()}
        by_name = ", ".join(f"{name} {n}" if len(counts) > 1 else f"{n}" for name, n in counts.items())
        entries[f"{kind.label} ({by_name})"] = Line2D([], [], **_points(kind))
    for panel in page.panels:
        handles, labels = panel.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    at_level = f"{percent(attrs['interval_level'])} " if "interval_level" in attrs else ""
    line = Line2D([], [], color=grey(), linewidth=stroke(0.8))
    entries[f"{at_level}interval of a fact's EI*"] = line
    if any_goes_on:
        entries["interval goes on beyond the panel"] = Line2D([], [], **_caret(">"))
    page.legend(entries, "\n".join(filter(None, [_left_out(states), _not_taken(states), *_remedies(states)])))


def _kinds(page: Page, states: dict[str, xr.Dataset]) -> list[_Kind]:
    """A kind for each verdict, and of undecided facts one for each reason, with a marker of its own."""
    kinds: list[_Kind] = []
    reasons = {name: _texts(state, "reason") for name, state in states.items()}
    for verdict, look in page.looks.items():
        chosen = {name: state.verdict.values == verdict for name, state in states.items()}
        words = sorted({reasons[name][i] for name, of in chosen.items() for i in np.flatnonzero(of)})
        if verdict != "undecided" or not any(words):
            kinds.append(_Kind(verdict, verdict, look.marker, look.color, chosen))
            continue
        markers = itertools.cycle([look.marker, *_MORE_MARKERS])
        kinds += [
            _Kind(
                f"{verdict}: {word}" if word else verdict,
                verdict,
                marker,
                look.color,
                {name: of & (reasons[name] == word) for name, of in chosen.items()},
            )
            for word, marker in zip(words, markers, strict=False)
        ]
    return kinds


def _texts(state: xr.Dataset, variable: str) -> np.ndarray:
    """``[fact]`` as words for a reader: ``not_known_before`` is not known before; empty where the result has none."""
    if variable not in state:
        return np.full(state.sizes["fact"], "", dtype=object)
    values = state[variable].fillna("").values
    return np.array([plain(str(value).replace("_", " ").strip()) for value in values], dtype=object)


def _remedies(states: dict[str, xr.Dataset]) -> list[str]:
    """What would decide the undecided facts, the most frequent first."""
    counts: Counter[str] = Counter()
    for state in states.values():
        undecided = state.verdict.values == "undecided"
        counts.update(remedy.rstrip(".") for remedy in _texts(state, "remedy")[undecided] if remedy)
    return [f"would decide {count(n, 'fact')}: {remedy}" for remedy, n in counts.most_common(_MOST_REMEDIES)]


def _not_taken(states: dict[str, xr.Dataset]) -> str:
    """How many facts are not judged because their edit did not take; empty where all did, or a reason says so."""
    n = sum(int((~state.took.values.astype(bool)).sum()) for state in states.values() if "took" in state)
    return f"{count(n, 'fact')} on which the edit did not take" if n else ""


def _left_out(states: dict[str, xr.Dataset]) -> str:
    """What is not drawn, and why; empty where all is."""
    without = {
        name: sum(int((~np.isfinite(state[name].values)).sum()) for state in states.values())
        for name in ("index", "normalised")
    }
    reasons = []
    if without["normalised"]:
        reasons.append(f"{without['normalised']} without EI*: no trace of old before")
    if without["index"]:
        reasons.append(f"{without['index']} without a finite EI")
    return "; ".join(reasons)
