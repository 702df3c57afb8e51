"""Statistics of the old value: numbers that say how much of it a model still holds, larger where it holds more.

Each reduces ``route`` and keeps every other dimension. Which of them tells a model that knew a fact from one that never
did is a question for calibration (``measure/calibration.py``), not of taste; a new one is a function and a line here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import xarray as xr
from scipy.special import expit, logsumexp

from mechmask.errors import ReadingError, known_names
from mechmask.measure.contest import ceiling, distractors_of, rank, standing


def logprob_of_old(logprob: xr.DataArray) -> xr.DataArray:
    """``logp(old)``, of whose fall the paper's index is made (nats)."""
    return logprob.sel(route="old", drop=True)


def log_odds(logprob: xr.DataArray) -> xr.DataArray:
    """``logp(old) - log(1 - p(new))``: the probability of old among everything that is not new (nats).

    Where new is so sure that ``1 - p(new)`` is lost in rounding, the routes that were read bound it from below.
    """
    others = logprob.sel(route=[route for route in logprob.route.values if route != "new"])
    read = xr.apply_ufunc(_log_sum, others, input_core_dims=[["route"]])
    not_new = xr.apply_ufunc(np.maximum, ceiling(logprob), read)
    return logprob_of_old(logprob) - not_new


def geometric_standing(logprob: xr.DataArray) -> xr.DataArray:
    """``logp(old)`` less the mean of the distractors' log-probabilities (nats)."""
    return logprob_of_old(logprob) - distractors_of(logprob).mean("route")


def median_standing(logprob: xr.DataArray) -> xr.DataArray:
    """``logp(old)`` less the median of the distractors' log-probabilities (nats)."""
    return logprob_of_old(logprob) - distractors_of(logprob).median("route")


def z_score(logprob: xr.DataArray) -> xr.DataArray:
    """Geometric standing in standard deviations of the distractors; NaN with fewer than two."""
    rivals = distractors_of(logprob)
    several = rivals.notnull().sum("route") > 1
    spread = rivals.where(several).std("route", ddof=1)
    return geometric_standing(logprob) / spread.where(spread > 0)


def places_ahead(logprob: xr.DataArray) -> xr.DataArray:
    """Minus the rank of old among its distractors, in places; 0 is ahead of all."""
    return -rank(logprob).sel(route="old", drop=True)


def truth_ratio(logprob: xr.DataArray) -> xr.DataArray:
    """``p(old) / (p(old) + mean_d p(distractor_d))``, a share (Maini et al. 2024, as Dorna et al. 2025 aggregate it).

    It orders facts as standing does and saturates at both ends, so that means over facts differ.
    """
    return xr.apply_ufunc(expit, standing(logprob))


STATISTICS: dict[str, Callable[[xr.DataArray], xr.DataArray]] = {
    "logprob": logprob_of_old,
    "log_odds": log_odds,
    "standing": standing,
    "geometric_standing": geometric_standing,
    "median_standing": median_standing,
    "z_score": z_score,
    "rank": places_ahead,
    "truth_ratio": truth_ratio,
}
"""Every statistic by its name in results and tables."""

StatisticName = Literal["logprob", "log_odds", "standing", "geometric_standing", "median_standing"]
IN_NATS: tuple[StatisticName, ...] = get_args(StatisticName)
"""Those whose differences are nats, of which a trace can be made."""


def statistic_of_old(logprob: xr.DataArray, statistic: str) -> xr.DataArray:
    """A statistic of the old value, averaged over phrasings where there are several.

    Args:
        logprob: ``[fact, route]`` or ``[fact, phrasing, route]`` in nats; further dimensions are kept.
        statistic: a name in ``STATISTICS``.

    Returns:
        ``[fact]``; NaN where what it needs was not read.

    Raises:
        ReadingError: if there is no such statistic, or it needs distractors and none was read.
    """
    if statistic not in STATISTICS:
        raise ReadingError(f"No statistic is called {statistic!r}. {known_names(statistic, STATISTICS)}")
    if statistic not in ("logprob", "log_odds") and not distractors_of(logprob).sizes["route"]:
        raise ReadingError(
            f"The statistic {statistic!r} holds old against distractors, and none was read. Give the facts "
            "distractors, or take log_odds."
        )
    value = STATISTICS[statistic](logprob)
    value = value.mean("phrasing") if "phrasing" in value.dims else value
    return value.rename(statistic)


def _log_sum(logprob: np.ndarray) -> np.ndarray:
    """Log of the summed probabilities of the routes that were read, at most 0."""
    present = np.where(np.isnan(logprob), -np.inf, logprob)
    total = np.asarray(logsumexp(present, axis=-1), dtype=float)
    return np.minimum(total, 0.0)
