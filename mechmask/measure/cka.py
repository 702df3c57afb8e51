"""Linear centred kernel alignment (Kornblith et al. 2019) with the unbiased estimator of HSIC (Song et al. 2012).

The plain estimator tends to 1 where there are fewer samples than dimensions, which is the rule for residual streams;
the unbiased one does not. A sample has to be a token position that matters: at a position that every text shares, such
as the first, centred features are zero and nothing is measured.
"""

from __future__ import annotations

import numpy as np

from mechmask.errors import ReadingError


def linear_cka(first: np.ndarray, second: np.ndarray) -> float:
    """Similarity of two representations of the same samples.

    Args:
        first: ``[sample, feature]``.
        second: ``[sample, feature]``, the same samples; the features may be others, and as many as there are.

    Returns:
        About 0 for unrelated representations (below it by chance), 1 for one and the same up to rotation and scale;
        NaN where one of them is the same for all samples.

    Raises:
        ReadingError: if the samples are not the same number, or fewer than four.
    """
    if len(first) != len(second) or len(first) < 4:
        raise ReadingError(
            f"CKA needs the same four or more samples of both representations; there are {len(first)} and "
            f"{len(second)}. Give more facts."
        )
    left, right = _kernel(first), _kernel(second)
    own = _hsic(left, left), _hsic(right, right)
    if not min(own) > 1e-12 * max(np.square(left).mean(), np.square(right).mean(), np.finfo(float).tiny):
        return float("nan")
    return float(_hsic(left, right) / np.sqrt(own[0] * own[1]))


def _kernel(features: np.ndarray) -> np.ndarray:
    """Inner products of centred samples; the unbiased estimator does not look at the diagonal."""
    centred = np.asarray(features, dtype=float)
    centred = centred - centred.mean(0)
    kernel = centred @ centred.T
    np.fill_diagonal(kernel, 0.0)
    return kernel


def _hsic(left: np.ndarray, right: np.ndarray) -> float:
    """Song et al. 2012, equation 5, for kernels with a zero diagonal."""
    n = len(left)
    trace = float((left * right).sum())
    sums = left.sum() * right.sum() / ((n - 1) * (n - 2))
    cross = 2 * float(left.sum(0) @ right.sum(0)) / (n - 2)
    return (trace + sums - cross) / (n * (n - 3))
