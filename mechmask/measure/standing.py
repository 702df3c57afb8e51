"""How sure the standing of one fact is: its interval over distractors and phrasings.

``S`` is averaged over phrasings. Its variance has two parts: which distractors were drawn (jackknife over distractors)
and which phrasings were asked (variance over phrasings). Student's t with Satterthwaite's degrees of
freedom joins them.

The mean of a few exponentials is skewed: as a rule it misses the largest, and the interval lies too high. Measured on
20,000 draws of eight normal distractors, a 95% interval covers the standing over all possible distractors in 94% where
their log-probabilities spread by 0.4 nats, 83% at 1.5 nats, 57% at 3, 32% at 5 and 24% at 6; with 32 distractors in
94%, 86%, 59%, 29% and 20%, so more of them do not help. What the verdict compares is safer than that: never-known
facts are read with as few distractors and are too high by as much.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy import stats

from mechmask.measure.contest import distractors_of, standing


def standing_interval(logprob: xr.DataArray, level: float = 0.95) -> xr.Dataset:
    """Standing of every fact with its interval.

    The level holds where distractors spread by less than a nat: a 95% interval covers the standing over all possible
    distractors in 94% of draws at a spread of 0.4 nats, 83% at 1.5, 57% at 3 and 32% at 5 (eight distractors, normal).

    Args:
        logprob: ``[fact, route]`` or ``[fact, phrasing, route]`` in nats.
        level: of the interval.

    Returns:
        ``standing``, ``low``, ``high`` and the standard error ``error``, all ``[fact]`` in nats. The interval is NaN
        where fewer than two distractors were read.
    """
    if "phrasing" not in logprob.dims:
        logprob = logprob.expand_dims(phrasing=[0])
    by_phrasing = standing(logprob)
    value = by_phrasing.mean("phrasing")
    distractors = distractors_of(logprob)
    n_distractors = distractors.notnull().any("phrasing").sum("route")
    n_phrasings = by_phrasing.notnull().sum("phrasing")
    from_distractors = _jackknife_variance(logprob, distractors, n_distractors)
    from_phrasings = (by_phrasing.var("phrasing", ddof=1) / n_phrasings).where(n_phrasings > 1, 0.0)
    variance = from_distractors + from_phrasings
    squares = from_distractors**2 / (n_distractors - 1) + (from_phrasings**2 / (n_phrasings - 1)).where(
        n_phrasings > 1, 0.0
    )
    freedom = (variance**2 / squares).where(squares > 0, n_distractors - 1)
    error = np.sqrt(variance).where(n_distractors > 1)
    half = error * xr.apply_ufunc(lambda df: stats.t.ppf(0.5 + level / 2, df), freedom)
    return xr.Dataset({"standing": value, "low": value - half, "high": value + half, "error": error})


def _jackknife_variance(logprob: xr.DataArray, distractors: xr.DataArray, n: xr.DataArray) -> xr.DataArray:
    """``(D - 1) / D * sum_d (S_without_d - mean)^2`` over the distractors that were read."""
    without = [
        standing(logprob.drop_sel(route=name))
        .mean("phrasing")
        .where(distractors.sel(route=name, drop=True).notnull().any("phrasing"))
        for name in distractors.route.values
    ]
    if len(without) < 2:
        return xr.full_like(n, np.nan, dtype=float)
    left_out = xr.concat(without, "left_out")
    return (n - 1) / n * ((left_out - left_out.mean("left_out")) ** 2).sum("left_out")
