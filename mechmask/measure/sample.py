"""What a statistic takes: numbers without NaN, pairs without NaN, a level. Refused is what cannot be one of these.

A NaN is an observation that is missing and is left out. An infinity is a log-probability of zero: it has a rank, but no
mean.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from mechmask.errors import ReadingError


def numbers(values: ArrayLike, what: str) -> np.ndarray:
    """``values`` as one flat array of floats, NaNs and infinities still in it.

    Raises:
        ReadingError: naming ``what``, if they are not numbers.
    """
    try:
        return np.asarray(values, dtype=float).ravel()
    except (TypeError, ValueError) as error:
        raise ReadingError(f"{what} takes numbers ({error}). Give one array of floats.") from error


def sample(values: ArrayLike, what: str) -> np.ndarray:
    """``values`` as one flat sample without its NaNs.

    Raises:
        ReadingError: naming ``what``, if they are not numbers.
    """
    every = numbers(values, what)
    return every[~np.isnan(every)]


def finite_sample(values: ArrayLike, what: str) -> np.ndarray:
    """The same for a statistic that averages.

    Raises:
        ReadingError: naming ``what``, if they are not numbers or one is infinite.
    """
    read = sample(values, what)
    require_finite(read, what)
    return read


def booleans(values: ArrayLike, what: str) -> np.ndarray:
    """``values`` as one flat array of truth values.

    Raises:
        ReadingError: naming ``what``, if they are anything else; texts would all be true.
    """
    every = np.asarray(values).ravel()
    if every.size == 0:
        return every.astype(bool)
    if every.dtype.kind not in "biuf" or not np.isin(every, (0, 1)).all():
        raise ReadingError(f"{what} needs True or False for every observation. Compare with what makes it true.")
    return every.astype(bool)


def require_finite(values: np.ndarray, what: str) -> None:
    """Refuse what has no mean.

    Raises:
        ReadingError: naming ``what`` and the number of infinite values.
    """
    if n_infinite := int(np.isinf(values).sum()):
        raise ReadingError(
            f"{what} averages, and {n_infinite} of {values.size} values are infinite. Leave them out, or take a "
            "statistic of ranks."
        )


def require_equal_length(arrays: dict[str, np.ndarray], what: str) -> None:
    """Refuse arrays that cannot be set beside each other, observation by observation.

    Raises:
        ReadingError: naming ``what`` and the lengths.
    """
    if len({len(array) for array in arrays.values()}) > 1:
        lengths = ", ".join(f"{len(array)} in {name}" for name, array in arrays.items())
        raise ReadingError(f"{what} needs one value of each for every observation, not {lengths}. Give them in order.")


def require_level(level: float, what: str, lowest: float = 0.0) -> None:
    """Refuse a level that no interval has.

    Raises:
        ReadingError: naming ``what``, if ``level`` is not between ``lowest`` and 1.
    """
    if not lowest < level < 1:
        raise ReadingError(f"{what} has no level {level}. Give one between {lowest:g} and 1, such as 0.95.")
