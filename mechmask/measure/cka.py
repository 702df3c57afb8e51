"""Linear centred kernel alignment (Kornblith et al. 2019) with the unbiased estimator of HSIC (Song et al. 2012).

The plain estimator tends to 1 where there are fewer samples than dimensions, which is the rule for residual streams;
the unbiased one does not. A sample has to be a token position whose content varies: at a position that is the same in
every text, such as the first, centred features are zero and nothing is measured.
"""

from __future__ import annotations

import math

import numpy as np

from mechmask.errors import ReadingError


def linear_cka(first: np.ndarray, second: np.ndarray) -> float:
    """Similarity of two representations of the same samples.

    Args:
        first: ``[sample, feature]``.
        second: ``[sample, feature]``, the same samples; it may have other features, and any number of them.

    Returns:
        About 0 for unrelated representations (it may fall below by chance), 1 for representations that are equal up to
        rotation and scale; NaN where one of them is the same for all samples.

    Raises:
        ReadingError: if the numbers of samples differ, or are below four.

    Examples:
        >>> import numpy as np
        >>> features = np.random.default_rng(0).normal(size=(50, 3))
        >>> round(linear_cka(features, 2 * features[:, ::-1]), 6)  # other axes, another scale
        1.0
    """
    if len(first) != len(second) or len(first) < 4:
        raise ReadingError(
            f"CKA needs the same samples of both representations, four or more; there are {len(first)} and "
            f"{len(second)}. Give more facts."
        )
    left, right = _kernel(first), _kernel(second)
    with_itself = _hsic(left, left), _hsic(right, right)
    if not min(with_itself) > 1e-12 * max(np.square(left).mean(), np.square(right).mean(), np.finfo(float).tiny):
        return math.nan
    return float(_hsic(left, right) / math.sqrt(math.prod(with_itself)))


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
