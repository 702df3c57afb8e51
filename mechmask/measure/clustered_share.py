"""A share whose observations come in clusters: the exact interval of as many independent ones as they are worth.

Probes of one fact say much the same, so that 12 of each of 6 facts are not 72 observations. Korn and Graubard (1998)
take the interval of Clopper and Pearson at the effective number ``p(1 - p) / variance``, with the variance between
clusters. Where few observations succeed that variance says next to nothing (with none it is zero, with two in two
clusters less than by chance, so that 2 of 72 would be known better than 0 of 72). Here one cluster that wholly succeeds
and one that wholly fails are added before it is taken, which stands in place of their correction for few clusters.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from scipy import stats

from mechmask.measure.resampling import cluster_codes
from mechmask.measure.sample import booleans, require_equal_length, require_level
from mechmask.measure.statistics import Interval, proportion_interval, several_draws

_WHAT = "A clustered share"


def clustered_share(successes: ArrayLike, cluster: ArrayLike, level: float = 0.95) -> Interval:
    """Share of successes with an interval after Korn and Graubard that also holds where few or most succeed.

    With one observation in each cluster it is that of Clopper and Pearson, and so is "0 of 72 probes of 6 facts", at
    0 of 6. It ends nowhere nearer than theirs would if all clusters agreed: one that differs makes nothing surer.

    Measured coverage at 95% over 2000 samples of clusters of 14 whose shares are beta-distributed: with an
    intra-cluster correlation of .3 and a share of .1 99% with 6, 8 and 24 clusters, with a share of .3 99% with 8; with
    .6 and .5 97% with 8; with .5 and .05 99% with 12; with .05 and .05 all of them with 8. The authors' own interval,
    over clusters where none succeeds, covers 90% with 6 clusters at .3 and .1, and 88% with 12 at .5 and .05.

    Args:
        successes: ``[observation]``, booleans.
        cluster: label of the cluster of each, ``[observation]``.
        level: of the interval.

    Returns:
        Share of observations and its interval; ``n`` counts observations. NaN without any.

    Raises:
        ReadingError: if lengths differ, successes are no booleans, or the level is not between 0 and 1.

    Examples:
        >>> print(clustered_share([False] * 72, [i // 12 for i in range(72)]))
        0.00 [0.00, 0.46] (n=72)
    """
    require_level(level, _WHAT)
    won, codes = booleans(successes, _WHAT).astype(float), cluster_codes(cluster, _WHAT)
    require_equal_length({"successes": won, "cluster": codes}, _WHAT)
    n = len(won)
    if not n:
        return Interval(np.nan, np.nan, np.nan, 0)
    low, high = ends_over_clusters(np.bincount(codes, weights=won), np.bincount(codes), n, level)
    return Interval(float(won.mean()), low, high, n)


def ends_over_clusters(sums: np.ndarray, sizes: np.ndarray, n_observations: int, level: float) -> tuple[float, float]:
    """The ends of the interval of ``sums.sum() / sizes.sum()``, which stay between 0 and 1.

    Args:
        sums: what succeeds in each cluster, ``[cluster]``, between 0 and its size.
        sizes: the weight of each cluster, ``[cluster]``, above 0.
        n_observations: how many observations there are at most that could be independent.
        level: of the interval.
    """
    share, effective = float(sums.sum() / sizes.sum()), _effective_number(sums, sizes, n_observations)
    of, rest = share * effective, (1 - share) * effective
    low = float(stats.beta.ppf((1 - level) / 2, of, rest + 1)) if of > 0 else 0.0
    high = float(stats.beta.ppf((1 + level) / 2, of + 1, rest)) if rest > 0 else 1.0
    all_of_clusters = ((1 - level) / 2) ** (1 / len(sizes))  # one that differs makes nothing surer
    return min(low, all_of_clusters), max(high, 1 - all_of_clusters)


def share_of_facts(holds: xr.DataArray, level: float = 0.95) -> Interval:
    """The share of facts of which something holds, with an exact interval.

    Args:
        holds: ``[fact]``, booleans, or 0 and 1 with NaN where a fact is not asked; where ``seed[fact]`` says that facts
            are of several draws, asked or not, each draw is a cluster, since its facts were trained together.
        level: of the interval.

    Returns:
        Share, interval and the count ``n`` of facts: of Clopper and Pearson, or of ``clustered_share``.

    Raises:
        ReadingError: if the level is not between 0 and 1.

    Examples:
        >>> import xarray as xr
        >>> none = xr.DataArray([False] * 10, dims="fact")
        >>> print(share_of_facts(none), share_of_facts(none.assign_coords(seed=("fact", [0] * 5 + [1] * 5))))
        0.00 [0.00, 0.31] (n=10) 0.00 [0.00, 0.84] (n=10)
    """
    asked = holds.notnull().values
    held = holds.values[asked].astype(bool)
    if several_draws(holds):
        return clustered_share(held, holds["seed"].values[asked], level)
    require_level(level, _WHAT)
    return proportion_interval(int(held.sum()), len(held), level)


def _effective_number(sums: np.ndarray, sizes: np.ndarray, n_observations: int) -> float:
    """How many independent observations the clusters are worth, with one of each extreme added."""
    n_clusters = len(sizes)
    if n_clusters in (1, n_observations) or not 0 < sums.sum() < sizes.sum():
        return float(n_clusters)
    sums = np.append(sums, [sizes.mean(), 0.0])
    sizes = np.append(sizes, [sizes.mean()] * 2)
    share, count = sums.sum() / sizes.sum(), len(sizes)
    variance = count / (count - 1) * ((sums - share * sizes) ** 2).sum() / sizes.sum() ** 2
    return float(np.clip(share * (1 - share) / variance, n_clusters, max(n_observations, n_clusters)))
