"""Surprise of a correction, and what it has to do with how far new leads in the end (paper 2F, finding 2).

Surprise is ``-logp(new)`` when the contradiction begins. A value of more tokens is more surprising for that alone:
where magnitudes differ in length, as ``format`` does, readings by the score ``mean`` say it per token.
"""

from __future__ import annotations

import pandas as pd
import xarray as xr

from mechmask.measure.association import association
from mechmask.measure.reading import require
from mechmask.measure.statistics import over_facts, several_draws

MAGNITUDES = ("mild", "strong", "format")  # mildest first


def surprise_and_margin(erased: xr.Dataset, level: float = 0.95) -> xr.Dataset:
    """Surprise at the onset and margin at the end of every contradicted fact, and how they go together.

    Args:
        erased: what ``erase_index`` returned, or any study's ``results/erase``: ``surprise``, ``logprob_old`` and
            ``logprob_new`` ``[fact]`` or ``[state, fact]`` in nats, of the prompt. Where the facts are of several
            draws, ``fact`` has the coordinate ``seed``, and whole draws are resampled.
        level: of the intervals.

    Returns:
        What ``surprise_table`` returns, along ``state`` where there is one.

    Raises:
        ReadingError: if it is none of these.

    Examples:
        >>> import numpy as np, xarray as xr
        >>> numbers = {"surprise": [9.0, 6, 3], "logprob_old": [-4.0, -3, -3], "logprob_new": [-1.0, -1, -2]}
        >>> erased = xr.Dataset({name: ("fact", values) for name, values in numbers.items()}, {"fact": ["a", "b", "c"]})
        >>> found = surprise_and_margin(erased)
        >>> found.margin.values, float(found.estimate.sel(correlation="pearson").round(2))
        (array([3., 2., 1.]), 1.0)
    """
    require(erased, "The surprise", variables=("surprise", "logprob_old", "logprob_new"), dims=("fact",))
    margin = (erased.logprob_new - erased.logprob_old).rename("margin")
    return surprise_table(erased.surprise, margin, level).assign_attrs(score=str(erased.attrs.get("score", "")))


def surprise_table(surprise: xr.DataArray, margin: xr.DataArray, level: float = 0.95) -> xr.Dataset:
    """Surprise and final margin side by side, their correlations, and mean surprise by magnitude.

    Args:
        surprise: ``-logp(new)`` at the onset, ``[fact]`` or with one more dimension, in nats; ``magnitude`` beside it
            where the facts are graded.
        margin: by how much new leads old at the end, alike, in nats.
        level: of the intervals.

    Returns:
        ``surprise`` and ``margin``; ``association`` of the two, ``[..., correlation]``; where facts are graded,
        ``mean_surprise`` with ``mean_surprise_low`` and ``mean_surprise_high`` in nats and the count
        ``n_graded``, ``[..., grade]``, a magnitude each, mildest first.

    Raises:
        ReadingError: if the two are not of the same facts.
    """
    found = association(surprise, margin, level, cluster="seed" if several_draws(surprise) else None)
    labels = {name: surprise[name] for name in ("subject", "magnitude", "seed") if name in surprise.coords}
    both = {"surprise": surprise.reset_coords(drop=True), "margin": margin.reset_coords(drop=True)}
    result = xr.Dataset(both).assign_coords(labels).assign(found.data_vars)
    return result.assign(_by_magnitude(surprise, level)).assign_attrs(level=level)


def magnitude_overview(found: xr.Dataset) -> pd.DataFrame:
    """One row for each magnitude, in each state or condition where there are several; none where no fact is graded.

    Args:
        found: what ``surprise_and_margin`` returned.

    Returns:
        ``mean_surprise`` with its interval in nats, and ``n_graded`` facts.
    """
    columns = ["mean_surprise", "mean_surprise_low", "mean_surprise_high", "n_graded"]
    if "mean_surprise" not in found:
        return pd.DataFrame(columns=columns, index=pd.Index([], name="grade"))
    dims = [str(dim) for dim in found.mean_surprise.dims if dim != "grade"]
    return found[columns].to_dataframe(dim_order=[*dims, "grade"])[columns]


def _by_magnitude(surprise: xr.DataArray, level: float) -> dict[str, xr.DataArray]:
    """Means over the facts of each magnitude; nothing where no fact is graded."""
    grades = surprise.coords.get("magnitude")
    names = [name for name in MAGNITUDES if grades is not None and name in grades.values]
    if grades is None or not names:
        return {}
    values = surprise.drop_vars([name for name in surprise.coords if name not in (*surprise.dims, "seed")])
    means = [over_facts(values.where(xr.DataArray(grades.values == name, dims="fact")), level) for name in names]
    joined = xr.concat(means, xr.DataArray(names, dims="grade", name="grade"), combine_attrs="override")
    named = {"estimate": "mean_surprise", "low": "mean_surprise_low", "high": "mean_surprise_high", "n": "n_graded"}
    return {new: joined[old] for old, new in named.items()}
