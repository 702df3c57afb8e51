"""Surprise of a correction, and what it has to do with how far new leads in the end (paper 2F, finding 2).

Surprise is ``-logp(new)`` when the contradiction begins. A value of more tokens is more surprising for that alone:
where magnitudes differ in length, as ``format`` does, readings by the score ``mean`` say it per token.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from mechmask.errors import ReadingError
from mechmask.measure.association import association
from mechmask.measure.contest import margin
from mechmask.measure.reading import require, require_same
from mechmask.measure.statistics import over_facts

_WHAT = "The surprise"


def onset_surprise(before: xr.Dataset) -> xr.DataArray:
    """``-logp(new)`` of every contradicted fact by its prompt.

    Args:
        before: reading when the contradiction begins, ``logprob[fact, route]`` or ``[fact, phrasing, route]`` in nats.

    Returns:
        ``[fact]`` in nats, with ``magnitude`` and, where the facts are of several draws, ``seed`` beside it.

    Raises:
        ReadingError: if the reading lacks the route new, or no fact is contradicted.
    """
    surprise = -_contested(before).logprob.sel(route="new", drop=True)
    return _labelled(surprise).rename("surprise")


def surprise_by_magnitude(surprise: xr.DataArray, level: float = 0.95) -> xr.Dataset:
    """The mean surprise of each magnitude.

    Args:
        surprise: ``onset_surprise``, ``[fact]`` in nats with ``magnitude``.
        level: of the intervals.

    Returns:
        ``estimate``, ``low`` and ``high`` in nats and the count ``n``, ``[magnitude]``, mildest first.

    Raises:
        ReadingError: if no fact has a magnitude.
    """
    names = [name for name in ("mild", "strong", "format") if name in surprise["magnitude"].values]
    if not names:
        raise ReadingError("No fact has a magnitude, so that surprise cannot be told by it. Grade the facts.")
    means = [
        over_facts(surprise.isel(fact=np.flatnonzero(surprise["magnitude"].values == name)), level) for name in names
    ]
    return xr.concat(means, xr.DataArray(names, dims="magnitude", name="magnitude"), combine_attrs="override")


def surprise_and_margin(before: xr.Dataset, after: xr.Dataset, level: float = 0.95) -> xr.Dataset:
    """Surprise at the onset and margin at the end, and how they go together.

    Args:
        before: reading when the contradiction begins, ``logprob[fact, route]`` or ``[fact, phrasing, route]`` in nats.
        after: the same at its end. Where facts are of several draws, ``fact`` has the coordinate ``seed``.
        level: of the intervals.

    Returns:
        ``surprise[fact]`` and ``margin[fact]`` in nats; ``association`` of the two over all facts ``[correlation]``,
        whole draws resampled where there are several; then also each draw's own, ``draw_estimate``, ``draw_low``,
        ``draw_high``, ``draw_p_value`` and ``draw_n`` ``[draw, correlation]``.

    Raises:
        ReadingError: if the readings are not of the same facts and values by the same score, or none is contradicted.
    """
    require_same(
        {"before": before, "after": after},
        _WHAT,
        dims=("fact",),
        attributes=("score",),
        coordinates=("role", "value"),
    )
    surprise, final = onset_surprise(before), _labelled(margin(_contested(after).logprob))
    several = "seed" in surprise.coords
    found = association(surprise, final, level, cluster="seed" if several else None)
    result = xr.Dataset({"surprise": surprise, "margin": final.reset_coords(drop=True)}).assign(found.data_vars)
    if several:
        result = result.assign(_by_draw(surprise, final, level).data_vars)
    return result.assign_attrs(level=level, score=str(before.attrs.get("score", "")))


def _by_draw(surprise: xr.DataArray, final: xr.DataArray, level: float) -> xr.Dataset:
    seeds = list(dict.fromkeys(surprise["seed"].values.tolist()))
    parts = []
    for seed in seeds:
        of_draw = np.flatnonzero(surprise["seed"].values == seed)
        parts.append(association(surprise.isel(fact=of_draw), final.isel(fact=of_draw), level))
    joined = xr.concat(parts, xr.DataArray(seeds, dims="draw", name="draw"), combine_attrs="override")
    kept = ["estimate", "low", "high", "p_value", "n"]
    return xr.Dataset({f"draw_{name}": joined[name] for name in kept})


def _contested(reading: xr.Dataset) -> xr.Dataset:
    """The contradicted facts by their prompts."""
    require(reading, _WHAT, variables=("logprob", "role"), dims=("fact", "route"))
    missing = {"old", "new"} - set(reading.route.values.tolist())
    if missing:
        raise ReadingError(f"{_WHAT} needs the route {', '.join(sorted(missing))}, which was not read. Read both.")
    chosen = reading.isel(fact=np.flatnonzero(reading.role.values == "contradicted"))
    if not chosen.sizes["fact"]:
        raise ReadingError(f"{_WHAT} is of contradicted facts, and there is none. Give facts that role.")
    return chosen.sel(phrasing=0, drop=True) if "phrasing" in chosen.dims else chosen


def _labelled(values: xr.DataArray) -> xr.DataArray:
    """Without the coordinates in which two readings may differ."""
    return values.drop_vars([name for name in values.coords if name not in ("fact", "magnitude", "seed", "subject")])
