"""A difference between two shares that every record has of its own, in pairs: its mean over records, with an interval.

What rises and what falls are two shares of the same records, each with the interval of ``share_over_records``, which
keeps its exact bound where no record rises, or none falls. The interval of their difference is put together from these
ends and their correlation (Zou and Donner 2008, equation 2, the square-and-add rule of which Newcombe's interval for
paired proportions is one). Student's over the differences is [0, 0] where all are alike, however few there are.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from mechmask.errors import ReadingError
from mechmask.measure.reading import require_same_coordinates
from mechmask.measure.record_mean import record_means
from mechmask.measure.record_share import share_over_records
from mechmask.measure.resampling import cluster_codes
from mechmask.measure.sample import require_level
from mechmask.measure.statistics import Interval, several_draws

_WHAT = "A difference of shares over records"


def share_difference_over_records(
    first: xr.DataArray, second: xr.DataArray, level: float = 0.95, *, behind: xr.DataArray | None = None
) -> Interval:
    """Mean over facts of how much higher the second share is than the first, prompt by prompt.

    How often it holds is simulated in its tests, beside Student's interval over the differences, which holds far less
    often where few records change.

    Args:
        first: ``[fact]`` or ``[fact, prompt]``, between 0 and 1, NaN where a fact is not asked; where ``seed[fact]``
            says that facts are of several draws, each draw is a cluster.
        second: of the same facts and prompts.
        level: of the interval.
        behind: how many observations each value is a share of, as in ``share_over_records``.

    Returns:
        Mean and interval, between -1 and 1; ``n`` counts the facts that were asked. NaN without any.

    Raises:
        ReadingError: as ``share_over_records``; and if the shares are of other facts, prompts or draws.

    Examples:
        >>> import xarray as xr
        >>> first, second = (xr.DataArray(of, dims="fact") for of in ([0.0] * 20, [0.0] * 18 + [1.0] * 2))
        >>> print(share_difference_over_records(first, second), share_difference_over_records(first, first))
        0.10 [-0.09, 0.32] (n=20) 0.00 [-0.17, 0.17] (n=20)
    """
    require_level(level, _WHAT)
    _require_pairs(first, second)
    change = second - first
    up, down = change.clip(min=0), (-change).clip(min=0)
    rise, fall = (share_over_records(part, level, behind=behind) for part in (up, down))
    if not rise.n:
        return rise
    difference, together = rise.estimate - fall.estimate, _correlation(up, down)
    low = _distance(rise.estimate - rise.low, fall.high - fall.estimate, together)
    high = _distance(rise.high - rise.estimate, fall.estimate - fall.low, together)
    return Interval(difference, max(difference - low, -1.0), min(difference + high, 1.0), rise.n)


def _distance(one: float, other: float, correlation: float) -> float:
    return float(np.sqrt(max(one**2 + other**2 - 2 * correlation * one * other, 0.0)))


def _correlation(up: xr.DataArray, down: xr.DataArray) -> float:
    """Of what rises and what falls, over records or draws; none where one of them is everywhere the same."""
    means = np.stack([record_means(part, _WHAT) for part in (up, down)])
    used = ~np.isnan(means[0])
    labels = up["seed"].values[used] if several_draws(up) else np.arange(used.sum())
    sums = np.stack([np.bincount(cluster_codes(labels, _WHAT), weights=row[used]) for row in means])
    return float(np.corrcoef(sums[0], sums[1])[0, 1]) if np.ptp(sums, axis=1).all() else 0.0


def _require_pairs(first: xr.DataArray, second: xr.DataArray) -> None:
    if dict(first.sizes) != dict(second.sizes):
        raise ReadingError(f"{_WHAT} needs shares of the same facts and prompts. Read one fact set both times.")
    require_same_coordinates(first, second, _WHAT, ("fact", "seed"))
