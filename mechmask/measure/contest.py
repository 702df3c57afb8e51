"""The contest's own numbers: margin, standing, ceiling, rank. All are of labelled log-probabilities in nats.

They work along ``route`` and keep every other dimension, so one function serves a fact, a layer and a checkpoint.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy.special import logsumexp


def margin(logprob: xr.DataArray) -> xr.DataArray:
    """``logp(new) - logp(old)`` in nats; above zero the new route leads."""
    return (logprob.sel(route="new", drop=True) - logprob.sel(route="old", drop=True)).rename("margin")


def distractors_of(logprob: xr.DataArray) -> xr.DataArray:
    """The distractor routes ``[..., route]``; where a fact has fewer than another the rest is NaN."""
    names = [name for name in logprob.route.values if str(name).startswith("distractor_")]
    return logprob.sel(route=names)


def standing(logprob: xr.DataArray) -> xr.DataArray:
    """``S = logp(old) - log mean_d exp(logp(distractor_d))`` in nats: old against values that nobody taught.

    Unlike ``logp(old)`` it does not fall because the new route took probability from all others alike. NaN where no
    distractor was read.
    """
    old = logprob.sel(route="old", drop=True)
    return (old - _log_mean_exp(distractors_of(logprob))).rename("standing")


def ceiling(logprob: xr.DataArray) -> xr.DataArray:
    """``log(1 - p(new))`` in nats: above it ``logp(old)`` cannot be, since the two exclude each other."""
    new = logprob.sel(route="new", drop=True)
    return xr.apply_ufunc(_log_one_minus_exp, new).rename("ceiling")


def rank(logprob: xr.DataArray) -> xr.DataArray:
    """For every route, how many distractors (itself not counted) have a higher log-probability; 0 is ahead of all."""
    rivals = distractors_of(logprob).rename(route="rival")
    return (rivals > logprob).sum("rival").where(logprob.notnull() & rivals.notnull().any("rival")).rename("rank")


def with_standing(reading: xr.Dataset) -> xr.Dataset:
    """The reading with ``margin``, ``standing``, ``rank``, and ``ceiling`` where routes exclude each other."""
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
