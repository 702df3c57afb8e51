"""The numbers of a contest: margin, standing, ceiling, rank, all from labelled log-probabilities in nats.

They reduce ``route`` and keep every other dimension, so one function serves a fact, a layer and a checkpoint: wherever
``[fact, route]`` stands, further dimensions may follow.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy.special import logsumexp


def margin(logprob: xr.DataArray) -> xr.DataArray:
    """``logp(new) - logp(old)``; above zero the new route leads old.

    Args:
        logprob: ``[fact, route]`` in nats.

    Returns:
        ``[fact]`` in nats.

    Examples:
        >>> import xarray as xr
        >>> logprob = xr.DataArray([[-4.0, -0.5]], dims=("fact", "route"), coords={"route": ["old", "new"]})
        >>> margin(logprob).values
        array([3.5])
    """
    return (logprob.sel(route="new", drop=True) - logprob.sel(route="old", drop=True)).rename("margin")


def distractors_of(logprob: xr.DataArray) -> xr.DataArray:
    """The distractor routes.

    Args:
        logprob: ``[fact, route]`` in nats.

    Returns:
        ``[fact, route]`` in nats, distractors only; NaN where a fact has fewer than others.
    """
    names = [name for name in logprob.route.values if str(name).startswith("distractor_")]
    return logprob.sel(route=names)


def standing(logprob: xr.DataArray) -> xr.DataArray:
    """``S = logp(old) - log mean_d exp(logp(distractor_d))``: old against values that were never taught.

    Unlike ``logp(old)`` it does not fall because the new route took probability from all others alike.

    Args:
        logprob: ``[fact, route]`` in nats.

    Returns:
        ``[fact]`` in nats, NaN where no distractor was read.
    """
    old = logprob.sel(route="old", drop=True)
    return (old - _log_mean_exp(distractors_of(logprob))).rename("standing")


def ceiling(logprob: xr.DataArray) -> xr.DataArray:
    """``log(1 - p(new))``: ``logp(old)`` cannot exceed it, since the two exclude each other.

    Args:
        logprob: ``[fact, route]`` in nats.

    Returns:
        ``[fact]`` in nats.
    """
    new = logprob.sel(route="new", drop=True)
    return xr.apply_ufunc(_log_one_minus_exp, new).rename("ceiling")


def rank(logprob: xr.DataArray) -> xr.DataArray:
    """For every route, how many other routes among the distractors have a higher log-probability; 0 is ahead of all.

    Args:
        logprob: ``[fact, route]`` in nats.

    Returns:
        ``[fact, route]``, counts; NaN where the route or every distractor was not read.
    """
    rivals = distractors_of(logprob).rename(route="rival")
    return (rivals > logprob).sum("rival").where(logprob.notnull() & rivals.notnull().any("rival")).rename("rank")


def with_standing(reading: xr.Dataset) -> xr.Dataset:
    """The reading with the numbers of its contest.

    Args:
        reading: ``logprob[fact, route]`` in nats.

    Returns:
        The same with ``margin[fact]`` and ``standing[fact]`` in nats, ``rank[fact, route]``, and ``ceiling[fact]`` in
        nats where routes exclude each other, which those of the score ``mean`` do not.
    """
    made = [margin(reading.logprob), standing(reading.logprob), rank(reading.logprob)]
    if reading.attrs.get("score") != "mean":
        made.append(ceiling(reading.logprob))
    return reading.assign({str(array.name): array for array in made})


def _log_mean_exp(logprob: xr.DataArray) -> xr.DataArray:
    return xr.apply_ufunc(_nan_log_mean_exp, logprob, input_core_dims=[["route"]])


def _nan_log_mean_exp(values: np.ndarray) -> np.ndarray:
    present = ~np.isnan(values)
    count = present.sum(-1)
    if not values.shape[-1]:
        return np.full(values.shape[:-1], np.nan)
    total = logsumexp(np.where(present, values, -np.inf), axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(count > 0, total - np.log(count), np.nan)


def _log_one_minus_exp(logprob: np.ndarray) -> np.ndarray:
    """Stable on both sides of log 2 (Maechler 2012)."""
    safe = np.minimum(logprob, 0.0)
    with np.errstate(divide="ignore"):
        return np.where(safe > -np.log(2), np.log(-np.expm1(safe)), np.log1p(-np.exp(safe)))
