"""Reactance: whether a fact with a stronger prior resists its correction (paper 2F, finding 4).

The correlation over facts of logp(old) before the contradiction with the margin at its end, in each condition of how
far the old values were installed. Where a condition installs every fact to one height, no prior strength is left that
could go along with anything, and what is correlated is noise: ``prior_spread`` stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from mechmask.errors import ReadingError
from mechmask.measure.association import association
from mechmask.measure.contest import margin
from mechmask.measure.reading import require, require_same
from mechmask.measure.statistics import over_facts

_WHAT = "Reactance"


def prior_and_margin(
    before: Mapping[str, xr.Dataset], after: Mapping[str, xr.Dataset], level: float = 0.95
) -> xr.Dataset:
    """Strength of the prior and final margin of every fact in every condition, and how they go together.

    Args:
        before: by condition, the reading before the contradiction: ``logprob[fact, route]`` in nats and
            ``recalled[fact, route]``, of the prompts.
        after: the same at its end.
        level: of the intervals.

    Returns:
        ``prior[condition, fact]``, logp(old) before, and ``margin[condition, fact]`` at the end, in nats, over the
        contradicted facts; ``association`` of the two, ``[condition, correlation]``; ``mean_margin`` with its interval
        and ``prior_spread``, the standard deviation of the prior, in nats, and ``recalled``, the share of old values
        that were recalled before, ``[condition]``.

    Raises:
        ReadingError: if there is no condition, or readings are not of the same facts and values by the same score.
    """
    if not before or list(before) != list(after):
        raise ReadingError(f"{_WHAT} takes readings before and after of the same conditions. Give at least one.")
    every = {**{f"before, {n}": r for n, r in before.items()}, **{f"after, {n}": r for n, r in after.items()}}
    for name, reading in every.items():
        require(reading, f"{_WHAT} ({name})", variables=("logprob", "recalled", "role"), dims=("fact", "route"))
    require_same(every, _WHAT, dims=("fact", "route"), attributes=("score",), coordinates=("role", "value"))
    parts = [_condition(before[name], after[name], level) for name in before]
    conditions = xr.DataArray(list(before), dims="condition", name="condition")
    return xr.concat(parts, conditions, combine_attrs="override").assign_attrs(level=level)


def _condition(before: xr.Dataset, after: xr.Dataset, level: float) -> xr.Dataset:
    chosen = np.flatnonzero(before.role.values == "contradicted")
    prior = before.logprob.sel(route="old", drop=True).isel(fact=chosen).reset_coords(drop=True)
    final = margin(after.logprob).isel(fact=chosen).reset_coords(drop=True)
    mean = over_facts(final, level)
    recalled = before.recalled.sel(route="old", drop=True).isel(fact=chosen).reset_coords(drop=True)
    return xr.Dataset(
        {
            "prior": prior,
            "margin": final,
            **association(prior, final, level).data_vars,
            "mean_margin": mean.estimate,
            "mean_margin_low": mean.low,
            "mean_margin_high": mean.high,
            "prior_spread": prior.std("fact", ddof=1),
            "recalled": recalled.mean("fact"),
        }
    )
