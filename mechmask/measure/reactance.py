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
        ``prior[condition, fact]``, logp(old) before, ``surprise[condition, fact]``, -logp(new) before, and
        ``margin[condition, fact]`` at the end, in nats, over the contradicted facts; ``association`` of prior and
        margin, ``[condition, correlation]``; ``mean_margin`` with its interval and ``prior_spread``, the standard
        deviation of the prior, in nats, and ``recalled``, the share of old values that were recalled before,
        ``[condition]``.

    Raises:
        ReadingError: if there is no condition, or readings are not of the same facts and values by the same score.
    """
    if not before or list(before) != list(after):
        raise ReadingError(f"{_WHAT} takes readings before and after of the same conditions. Give at least one.")
    every = {**{f"before, {n}": r for n, r in before.items()}, **{f"after, {n}": r for n, r in after.items()}}
    for name, reading in every.items():
        require(reading, f"{_WHAT} ({name})", variables=("logprob", "recalled", "role"), dims=("fact", "route"))
    require_same(every, _WHAT, dims=("fact", "route"), attributes=("score",), coordinates=("role", "value"))
    conditions = xr.DataArray(list(before), dims="condition", name="condition")
    table = xr.concat([_condition(before[name], after[name]) for name in before], conditions)
    mean = over_facts(table.margin, level).reset_coords(drop=True)
    means = {"mean_margin": mean.estimate, "mean_margin_low": mean.low, "mean_margin_high": mean.high}
    spread, recalled = table.prior.std("fact", ddof=1), table.recalled.mean("fact")
    found = association(table.prior, table.margin, level)
    result = table.assign(found.data_vars).assign(means).assign(prior_spread=spread, recalled=recalled)
    return result.assign_attrs(level=level)


def _condition(before: xr.Dataset, after: xr.Dataset) -> xr.Dataset:
    """The numbers of every contradicted fact in one condition."""
    numbers = {
        "prior": before.logprob.sel(route="old"),
        "surprise": -before.logprob.sel(route="new"),
        "margin": margin(after.logprob),
        "recalled": before.recalled.sel(route="old").astype(float),
    }
    table = xr.Dataset({name: values.reset_coords(drop=True) for name, values in numbers.items()})
    labels = {name: before[name] for name in ("subject", "magnitude") if name in before.coords}
    return table.assign_coords(labels).isel(fact=np.flatnonzero(before.role.values == "contradicted"))
