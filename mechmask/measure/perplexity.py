"""What a change costs running text: perplexity and divergence per token, with intervals over sequences.

A mean per token over sequences of different lengths is a ratio of sums; its interval is that of the ratio estimator
(Cochran 1977, section 6.4) with Student's t, which is the usual one where all sequences are of one length. Sequences
cut from one text are taken as independent: of one long document that is generous.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.reading import require
from mechmask.measure.sample import numbers, require_equal_length, require_finite, require_level
from mechmask.measure.statistics import Interval

_WHAT = "A mean over tokens"


def per_token(means: ArrayLike, n_tokens: ArrayLike, level: float = 0.95) -> Interval:
    """Mean over all tokens of a text, with its interval over sequences.

    Args:
        means: mean over the tokens of each sequence, ``[sequence]``; NaNs are left out.
        n_tokens: their counts, ``[sequence]``.
        level: of the interval.

    Returns:
        The interval in the unit of ``means`` (nats, say); ``n`` counts sequences. NaN with fewer than two of them.

    Raises:
        ReadingError: if lengths differ, a value is infinite or no number, a count is not positive, or the level is not
            between 0 and 1.

    Examples:
        >>> print(per_token([1.0, 2.0, 3.0], [64, 64, 64]))
        2.00 [-0.48, 4.48] (n=3)
    """
    require_level(level, _WHAT)
    values, counts = numbers(means, _WHAT), numbers(n_tokens, _WHAT)
    require_equal_length({"means": values, "n_tokens": counts}, _WHAT)
    read = ~np.isnan(values)
    values, counts = values[read], counts[read]
    require_finite(values, _WHAT)
    if not (counts > 0).all():
        raise ReadingError(f"{_WHAT} needs at least one token in every sequence. Leave the empty ones out.")
    n = len(values)
    if not n:
        return Interval(np.nan, np.nan, np.nan, 0)
    mean = float((values * counts).sum() / counts.sum())
    if n == 1:
        return Interval(mean, np.nan, np.nan, 1)
    residuals = counts * (values - mean)
    error = np.sqrt(n / (n - 1) * (residuals**2).sum()) / counts.sum()
    half = float(stats.t.ppf(0.5 + level / 2, n - 1) * error)
    return Interval(mean, mean - half, mean + half, n)


def perplexity(reading: xr.Dataset, level: float = 0.95) -> Interval:
    """Perplexity of a text: exp of its mean negative log-probability per token.

    Args:
        reading: of ``read_text``: ``nll[sequence]`` in nats and the count ``n_tokens[sequence]``.
        level: of the interval.

    Returns:
        The perplexity, without unit, with the interval of the mean carried over by exp; ``n`` counts sequences.

    Raises:
        ReadingError: if the reading lacks what is needed, holds several states, or is not finite.
    """
    require(reading, "Perplexity", variables=("nll", "n_tokens"), dims=("sequence",))
    if reading.nll.dims != ("sequence",):
        raise ReadingError(
            f"Perplexity is of one reading of a text; this one has {', '.join(map(str, reading.nll.dims))}. Select one "
            "state."
        )
    return _exp(per_token(reading.nll, reading.n_tokens, level))


def text_drift(reading: xr.Dataset, level: float = 0.95) -> xr.Dataset:
    """What a change did to the prediction of a text, as one table.

    Args:
        reading: of ``read_divergence``: ``kl[sequence]`` and ``nll[state, sequence]`` in nats, ``agreement[sequence]``
            and the count ``n_tokens[sequence]``.
        level: of all intervals.

    Returns:
        ``estimate``, ``low``, ``high`` and the count ``n`` of sequences over ``metric``: ``kl`` (nats per token, before
        against after), ``perplexity_before``, ``perplexity_after``, ``perplexity_ratio`` (after over before, paired by
        sequence) and ``agreement`` (share of tokens with the same most probable one).

    Raises:
        ReadingError: if the reading lacks what is needed or is not finite, or the level is not between 0 and 1.
    """
    variables = ("kl", "nll", "agreement", "n_tokens")
    require(reading, "A table of drift", variables=variables, dims=("state", "sequence"))
    before, after = (reading.nll.sel(state=state).values for state in ("before", "after"))
    n = reading.n_tokens.values
    rows = {
        "kl": per_token(reading.kl, n, level),
        "perplexity_before": _exp(per_token(before, n, level)),
        "perplexity_after": _exp(per_token(after, n, level)),
        "perplexity_ratio": _exp(per_token(after - before, n, level)),
        "agreement": per_token(reading.agreement, n, level),
    }
    fields = {name: ("metric", [getattr(row, name) for row in rows.values()]) for name in Interval._fields}
    return xr.Dataset(fields, {"metric": list(rows)}).assign_attrs(level=level, unit="sequences")


def _exp(nats: Interval) -> Interval:
    estimate, low, high = np.exp(nats[:3]).tolist()
    return Interval(estimate, low, high, nats.n)
