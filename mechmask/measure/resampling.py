"""Whole clusters drawn with replacement, each draw as weights of the observations.

Facts that were trained together, and models of one draw, are not independent: what is drawn anew is the cluster, with
all it holds. As weights, a thousand draws are one array and no observation is copied.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from mechmask.errors import ReadingError

_WEIGHTS_AT_ONCE = 2_000_000  # numbers: 16 MB


def cluster_codes(cluster: ArrayLike, what: str) -> np.ndarray:
    """The cluster of every observation ``[observation]``, as whole numbers from 0.

    Raises:
        ReadingError: naming ``what``, if a label is missing.
    """
    codes, _ = pd.factorize(np.asarray(cluster).ravel(), sort=True)
    if (codes < 0).any():
        raise ReadingError(
            f"{what} needs the cluster of every observation, and {(codes < 0).sum()} have none. Name it."
        )
    return codes


def resampled(
    statistic: Callable[[np.ndarray], np.ndarray], codes: np.ndarray, n_resamples: int, seed: int
) -> np.ndarray:
    """A statistic of as many clusters, drawn with replacement, again and again.

    Args:
        statistic: of weights ``[resample, observation]``, counts of how often each was drawn; gives ``[resample]``.
        codes: cluster of every observation, ``[observation]``, from ``cluster_codes``.
        n_resamples: how often.
        seed: of the draws.

    Returns:
        The statistic of every draw in which it exists, ``[resample]``; the others are left out.
    """
    rng = np.random.default_rng(seed)
    n_clusters = int(codes.max()) + 1
    at_once = max(1, _WEIGHTS_AT_ONCE // len(codes))
    found = []
    for start in range(0, n_resamples, at_once):
        n = min(at_once, n_resamples - start)
        counts = rng.multinomial(n_clusters, np.full(n_clusters, 1 / n_clusters), n)
        found.append(statistic(counts[:, codes].astype(float)))
    draws = np.concatenate(found)
    return draws[~np.isnan(draws)]


def weight_below(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The weight of all that is smaller than each value, and half of what equals it: midranks, if weights are counts.

    Args:
        values: ``[observation]``.
        weights: ``[resample, observation]``.

    Returns:
        ``[resample, observation]``; for weights of one, the midrank less one half.
    """
    _, rank, tied = np.unique(values, return_inverse=True, return_counts=True)
    total = np.cumsum(weights[:, np.argsort(values, kind="stable")], axis=1)
    up_to = np.concatenate([np.zeros((len(weights), 1)), total[:, np.cumsum(tied) - 1]], axis=1)
    return ((up_to[:, :-1] + up_to[:, 1:]) / 2)[:, rank]
