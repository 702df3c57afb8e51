"""Intervals: of a mean, of any statistic by the bootstrap, of a proportion, for one more observation.

scipy computes them; the choices are stated here.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.sample import finite_sample, require_level

_RESAMPLED_AT_ONCE = 4_000_000  # numbers: 32 MB


class Interval(NamedTuple):
    """An estimate, its interval, and the number of observations behind it."""

    estimate: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.estimate:.2f} [{self.low:.2f}, {self.high:.2f}] (n={self.n})"


def mean_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Mean with Student's t interval, which holds its level at small n where a percentile bootstrap does not.

    Args:
        values: ``[...]``, taken as one sample; NaNs are left out.
        level: of the interval.

    Returns:
        The interval in the unit of ``values``, NaN with fewer than two of them.

    Examples:
        >>> print(mean_interval([1.0, 2.0, 3.0]))
        2.00 [-0.48, 4.48] (n=3)
    """
    return _t_interval(values, level, new_observation=False)


def bca_interval(
    values: ArrayLike,
    level: float = 0.95,
    *,
    statistic: Callable[..., ArrayLike] = np.mean,
    n_resamples: int = 9999,
    seed: int = 0,
) -> Interval:
    """Any statistic of one sample with the bias-corrected and accelerated bootstrap interval (BCa, Efron 1987).

    For statistics that have no interval of their own; a mean has ``mean_interval``, a median ``hodges_lehmann`` and
    ``commit_interval``. Measured for the mean at a level of 95%, over 4000 samples of 6, 12 and 24: it covers 85%, 90%
    and 92% of normal samples and 77%, 84% and 89% of log-normal ones, Student's interval 95% of the normal and 83%,
    85% and 89% of the log-normal. With six observations it is too narrow whatever they are.

    Args:
        values: ``[...]``, taken as one sample; NaNs are left out.
        level: of the interval.
        statistic: of an array; with an argument ``axis``, as numpy's have it, it is computed for all resamples at once.
        n_resamples: how many samples are drawn.
        seed: of the draws: the same seed gives the same interval.

    Returns:
        The interval in the unit of ``statistic``, NaN where the resamples do not differ: with fewer than two values, or
        with equal ones.

    Raises:
        ReadingError: if a value is infinite or not a number, or the level is not between 0 and 1.
    """
    require_level(level, "A bootstrap interval")
    read = finite_sample(values, "A bootstrap interval")
    n = len(read)
    if n < 2 or np.ptp(read) == 0:
        return Interval(float(np.asarray(statistic(read))) if n else np.nan, np.nan, np.nan, n)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)  # said by the NaNs
        found = stats.bootstrap(
            (read,),
            statistic,
            n_resamples=n_resamples,
            batch=max(1, _RESAMPLED_AT_ONCE // n),
            confidence_level=level,
            method="BCa",
            rng=np.random.default_rng(seed),
        ).confidence_interval
    return Interval(float(np.asarray(statistic(read))), float(found.low), float(found.high), n)


def over_facts(
    values: xr.DataArray, level: float = 0.95, interval: Callable[[np.ndarray, float], Interval] = mean_interval
) -> xr.Dataset:
    """The mean over facts at every other coordinate, with its interval.

    Facts that were trained together are not independent: where ``fact`` has the coordinate ``seed`` of several draws,
    the mean of each draw is one observation. ``prediction_interval``, the range of one more fact, is over facts in
    either case.

    Args:
        values: ``[fact, ...]``; NaNs are left out.
        level: of the interval.
        interval: what turns the observations at one place into an interval.

    Returns:
        ``estimate``, ``low`` and ``high`` over the other dimensions, in the unit of ``values`` (nats, layers), and the
        count ``n``; ``attrs["unit"]`` is ``facts`` or ``draws``.

    Raises:
        ReadingError: if there is no dimension ``fact``.

    Examples:
        >>> import xarray as xr
        >>> margin = xr.DataArray([[1.0, 2.0], [3.0, 4.0]], dims=("fact", "layer"))
        >>> mean = over_facts(margin)
        >>> mean.estimate.values, mean.n.values
        (array([2., 3.]), array([2, 2]))
    """
    if "fact" not in values.dims:
        raise ReadingError(
            f"A mean over facts needs the dimension fact; this array has {', '.join(map(str, values.dims)) or 'none'}. "
            "Give it one value for each fact."
        )
    drawn = several_draws(values) and interval is mean_interval
    unit = "seed" if drawn else "fact"
    samples = (values.groupby("seed").mean() if drawn else values).transpose(..., unit)
    shape = samples.shape[:-1]
    rows = samples.values.reshape(math.prod(shape), samples.sizes[unit])
    intervals = np.array([interval(row, level) for row in rows], dtype=float).reshape(*shape, len(Interval._fields))
    labels = samples.sum(unit)
    parts = {name: labels.copy(data=intervals[..., i]) for i, name in enumerate(Interval._fields)}
    dataset = xr.Dataset(parts, attrs={"level": level, "unit": "draws" if drawn else "facts"})
    return dataset.assign(n=dataset["n"].astype(int))


def several_draws(values: xr.DataArray | xr.Dataset) -> bool:
    """Whether ``seed[fact]`` says that facts are of several draws, so that a draw is one observation.

    Facts that are left out of what is measured count as well, so leave them in as NaN: if those of one draw alone
    remain, their number is not that of independent observations.

    Args:
        values: ``[fact, ...]``.
    """
    seed = values.coords.get("seed")
    return seed is not None and seed.dims == ("fact",) and len(np.unique(seed.values)) > 1


def prediction_interval(values: ArrayLike, level: float = 0.95) -> Interval:
    """Where one more observation of the same normal population falls with probability ``level``.

    ``mean +/- t(n-1) * s * sqrt(1 + 1/n)``.

    Args:
        values: ``[...]``, taken as one sample; NaNs are left out.
        level: of the interval.

    Returns:
        The interval in the unit of ``values``, NaN with fewer than two of them.
    """
    return _t_interval(values, level, new_observation=True)


def proportion_interval(successes: int, n: int, level: float = 0.95) -> Interval:
    """Proportion with the exact interval of Clopper and Pearson (1934), so that "0 of n" carries its bound."""
    if n == 0:
        return Interval(np.nan, np.nan, np.nan, 0)
    low, high = stats.binomtest(successes, n).proportion_ci(level, method="exact")
    return Interval(successes / n, float(low), float(high), n)


def _t_interval(values: ArrayLike, level: float, *, new_observation: bool) -> Interval:
    sample = np.asarray(values, dtype=float).ravel()
    sample = sample[~np.isnan(sample)]
    n = len(sample)
    if n == 0:
        return Interval(np.nan, np.nan, np.nan, 0)
    mean = float(sample.mean())
    if n == 1:
        return Interval(mean, np.nan, np.nan, 1)
    spread = sample.std(ddof=1) * np.sqrt((1 if new_observation else 0) + 1 / n)
    half = float(stats.t.ppf(0.5 + level / 2, n - 1) * spread)
    return Interval(mean, mean - half, mean + half, n)
