"""What a change did to the contest, layer by layer: the margin before, the margin after, and their difference.

The difference is paired: it is taken fact by fact and its interval is over those differences, so that facts which
differ among each other do not hide what the change did to all of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mechmask.draw.band import Band, band_along, band_note, draw_band, entries_of, lines_of, n_text, simultaneous_band
from mechmask.draw.canvas import AxesLike, Canvas, Page, Width
from mechmask.draw.check import contest_along, require_level
from mechmask.draw.layers import MARGIN_NATS, depth_axis, frame, make_room_for_rug, mark_commits, mark_median, mark_zero
from mechmask.draw.palette import Palette
from mechmask.draw.states import by_state
from mechmask.draw.style import BEFORE, CHANGE, COLUMN_INCHES, MARGIN, PAGE_INCHES, count, percent
from mechmask.errors import ReadingError
from mechmask.measure.commit import commit_layer
from mechmask.measure.reading import require

_WHAT = "The delta figure"
_LANES = ((0.03, 0.09), (0.14, 0.2))  # of the upper panel's height: commit layers before and after
_LANES_SHARE = 0.26
_LOOKS = {"before": BEFORE, "after": MARGIN, "difference": CHANGE}
_ENTRIES = {
    "before": "margin before",
    "after": "margin after",
    "difference": "difference after \N{MINUS SIGN} before",
}


class _Change(NamedTuple):
    """The same facts at the same layers, before and after, and how many facts only one reading has."""

    before: xr.Dataset
    after: xr.Dataset
    n_alone: int


def delta(
    before: xr.Dataset,
    after: xr.Dataset | None = None,
    *,
    level: float = 0.95,
    simultaneous: bool = False,
    axes: AxesLike | None = None,
    width: Width | None = None,
    title: str | None = None,
    palette: Palette | None = None,
    font_size: float | None = None,
) -> Figure:
    """Margins before and after (upper row) and their paired difference (lower row) by layer, a column for each change.

    Args:
        before: ``logprob[fact, route, layer]`` and ``margin[fact, layer]`` in nats, as ``read_depth`` gives them; or,
            without ``after``, such a reading with the dimension ``state``: its state ``before`` (else its first) is
            compared with every other one.
        after: the same of the changed model. Facts meet by label; those in one reading only are left out and counted.
        level: of all intervals, which are over facts; over draws of facts where ``fact`` has the coordinate ``seed``.
        simultaneous: whether the band of the difference holds for all layers at once (``max_t``, six facts or draws or
            more), which is what "there is a difference at these layers" needs; by default for each layer by itself.
        axes: two panels for each change to draw into, the upper row first; without them a new figure is made.
        width: of a new figure: ``"single"`` or ``"double"`` column, or inches.
        title: above all panels.
        palette: colours of before, after and difference: by name, in this order, or a matplotlib map's name.
        font_size: of the labels, in points.

    Returns:
        The figure. Ticks are the commit layers of the new value, one a fact, vertical lines their medians. Layers
        above the embedding rule the axes; where layer 0 lies outside, the legend says how far.

    Raises:
        ReadingError: if a reading lacks one of these, or the two share no fact or have other layers, or if an option
            does not fit, such as ``simultaneous`` with fewer than six facts or draws.
    """
    require_level(level)
    changes = _changes(before, after)
    n = len(changes)
    inches = ({1: COLUMN_INCHES * 1.3, 2: PAGE_INCHES}.get(n, PAGE_INCHES / 3 * n), 4.6)
    canvas = Canvas(axes, width, title, palette, font_size)
    with canvas.page(_WHAT, (2, n), inches, looks=_LOOKS, share=(True, "row")) as page:
        bands: dict[str, list[Band]] = {name: [] for name in _LOOKS}
        for column, (name, change) in enumerate(changes.items()):
            upper, lower = page.grid[:, column]
            for of, band in _draw(page, upper, lower, change, level, simultaneous).items():
                bands[of].append(band)
            page.entitle(upper, name)
            page.entitle(lower, _draw_commits(page, (upper, lower), change))
            depth_axis(upper, change.before)
            page.label_x(lower, "layer")
        outside = [
            frame(list(page.grid[0]), bands["before"] + bands["after"], "margin"),
            frame(list(page.grid[1]), bands["difference"], "difference"),
        ]
        make_room_for_rug(list(page.grid[0]), _LANES_SHARE)
        page.label_y(page.grid[0, 0], MARGIN_NATS)
        page.label_y(page.grid[1, 0], "difference (nats)")
        n_alone = sum(change.n_alone for change in changes.values())
        notes = [band_note((band for of_name in bands.values() for band in of_name), level), *filter(None, outside)]
        notes += [f"band of the difference: {percent(level)} for all layers at once"] if simultaneous else []
        notes += [f"{count(n_alone, 'fact')} in one reading only left out"] if n_alone else []
        _put_legend(page, bands, "\n".join(notes))
    return page.root


def _changes(before: xr.Dataset, after: xr.Dataset | None) -> dict[str, _Change]:
    """The pairs to draw, by what their column is called."""
    if after is not None:
        return {"The change": _paired(contest_along(before, _WHAT), contest_along(after, _WHAT))}
    require(before, _WHAT, dims=("fact", "route", "layer"))
    if before.sizes.get("state", 0) < 2:
        raise ReadingError(
            f"{_WHAT} needs two readings, or one with two states or more along the dimension state. Give the reading "
            "after the change as the second argument."
        )
    labels = [str(label) for label in before.state.values]
    first = labels.index("before") if "before" in labels else 0
    states = list(by_state(contest_along(before, _WHAT, extra=("state",)), "").items())
    base = states.pop(first)[1]
    return {name: _Change(base, state, 0) for name, state in states}


def _paired(before: xr.Dataset, after: xr.Dataset) -> _Change:
    if not np.array_equal(before.layer.values, after.layer.values):
        spans = [f"{reading.layer.values[0]} to {reading.layer.values[-1]}" for reading in (before, after)]
        raise ReadingError(
            f"{_WHAT} compares the same layers: before has {spans[0]}, after has {spans[1]}. Read one model before "
            "and after its change."
        )
    labels = [reading.fact.values.tolist() for reading in (before, after)]
    if any(len(set(names)) < len(names) for names in labels):
        raise ReadingError(f"{_WHAT} pairs facts by label, and some have the same one. Give every fact its own label.")
    shared = [name for name in labels[0] if name in set(labels[1])]
    if not shared:
        raise ReadingError(f"{_WHAT} was given no fact in both readings. Read the same facts before and after.")
    n_alone = sum(len(names) - len(shared) for names in labels)
    return _Change(before.sel(fact=shared), after.sel(fact=shared), n_alone)


def _draw(page: Page, upper: Axes, lower: Axes, change: _Change, level: float, simultaneous: bool) -> dict[str, Band]:
    after = change.after.margin.transpose("fact", "layer")
    difference = after.copy(data=after.values - change.before.margin.transpose("fact", "layer").values)
    curves = {
        "before": (upper, change.before.margin),
        "after": (upper, change.after.margin),
        "difference": (lower, difference),
    }
    bands = {}
    for name, (axes, values) in curves.items():
        whole = simultaneous and name == "difference"
        bands[name] = simultaneous_band(values, level) if whole else band_along(values, "layer", level)
        draw_band(axes, bands[name], page.looks[name], _ENTRIES[name])
    mark_zero(upper)
    mark_zero(lower)
    return bands


def _draw_commits(page: Page, panels: tuple[Axes, Axes], change: _Change) -> str:
    """Commit layers before and after, each in its lane; returns how many facts commit."""
    counts = []
    for name, reading, lane, linestyle in zip(("before", "after"), change[:2], _LANES, ("--", ":"), strict=True):
        commits = commit_layer(reading).values
        mark_commits(panels[0], commits, page.looks[name], f", {name}", lane=lane)
        mark_median(panels, commits, page.looks[name], f", {name}", linestyle=linestyle)
        counts.append(f"{np.isfinite(commits).sum()}")
    return f"commit: {counts[0]}, then {counts[1]} of {change.before.sizes['fact']}"


def _put_legend(page: Page, bands: dict[str, list[Band]], note: str) -> None:
    """Under all panels, with n over all columns; before and after are named at their ends where there is room."""
    drawn = entries_of(page.panels)
    entries = {}
    for name, label in _ENTRIES.items():
        n = n_text(*bands[name])
        entries[f"{label} ({n})"] = drawn.pop(label)
        for line in lines_of(page.grid[0], label):
            page.name_line(line, name, f"{label} ({n})", n)
    page.legend(entries | drawn, note)
