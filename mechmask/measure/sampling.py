"""Best of k: the probability that at least one of k samples says a value, computed and not drawn.

A sample says a value if it begins with the value's tokens. Ancestral sampling at temperature 1 from the whole
distribution draws those with the probability that teacher forcing reads, so that ``1 - (1 - p)^k`` is exact for values
of one token and of more. Another temperature, or a distribution that is cut off (top-k, top-p), is not covered.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from mechmask.errors import ReadingError
from mechmask.measure.reading import require

_WHAT = "Best of k"


def best_of_k(reading: xr.Dataset, k: int | Sequence[int], route: str = "old") -> xr.DataArray:
    """The probability that at least one of k samples at temperature 1 begins with a value.

    Args:
        reading: ``logprob[fact, route]`` in nats by the score ``sequence``; further dimensions, such as ``phrasing``,
            stay.
        k: how many samples, or several such numbers.
        route: whose value.

    Returns:
        ``[fact, k]``, probabilities (shares of all sets of k samples); NaN where the fact has no such route.

    Raises:
        ReadingError: if the reading is by another score, which is no probability of the whole value, the route was not
            read, or k is not a count.

    Examples:
        >>> import numpy as np, xarray as xr
        >>> logprob = xr.DataArray([[np.log(0.1)]], {"fact": ["mass"], "route": ["old"]}, ("fact", "route"))
        >>> best_of_k(xr.Dataset({"logprob": logprob}, attrs={"score": "sequence"}), [1, 10]).values.round(3)
        array([[0.1  , 0.651]])
    """
    require(reading, _WHAT, variables=("logprob",), dims=("fact", "route"))
    if reading.attrs.get("score") != "sequence":
        raise ReadingError(
            f"{_WHAT} takes the probability of a whole value; the score {reading.attrs.get('score', 'unknown')} is "
            "none. Read with score='sequence'."
        )
    if route not in reading.route.values:
        raise ReadingError(f"{_WHAT}: the route {route!r} was not read. There are {_listed(reading.route.values)}.")
    counts = np.atleast_1d(np.asarray(k))
    if counts.dtype.kind not in "iu" or (counts < 1).any() or counts.ndim > 1:
        raise ReadingError(f"k={k!r} is no number of samples. Give a whole number from 1 on, or several.")
    one = np.exp(np.minimum(reading.logprob.sel(route=route, drop=True), 0.0))
    with np.errstate(divide="ignore"):
        none_of_one = np.log1p(-one)  # -inf where the value is certain
    n_samples = xr.DataArray(counts, {"k": counts}, "k")
    return (-np.expm1(n_samples * none_of_one)).transpose(..., "k").rename("best_of_k")


def _listed(values: np.ndarray) -> str:
    return ", ".join(map(str, values))
