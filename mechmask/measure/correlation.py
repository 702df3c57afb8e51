"""Correlation over facts with its interval, also where facts come in clusters.

The interval is Fisher's: symmetric in ``arctanh r``, with the error of ``r`` from resampling whole clusters (each
observation one, unless told otherwise), carried over by the delta method, and Student's t with one less freedom than
there are clusters. Measured beside it at 95% over 500 samples: the percentile bootstrap covers a Pearson correlation of
6 observations in 86% to 91% and of 4 clusters of 6 in 79% to 90%; BCa covers either correlation of 6 observations in
82% to 87%; Fisher's own error, which is right for normal pairs, covers 79% to 84% of log-normal ones of 12.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from mechmask.measure.resampling import cluster_codes, resampled, weight_below
from mechmask.measure.sample import numbers, require_equal_length, require_finite, require_level

_EXACT = 1e-9  # a correlation this near to 1 is 1 but for rounding


class Correlation(NamedTuple):
    """A correlation, its interval, the number of pairs, the p-value of no correlation, and the number of clusters."""

    estimate: float
    low: float
    high: float
    n: int
    p_value: float
    n_clusters: int


def pearson(
    x: ArrayLike,
    y: ArrayLike,
    level: float = 0.95,
    *,
    cluster: ArrayLike | None = None,
    n_resamples: int = 4999,
    seed: int = 0,
) -> Correlation:
    """Pearson's correlation; see ``spearman`` for arguments, results and errors.

    Measured coverage of a 95% interval, 1000 samples, correlations of 0, 0.5 and 0.8: with 6 normal pairs 97% to 99%,
    with 12 94% to 96%, with 24 93% to 94%; of log-normal ones 98% to 99%, 96% to 97% and 93%. Of 4, 8 and 20 clusters
    of 6 pairs, half the variance between them: 98% to 99%, 95% to 97% and 93% to 94%.

    Raises:
        ReadingError: as ``spearman``, and if a value is infinite.
    """
    require_level(level, "A correlation")
    left, right, codes = _pairs(x, y, cluster, "A correlation")
    require_finite(np.concatenate([left, right]), "A correlation")

    def drawn(weights: np.ndarray) -> np.ndarray:
        return _weighted_correlation(left, right, weights)

    return _correlation(left, right, codes, drawn, level, n_resamples, seed)


def spearman(
    x: ArrayLike,
    y: ArrayLike,
    level: float = 0.95,
    *,
    cluster: ArrayLike | None = None,
    n_resamples: int = 4999,
    seed: int = 0,
) -> Correlation:
    """Spearman's rank correlation with an interval by resampling.

    Measured coverage of a 95% interval, 1000 samples, normal pairs with correlations of 0, 0.5 and 0.8: 99.6% to 100%
    with 6 pairs, 97% to 99% with 12, 95% to 97% with 24; of 4, 8 and 20 clusters of 6 pairs 98% to 99%, 96% to
    98% and 94% to 95%. Below 8 clusters the draws alone would be too narrow, as the percentile interval is; t makes up
    for it, and the interval is wide.

    Args:
        x: ``[observation]``, with ties or not.
        y: ``[observation]``, in the same order. A pair with a NaN is left out.
        level: of the interval.
        cluster: label of every observation, ``[observation]``, where they are not independent; drawn whole.
        n_resamples: how often they are.
        seed: of the draws.

    Returns:
        The correlation and its interval, without unit; ``p_value`` of independence: by permuting pairs, exact where
        ``n_resamples`` suffice for all orders, and with clusters by the t of the interval. All are NaN where ``x`` or
        ``y`` does not vary; the interval is, with fewer than four clusters. A correlation of 1 has no error to draw:
        its interval begins where that of the next lower rank correlation would, by the error of Bonett and Wright
        (2000).

    Raises:
        ReadingError: if lengths differ, values are no numbers, an observation has no cluster, or the level is not
            between 0 and 1.

    Examples:
        >>> found = spearman([1, 2, 3, 4, 5, 6], [1, 3, 2, 5, 4, 6])
        >>> round(found.estimate, 3), round(found.p_value, 3)
        (0.886, 0.033)
    """
    require_level(level, "A rank correlation")
    left, right, codes = _pairs(x, y, cluster, "A rank correlation")

    def drawn(weights: np.ndarray) -> np.ndarray:
        return _weighted_correlation(weight_below(left, weights), weight_below(right, weights), weights)

    return _correlation(stats.rankdata(left), stats.rankdata(right), codes, drawn, level, n_resamples, seed)


def _pairs(
    x: ArrayLike, y: ArrayLike, cluster: ArrayLike | None, what: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    x, y = numbers(x, what), numbers(y, what)
    codes = np.arange(len(x)) if cluster is None else cluster_codes(cluster, what)
    require_equal_length({"x": x, "y": y, "cluster": codes}, what)
    there = ~np.isnan(x) & ~np.isnan(y)
    left = None if cluster is None else np.unique(codes[there], return_inverse=True)[1]
    return x[there], y[there], left


def _correlation(
    x: np.ndarray,
    y: np.ndarray,
    codes: np.ndarray | None,
    drawn: Callable[[np.ndarray], np.ndarray],
    level: float,
    n_resamples: int,
    seed: int,
) -> Correlation:
    """Of ``x`` and ``y`` ``[observation]``, ranks already where they should be; ``drawn`` is that of weights."""
    n = len(x)
    clusters = np.arange(n) if codes is None else codes
    n_clusters = int(clusters.max()) + 1 if n else 0
    if n < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlation(np.nan, np.nan, np.nan, n, np.nan, n_clusters)
    estimate = float(_weighted_correlation(x, y, np.ones((1, n)))[0])
    p_value = np.nan if codes is not None else _permuted_p_value(x, y, n_resamples, seed)
    if n_clusters < 4:
        return Correlation(estimate, np.nan, np.nan, n, p_value, n_clusters)
    draws = resampled(drawn, clusters, n_resamples, seed)
    if 1 - abs(estimate) > _EXACT:
        centre = np.arctanh(estimate)
        error = draws.std(ddof=1) * np.sqrt(n_clusters / (n_clusters - 1)) / (1 - estimate**2)
        freedom = n_clusters - 1
    else:
        next_lower = np.sign(estimate) * (1 - 12 / (n**3 - n))
        centre, freedom = np.arctanh(next_lower), np.inf
        error = np.sqrt((1 + next_lower**2 / 2) / (n_clusters - 3))
    half = stats.t.ppf(0.5 + level / 2, freedom) * error
    low, high = (float(np.tanh(centre + way * half)) for way in (-1, 1))
    if 1 - abs(estimate) <= _EXACT:
        low, high = (low, 1.0) if estimate > 0 else (-1.0, high)
    if codes is not None:
        p_value = float(2 * stats.t.sf(abs(centre) / error, freedom)) if error > 0 else np.nan
    return Correlation(estimate, low, high, n, p_value, n_clusters)


def _weighted_correlation(x: np.ndarray, y: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Of ``x`` and ``y``, ``[observation]`` or ``[resample, observation]``; NaN where a draw does not vary."""
    total = weights.sum(1, keepdims=True)
    x, y = (part - (weights * part).sum(1, keepdims=True) / total for part in (x, y))
    squares = (weights * x**2).sum(1) * (weights * y**2).sum(1)
    # a draw of one observation alone varies by rounding
    squares[(weights > 0).sum(1) < 2] = 0
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(squares > 0, (weights * x * y).sum(1) / np.sqrt(squares), np.nan)


def _permuted_p_value(x: np.ndarray, y: np.ndarray, n_resamples: int, seed: int) -> float:
    """Two-sided, over all orders of ``x`` against ``y`` or ``n_resamples`` of them."""
    centred = y - y.mean()

    def covariance(order: np.ndarray, axis: int) -> np.ndarray:
        return (order * centred).sum(axis)

    found = stats.permutation_test(
        (x - x.mean(),),
        covariance,
        permutation_type="pairings",
        vectorized=True,
        n_resamples=n_resamples,
        batch=max(1, 2_000_000 // len(x)),
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)
