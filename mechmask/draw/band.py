"""A mean over facts along steps or layers, with its interval as a band.

The statistics are those of ``mechmask.measure.statistics``; here they are only laid out along an axis. Values that are
not finite are left out, never silently: ``n`` says how many remain, and the figure how many infinite ones there were.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from mechmask.draw.style import Look, percent
from mechmask.errors import ReadingError
from mechmask.measure.statistics import Interval, mean_interval, over_facts

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
    found = over_facts(finite, level, interval)
    estimate, low, high, n = (found[name].values for name in ("estimate", "low", "high", "n"))
    return Band(values[along].values, estimate, low, high, n, int(np.isinf(table).sum()), found.attrs["unit"])


def draw_band(axes: Axes, band: Band, look: Look, label: str, *, alpha: float = 0.18) -> None:
    """The line and its band; where a point has no neighbour its interval is a bar, since a band would not be seen."""
    every = max(1, -(-len(band.x) // _MOST_MARKERS))
    axes.plot(
        *(band.x, band.estimate),
        color=look.color,
        linestyle=look.linestyle,
        marker=look.marker or None,
        linewidth=look.linewidth,
        markevery=every,
        label=label,
    )
    axes.fill_between(band.x, band.low, band.high, color=look.color, alpha=alpha, linewidth=0)
    there = np.isfinite(band.estimate)
    beside = np.pad(there, 1)
    alone = there & ~beside[:-2] & ~beside[2:]
    axes.plot(band.x[alone], band.estimate[alone], linestyle="", marker=look.marker or "_", color=look.color)
    axes.vlines(band.x[alone], band.low[alone], band.high[alone], color=look.color, linewidth=0.8)


def n_text(*bands: Band) -> str:
    """``n = 12``, or ``n = 8 to 12`` where it is not the same everywhere."""
    counts = np.concatenate([band.n for band in bands])
    fewest, most = int(counts.min()), int(counts.max())
    return f"n = {most}" if fewest == most else f"n = {fewest} to {most}"


def band_note(bands: Iterable[Band], level: float) -> str:
    """What lines and bands are, and what they leave out."""
    bands = list(bands)
    n_infinite = sum(band.n_infinite for band in bands)
    left_out = f"\n{n_infinite} infinite value{'s' * (n_infinite != 1)} left out" if n_infinite else ""
    units = " or ".join(dict.fromkeys(band.unit for band in bands)).replace("draws", "draws of facts")
    return f"line: mean over n {units}; band: its {percent(level)} t interval{left_out}"


def require_level(level: float) -> None:
    """Refuse a confidence level that is none.

    Raises:
        ReadingError: if it is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ReadingError(f"level={level} is no confidence level. Give a number between 0 and 1, such as 0.95.")


def require_shape(reading: xr.Dataset, what: str, variable: str, dims: tuple[str, ...]) -> None:
    """Refuse a variable that has other dimensions than a figure can draw, or none of a dimension.

    Raises:
        ReadingError: naming the dimensions found and those drawn.
    """
    found = tuple(map(str, reading[variable].dims))
    if set(found) != set(dims):
        other, wanting = [dim for dim in found if dim not in dims], [dim for dim in dims if dim not in found]
        remedy = f"Select one {' and one '.join(other)}." if other else f"Keep the dimension {', '.join(wanting)}."
        raise ReadingError(
            f"{what} draws {variable}[{', '.join(dims)}], this reading has {variable}[{', '.join(found)}]. {remedy}"
        )
    empty = [dim for dim in dims if not reading.sizes[dim]]
    if empty:
        raise ReadingError(
            f"{what} has nothing to draw: the reading has no {' and no '.join(empty)}. Give at least one."
        )


def require_routes(reading: xr.Dataset, what: str) -> None:
    """Refuse a reading without the two routes that contest.

    Raises:
        ReadingError: naming the route that is missing.
    """
    missing = [name for name in ("old", "new") if name not in reading.route.values]
    if missing:
        routes = ", ".join(map(str, reading.route.values))
        raise ReadingError(f"{what} needs the route {' and '.join(missing)}, which is not among {routes}. Read both.")
