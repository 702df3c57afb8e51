"""S of the editing field, the harmonic mean of three shares, with an interval in closed form.

1/S is the mean of the three reciprocals, so its ends are recovered from those of each share (Zou and Donner 2008,
"Construction of confidence limits about effect measures", whose intervals of sums are these), with the correlation of
the shares over records. No draws are made; each share brings an interval that holds at few records and where all
succeed, and so does S, which stays between 0 and 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from mechmask.measure.record_mean import record_means
from mechmask.measure.record_share import share_over_records
from mechmask.measure.resampling import cluster_codes
from mechmask.measure.statistics import Interval, several_draws

_WHAT = "A harmonic mean of shares"


def harmonic_mean_of_shares(scores: Sequence[xr.DataArray], level: float = 0.95) -> Interval:
    """Harmonic mean of several shares over the same records; 0 where one of them is.

    Shares that go against each other over records count as unrelated, and where a share is the same in all records, so
    that nothing tells how it goes with the others, as one with them: the interval is then too wide, not too narrow.

    Measured coverage at 95% over 400 samples of 10, 30 and 100 records with one, two and ten prompts, of shares from
    .05 to .999 and over records unrelated or related: 94% to 100%.

    Args:
        scores: shares ``[fact]`` or ``[fact, prompt]`` between 0 and 1, NaN where a fact is not asked, each with its
            own prompts; where ``seed[fact]`` says that facts are of several draws, each draw is one observation.
        level: of the interval.

    Returns:
        Estimate and interval, shares; ``n`` counts the facts of the share that has fewest. NaN where one has none.

    Raises:
        ReadingError: if there is no dimension ``fact``, a value is not between 0 and 1, or the level is not.

    Examples:
        >>> import xarray as xr
        >>> all_of, half = (xr.DataArray(of, dims="fact") for of in ([1.0] * 8, [1.0, 0.0] * 4))
        >>> print(harmonic_mean_of_shares([all_of, half]))
        0.67 [0.25, 0.91] (n=8)
    """
    shares = [share_over_records(score, level) for score in scores]
    n = min(share.n for share in shares)
    if not n:
        return Interval(np.nan, np.nan, np.nan, 0)
    estimate, low, high, _ = np.array(shares).T
    related = _correlations(scores)
    return Interval(
        _harmonic(estimate), _harmonic_end(estimate, low, related), _harmonic_end(estimate, high, related), n
    )


def _harmonic(shares: np.ndarray) -> float:
    return float(len(shares) / (1 / shares).sum()) if (shares > 0).all() else 0.0


def _harmonic_end(estimate: np.ndarray, end: np.ndarray, related: np.ndarray) -> float:
    """The end of S: the reciprocals' distances from their ends, added as correlated errors are."""
    if not (end > 0).all() or not (estimate > 0).all():  # a share of 0 has no reciprocal, so all go to their ends
        return _harmonic(end)
    distance = 1 / end - 1 / estimate
    total = np.sqrt(distance @ related @ distance)
    return float(len(end) / ((1 / estimate).sum() + np.sign(distance.sum()) * total))


def _correlations(scores: Sequence[xr.DataArray]) -> np.ndarray:
    """How the shares go together over records, or draws ``[score, score]``, between 0 and 1."""
    errors = np.array([_errors(score) for score in scores])
    with np.errstate(invalid="ignore", divide="ignore"):
        size = np.sqrt((errors**2).sum(1))
        related = errors @ errors.T / np.outer(size, size)
    related = np.nan_to_num(related, nan=1.0).clip(0, 1)
    np.fill_diagonal(related, 1)
    return related


def _errors(score: xr.DataArray) -> np.ndarray:
    """What each record, or draw, adds to the error of the mean over records, up to a factor ``[unit]``."""
    means = record_means(score, _WHAT)
    asked = ~np.isnan(means)
    errors = np.zeros(len(means))
    errors[asked] = (means - np.nanmean(means))[asked].round(12)  # of equal shares no remainder that would relate them
    if not several_draws(score):
        return errors
    return np.bincount(cluster_codes(score["seed"].values, _WHAT), weights=errors)
