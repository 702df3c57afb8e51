"""Discrimination: how surely a score tells what a model knows from what it does not (area under the ROC curve).

AUROC is the probability that a known fact scores above one that is not, ties counted half. Its error is that of DeLong,
DeLong and Clarke-Pearson (1988), from midranks (Sun and Xu 2014); observations in clusters are drawn by cluster.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import special, stats

from mechmask.measure.resampling import cluster_codes, resampled, weight_below
from mechmask.measure.sample import booleans, numbers, require_equal_length, require_level, sample
from mechmask.measure.statistics import Interval


class AurocDifference(NamedTuple):
    """AUROC of A less that of B, its interval, the number of observations, and the p-value of no difference."""

    estimate: float
    low: float
    high: float
    n: int
    p_value: float


_NO_ERROR = 1e-9  # clusters that agree by chance, or scores that are all tied: nothing is known of the error


def auroc(positive: ArrayLike, negative: ArrayLike, level: float = 0.95) -> Interval:
    """Probability that a positive scores above a negative, with DeLong's interval on the logit scale.

    Student's t with the freedom of Welch and Satterthwaite. Where all positives score above all negatives, the low
    bound is ``((1 - level) / 2) ** (1 / k)`` for ``k`` the size of the smaller class: that many disjoint pairs are in
    order, which a smaller AUROC allows with too small a probability, whatever the distributions.

    Measured coverage at 95% over 4000 samples with AUROC .75, .9 and .97, normal scores: 99% with 6 and 6, 98% with 12
    and 12, 96% with 24 and 24 or 30 and 30; where the positives spread more (exponential) 97%, 99% and 98% with 12 and
    12, 96%, 95% and 93% with 30 and 30. DeLong's plain interval, ``estimate +/- 1.96 error``, covers 92%, 84% and 68%
    of normal scores with 12 and 12, and 93%, 91% and 83% with 30 and 30.

    Args:
        positive: scores of the class that should score high, ``[...]``; NaNs are left out.
        negative: scores of the other class, ``[...]``.
        level: of the interval.

    Returns:
        AUROC and its interval, shares of pairs; ``n`` counts both classes. NaN where a class is missing; the interval
        is, where a class has one observation, and 0 to 1 where the scores say nothing (all tied).

    Raises:
        ReadingError: if scores are not numbers, or the level is not between 0 and 1.

    Examples:
        >>> print(auroc([2.0, 3.0, 3.5, 1.5], [0.5, 1.0, 1.8, 0.2]))
        0.94 [0.27, 1.00] (n=8)
    """
    require_level(level, "An AUROC")
    positive, negative = sample(positive, "An AUROC"), sample(negative, "An AUROC")
    m, n = len(positive), len(negative)
    if not m or not n:
        return Interval(np.nan, np.nan, np.nan, m + n)
    above, below = _placements(positive, negative)
    estimate = float(above.mean())
    if min(m, n) < 2:
        return Interval(estimate, np.nan, np.nan, m + n)
    parts = above.var(ddof=1) / m, below.var(ddof=1) / n
    error = np.sqrt(sum(parts))
    freedom = error**4 / (parts[0] ** 2 / (m - 1) + parts[1] ** 2 / (n - 1)) if error > 0 else np.inf
    return Interval(estimate, *_bounds(estimate, error, freedom, min(m, n), level), m + n)


def auroc_difference(
    positive_a: ArrayLike, negative_a: ArrayLike, positive_b: ArrayLike, negative_b: ArrayLike, level: float = 0.95
) -> AurocDifference:
    """Difference of two scores' AUROCs on the same observations (DeLong, DeLong and Clarke-Pearson 1988), normal.

    Measured over 4000 samples of two scores that correlate with 0.6: with AUROCs of .75 and .9 the 95% interval covers
    89%, 93%, 95% and 94% with 6, 12, 24 and 30 of each class; with .9 and .97, where the normal approximation fails,
    78%, 87%, 91% and 92%. Two AUROCs of .9 are told apart at 0.05 in 0.4%, 1.7%, 3.1% and 3.6%.

    Args:
        positive_a: scores of the class that should score high by A, ``[observation]``.
        negative_a: scores of the other class by A, ``[observation]``.
        positive_b: scores of the same observations by B, in the same order as ``positive_a``.
        negative_b: scores by B in the order of ``negative_a``. An observation that one score lacks (NaN) is left out.
        level: of the interval.

    Returns:
        AUROC of A less that of B. All is NaN where a class has fewer than two observations. Where both scores
        have no error, as when both separate the classes wholly, the interval is NaN, and the p-value 1 if the AUROCs
        are equal and NaN if not.

    Raises:
        ReadingError: if the scores are not of the same observations, are not numbers, or the level is out of range.
    """
    require_level(level, "A difference of AUROCs")
    positives = _common(positive_a, positive_b, "positives")
    negatives = _common(negative_a, negative_b, "negatives")
    m, n = positives.shape[1], negatives.shape[1]
    if min(m, n) < 2:
        return AurocDifference(np.nan, np.nan, np.nan, m + n, np.nan)
    (above_a, below_a), (above_b, below_b) = (_placements(*of) for of in zip(positives, negatives, strict=True))
    above, below = above_a - above_b, below_a - below_b
    difference = float(above.mean())
    error = float(np.sqrt(above.var(ddof=1) / m + below.var(ddof=1) / n))
    if error == 0:
        return AurocDifference(difference, np.nan, np.nan, m + n, 1.0 if difference == 0 else np.nan)
    half = stats.norm.ppf(0.5 + level / 2) * error
    p_value = float(2 * stats.norm.sf(abs(difference) / error))
    return AurocDifference(difference, float(difference - half), float(difference + half), m + n, p_value)


def clustered_auroc(
    values: ArrayLike,
    knows: ArrayLike,
    cluster: ArrayLike,
    level: float = 0.95,
    *,
    n_resamples: int = 1999,
    seed: int = 0,
) -> Interval:
    """AUROC of observations in clusters: the facts and models of one draw are one, and DeLong's error is too small.

    Whole clusters are drawn with replacement. The error of the draws goes onto the logit scale, with Student's t of one
    less freedom than there are clusters of the rarer class; an AUROC of 1 has the bound of ``auroc``, clusters in place
    of observations. Measured coverage at 95% over 1000 samples of clusters of 6 and 6 with AUROC .75, .9 and .97, half
    the variance between clusters: 96% to 99% with 4 clusters, 95% to 96% with 6, 92% to 96% with 12 and 95% to 97% with
    20. The percentile interval covers 61% to 77% with 4 clusters and 88% to 93% with 20.

    Args:
        values: scores, ``[observation]``; a NaN is left out.
        knows: whether the observation is of the class that should score high, ``[observation]``.
        cluster: label of its cluster, ``[observation]``.
        level: of the interval.
        n_resamples: how often clusters are drawn.
        seed: of the draws.

    Returns:
        AUROC and its interval, shares of pairs; ``n`` counts observations, not clusters. NaN where a class is missing;
        the interval is, where a class is found in one cluster only.

    Raises:
        ReadingError: if lengths differ, ``knows`` is not of booleans, an observation has no cluster, or the level is
            not between 0 and 1.
    """
    what = "A clustered AUROC"
    require_level(level, what)
    scores, classes, codes = numbers(values, what), booleans(knows, what), cluster_codes(cluster, what)
    require_equal_length({"values": scores, "knows": classes, "cluster": codes}, what)
    there = ~np.isnan(scores)
    scores, classes, codes = scores[there], classes[there], np.unique(codes[there], return_inverse=True)[1]
    if classes.all() or not classes.any():
        return Interval(np.nan, np.nan, np.nan, len(scores))

    def drawn(weights: np.ndarray) -> np.ndarray:
        of_positive, of_negative = weights * classes, weights * ~classes
        in_order = (of_positive * weight_below(scores, of_negative)).sum(1)
        pairs = of_positive.sum(1) * of_negative.sum(1)
        return np.divide(in_order, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)

    estimate = float(drawn(np.ones((1, len(scores))))[0])
    n_clusters = min(len(np.unique(codes[classes])), len(np.unique(codes[~classes])))
    if n_clusters < 2:
        return Interval(estimate, np.nan, np.nan, len(scores))
    error = resampled(drawn, codes, n_resamples, seed).std(ddof=1) * np.sqrt(n_clusters / (n_clusters - 1))
    return Interval(estimate, *_bounds(estimate, error, n_clusters - 1, n_clusters, level), len(scores))


def _bounds(estimate: float, error: float, freedom: float, n_pairs: int, level: float) -> tuple[float, float]:
    """Bounds of an AUROC from its error, on the logit scale; at 0 and 1 from ``n_pairs`` pairs that share nothing."""
    certain = ((1 - level) / 2) ** (1 / n_pairs)
    if estimate == 1:
        return certain, 1.0
    if estimate == 0:
        return 0.0, 1 - certain
    if error < _NO_ERROR:
        return 0.0, 1.0
    half = stats.t.ppf(0.5 + level / 2, freedom) * error / (estimate * (1 - estimate))
    centre = special.logit(estimate)
    return float(special.expit(centre - half)), float(special.expit(centre + half))


def _placements(positive: np.ndarray, negative: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The share of negatives below each positive ``[positive]``, of positives above each negative ``[negative]``."""
    m, n = len(positive), len(negative)
    ranks = stats.rankdata(np.concatenate([positive, negative]))
    above = (ranks[:m] - stats.rankdata(positive)) / n
    below = 1 - (ranks[m:] - stats.rankdata(negative)) / m
    return above, below


def _common(a: ArrayLike, b: ArrayLike, which: str) -> np.ndarray:
    """Scores by A and by B ``[2, observation]`` of the observations that have both."""
    what = "A difference of AUROCs"
    pair = {f"{which} of A": numbers(a, what), f"{which} of B": numbers(b, what)}
    require_equal_length(pair, what)
    both = np.array(list(pair.values()))
    return both[:, ~np.isnan(both).any(0)]
