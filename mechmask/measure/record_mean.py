"""Means in which every record, or every token, has equal weight, though what is independent is a draw, or a sequence.

Draws hold unequal numbers of records, and sequences of tokens: the mean over all of them is a ratio of sums, and its
interval is that of the ratio estimator (Cochran 1977, section 6.4) with Student's t, which is the usual one where all
are of one size. ``over_facts`` weighs draws alike instead; the field's scores weigh records, as its papers do.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.resampling import cluster_codes
from mechmask.measure.sample import require_finite, require_level
from mechmask.measure.statistics import Interval, several_draws

_WHAT = "A mean over records"


def mean_over_records(values: xr.DataArray, level: float = 0.95) -> Interval:
    """Mean over facts of each one's mean over prompts, every fact with the same weight.

    Args:
        values: ``[fact]`` or ``[fact, prompt]`` in any unit, NaN where a fact is not asked; where ``seed[fact]`` says
            that facts are of several draws, each draw is one observation, since its facts were trained together.
        level: of the interval.

    Returns:
        Mean and interval in the unit of ``values``; ``n`` counts the facts that were asked. NaN without any; NaN ends
        where one observation remains.

    Raises:
        ReadingError: if there is no dimension ``fact``, a value is infinite, or the level is not between 0 and 1.

    Examples:
        >>> import xarray as xr
        >>> bits = xr.DataArray([1.0, 2.0, 3.0, 6.0], dims="fact")
        >>> print(mean_over_records(bits), mean_over_records(bits.assign_coords(seed=("fact", [0, 0, 0, 1]))))
        3.00 [-0.44, 6.44] (n=4) 3.00 [-16.06, 22.06] (n=4)
    """
    require_level(level, _WHAT)
    means = record_means(values, _WHAT)
    asked = ~np.isnan(means)
    n = int(asked.sum())
    if not n:
        return Interval(np.nan, np.nan, np.nan, 0)
    labels = values["seed"].values[asked] if several_draws(values) else np.arange(n)
    codes = cluster_codes(labels, _WHAT)
    require_finite(means[asked], _WHAT)
    mean, error = ratio_of_sums(np.bincount(codes, weights=means[asked]), np.bincount(codes))
    half = half_width(error, int(codes.max()) + 1, level)
    return Interval(mean, mean - half, mean + half, n)


def record_means(values: xr.DataArray, what: str) -> np.ndarray:
    """The mean of each record over what it was asked ``[fact]``, NaN where that is nothing.

    Raises:
        ReadingError: naming ``what``, if there is no dimension ``fact`` or the values are no numbers.
    """
    if "fact" not in values.dims:
        raise ReadingError(f"{what} needs the dimension fact. Give it one value, or several, for each fact.")
    if values.dtype.kind not in "biuf":
        raise ReadingError(f"{what} takes numbers, not {values.dtype}. Give one array of floats.")
    rows = values.transpose("fact", ...).values.reshape(values.sizes["fact"], -1).astype(float)
    counts = (~np.isnan(rows)).sum(1)
    return np.where(counts > 0, np.nansum(rows, 1) / np.maximum(counts, 1), np.nan)


def ratio_of_sums(sums: np.ndarray, sizes: np.ndarray) -> tuple[float, float]:
    """``sums.sum() / sizes.sum()`` with its standard error over units, NaN of one unit.

    Args:
        sums: of what each independent unit holds, ``[unit]``.
        sizes: how much it holds, ``[unit]``, above 0.
    """
    n, mean = len(sums), float(sums.sum() / sizes.sum())
    if n == 1:
        return mean, np.nan
    return mean, float(np.sqrt(n / (n - 1) * ((sums - mean * sizes) ** 2).sum()) / sizes.sum())


def half_width(error: float, n_units: int, level: float) -> float:
    """Half of Student's interval of a mean over units with this standard error; NaN of one unit."""
    return float(stats.t.ppf(0.5 + level / 2, n_units - 1) * error) if n_units > 1 else np.nan
