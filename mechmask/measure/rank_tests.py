"""Signed ranks: the test of Wilcoxon (1945) and the shift that goes with it (Hodges and Lehmann 1963), both exact.

Twelve facts are too few for the normal approximation, and rounded layers are tied. Given the sizes of the differences,
every choice of signs is equally likely if there is no shift; the distribution of the rank sum is counted over all of
them, on doubled ranks, which ties leave whole.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from mechmask.measure.sample import finite_sample, require_level, sample
from mechmask.measure.statistics import Interval

# Counting grows with the cube of n: 0.02 s at 200. The normal approximation is off by under 1e-4 there.
LARGEST_EXACT_N = 200


class RankTest(NamedTuple):
    """Rank sum of the positive differences, two-sided p-value, number of differences and of zeros, and the method."""

    statistic: float
    p_value: float
    n: int
    n_zero: int
    method: str


def wilcoxon(differences: ArrayLike) -> RankTest:
    """Whether differences are symmetric about zero: the signed-rank test, exact with ties and zeros too.

    Zeros after Pratt (1959): they are ranked with the others and then their ranks are dropped, so that many zeros speak
    for no difference. Ties have their mean rank. Being exact, it rejects no more often than it says: at 0.05, measured
    over 4000 normal samples of 6, 12 and 24 without shift, in 3.1%, 4.3% and 5.0%, rounded to whole standard deviations
    in 0.2%, 2.3% and 4.1%.

    Args:
        differences: ``[...]``, taken as one sample of pairs; NaNs are left out. An infinite one has the largest rank.

    Returns:
        ``statistic``, the sum of the ranks of the positive differences (scipy's is the smaller of both sums); the
        two-sided ``p_value``; ``n``, the differences that were read, and ``n_zero`` of them; ``method``, ``exact`` or,
        above 200 differences, ``normal``. The p-value is 1 where all are zero and NaN where there are none.

    Raises:
        ReadingError: if the differences are not numbers.

    Examples:
        >>> wilcoxon([1.2, 0.4, 2.0, 0.9, 1.1, 3.0]).p_value
        0.03125
    """
    read = sample(differences, "A signed-rank test")
    n, n_zero = len(read), int((read == 0).sum())
    if n == 0:
        return RankTest(np.nan, np.nan, 0, 0, "exact")
    ranks = stats.rankdata(np.abs(read))
    statistic = float(ranks[read > 0].sum())
    signed = ranks[read != 0]
    if n > LARGEST_EXACT_N:
        spread = np.sqrt((signed**2).sum()) / 2
        far = abs(statistic - signed.sum() / 2)
        p_value = 2 * stats.norm.sf(far / spread) if spread > 0 else 1.0
        return RankTest(statistic, float(p_value), n, n_zero, "normal")
    at_most = np.cumsum(_rank_sum_probabilities(signed))
    smaller = min(statistic, signed.sum() - statistic)
    p_value = min(1.0, 2 * float(at_most[round(2 * smaller)]))
    return RankTest(statistic, p_value, n, n_zero, "exact")


def hodges_lehmann(differences: ArrayLike, level: float = 0.95) -> Interval:
    """The shift of a symmetric distribution: median of all means of two differences, with Wilcoxon's interval.

    The interval (Hollander, Wolfe and Chicken 2014, section 3.3) holds the shifts that the test does not reject; its
    bounds are two of those means, so it covers at least as often as it says, for ties too. Measured at 95% over 4000
    samples of 6, 12 and 24: 97%, 96% and 95% of normal samples, 97%, 96% and 95% of Laplace's, 99% of normal ones
    rounded to half their standard deviation. Takes memory with the square of n.

    Args:
        differences: ``[...]``, taken as one sample; NaNs are left out.
        level: of the interval.

    Returns:
        The interval in the unit of ``differences``. It is ``-inf`` to ``inf`` where no choice of signs is rare enough
        to exclude a shift, at 95% with fewer than six differences, and NaN where there are none.

    Raises:
        ReadingError: if a difference is infinite or no number, or the level is not between 0 and 1.
    """
    require_level(level, "A Hodges-Lehmann interval")
    read = finite_sample(differences, "A Hodges-Lehmann interval")
    n = len(read)
    if n == 0:
        return Interval(np.nan, np.nan, np.nan, 0)
    first, second = np.triu_indices(n)
    means = np.sort((read[first] + read[second]) / 2)
    n_outside = _outside(n, (1 - level) / 2)
    low, high = (means[n_outside - 1], means[-n_outside]) if n_outside else (-np.inf, np.inf)
    return Interval(float(np.median(means)), float(low), float(high), n)


def _rank_sum_probabilities(ranks: np.ndarray) -> np.ndarray:
    """Probability of every doubled sum ``[sum]`` of the ranks that carry a plus, each with probability one half."""
    doubled = np.rint(2 * ranks).astype(int)
    probability = np.zeros(doubled.sum() + 1)
    probability[0] = 1.0
    for rank in doubled:
        shifted = np.zeros_like(probability)
        shifted[rank:] = probability[: len(probability) - rank]
        probability = (probability + shifted) / 2
    return probability


def _outside(n: int, tail: float) -> int:
    """The largest k with ``P(W < k) <= tail`` for the rank sum of ``n`` untied differences: 0 where there is none."""
    if n > LARGEST_EXACT_N:
        spread = np.sqrt(n * (n + 1) * (2 * n + 1) / 24)
        return int(np.floor(n * (n + 1) / 4 + stats.norm.ppf(tail) * spread))
    at_most = np.cumsum(_rank_sum_probabilities(np.arange(1, n + 1)))[::2]
    return int(np.searchsorted(at_most, tail * (1 + 1e-12), side="right"))
