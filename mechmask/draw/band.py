"""A mean over facts along steps or layers, with its interval as a band.

The statistics are those of ``mechmask.measure.statistics``; here they are only laid out along an axis. Values that are
not finite are left out, never silently: ``n`` says how many remain, and the figure how many infinite ones there were.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from mechmask.draw.style import Look, count, percent, stroke
from mechmask.errors import ReadingError
from mechmask.measure.multiplicity import max_t
from mechmask.measure.statistics import Interval, mean_interval, over_facts, several_draws

_MOST_MARKERS = 10  # along one line: enough to tell lines apart in grey print, too few to hide them


class Band(NamedTuple):
    """An interval at every ``x`` over n of ``unit``, and how many infinite values it leaves out."""

    x: np.ndarray
    estimate: np.ndarray
    low: np.ndarray
    high: np.ndarray
    n: np.ndarray
    n_infinite: int
    unit: str = "facts"


def band_along(
    values: xr.DataArray, along: str, level: float, interval: Callable[[np.ndarray, float], Interval] = mean_interval
) -> Band:
    """The interval over facts, or over draws of facts, at every place along a dimension.

    Args:
        values: ``[along, fact]`` in any order; draws where ``fact`` has the coordinate ``seed``.
        along: the dimension that is the figure's x axis.
        level: of the interval.
        interval: what to make of the facts' values at one place.
    """
    table = values.transpose(along, "fact").values.astype(float)
    finite = values.transpose(along, "fact").copy(data=np.where(np.isfinite(table), table, np.nan))
    intervals = over_facts(finite, level, interval)
    estimate, low, high, n = (intervals[name].values for name in ("estimate", "low", "high", "n"))
    return Band(values[along].values, estimate, low, high, n, int(np.isinf(table).sum()), intervals.attrs["unit"])


def simultaneous_band(values: xr.DataArray, level: float) -> Band:
    """The mean over facts, or over draws of facts, with one interval for the whole curve over layers (``max_t``).

    Args:
        values: ``[layer, fact]`` in any order; draws where ``fact`` has the coordinate ``seed``.
        level: of the interval.

    Raises:
        ReadingError: if there are too few facts or draws for such an interval, at 95% fewer than six.
    """
    drawn = several_draws(values)
    units = values.groupby("seed").mean().rename(seed="fact") if drawn else values.reset_coords(drop=True)
    found = max_t(units.transpose("fact", "layer"), level)
    if np.isinf(found.low).any():
        raise ReadingError(
            f"{count(int(found.n), 'draw' if drawn else 'fact')} are too few for a band at {percent(level)} over all "
            "layers at once. Give more, or draw the band of each layer by itself."
        )
    n = np.full(found.sizes["layer"], int(found.n))
    mean, low, high = (found[name].values for name in ("mean", "low", "high"))
    return Band(values.layer.values, mean, low, high, n, 0, "draws" if drawn else "facts")


def draw_band(axes: Axes, band: Band, look: Look, label: str, *, alpha: float = 0.18) -> Line2D:
    """The line and its band; where a point has no neighbour its interval is a bar, since a band would not be seen."""
    (line,) = axes.plot(
        *(band.x, band.estimate),
        color=look.color,
        linestyle=look.linestyle,
        marker=look.marker or None,
        linewidth=stroke(look.linewidth),
        markevery=max(1, math.ceil(len(band.x) / _MOST_MARKERS)),
        label=label,
    )
    axes.fill_between(band.x, band.low, band.high, color=look.color, alpha=alpha, linewidth=0)
    there = np.isfinite(band.estimate)
    beside = np.pad(there, 1)
    alone = there & ~beside[:-2] & ~beside[2:]
    axes.plot(band.x[alone], band.estimate[alone], linestyle="", marker=look.marker or "_", color=look.color)
    axes.vlines(band.x[alone], band.low[alone], band.high[alone], color=look.color, linewidth=stroke(0.8))
    return line


def n_text(*bands: Band) -> str:
    """``n = 12``, or ``n = 8 to 12`` where it is not the same everywhere."""
    counts = np.concatenate([band.n for band in bands])
    fewest, most = int(counts.min()), int(counts.max())
    return f"n = {most}" if fewest == most else f"n = {fewest} to {most}"


def band_note(bands: Iterable[Band], level: float) -> str:
    """What lines and bands are, and what they leave out."""
    bands = list(bands)
    units = " or ".join(dict.fromkeys(band.unit for band in bands)).replace("draws", "draws of facts")
    lines = [f"line: mean over n {units}; band: its {percent(level)} t interval", left_out(bands)]
    return "\n".join(filter(None, lines))


def left_out(bands: Iterable[Band]) -> str:
    """How many values the bands leave out because they are infinite; empty where none."""
    n_infinite = sum(band.n_infinite for band in bands)
    return f"{count(n_infinite, 'infinite value')} left out" if n_infinite else ""


def entries_of(panels: Iterable[Axes]) -> dict[str, Any]:
    """What the panels draw, by label; what several draw is there once."""
    return {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}


def lines_of(panels: Iterable[Axes], label: str) -> list[Line2D]:
    """The panels' lines of that label."""
    return [line for axes in panels for line in axes.lines if line.get_label() == label]
