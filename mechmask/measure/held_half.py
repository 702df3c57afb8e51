"""Relearn half, test the other half (Deeb and Roger 2024, RTT): does a value come back that nobody taught again?

The old values of one half of the facts are taught again, and the other half is only read. What training on any such
facts would move is taken off, fact by fact: the same reading after as many other facts were taught to the same model,
or the same half taught to a model that never knew them.
"""

from __future__ import annotations

from collections.abc import Mapping

import xarray as xr

from mechmask.errors import ReadingError
from mechmask.measure.reading import require, require_same
from mechmask.measure.statistics import over_facts

QUANTITIES = ("logprob", "standing", "recalled")
_WHAT = "The relearned half"


def gain_of_held_half(before: xr.Dataset, after: xr.Dataset, taught_phrasings: int = 1) -> xr.DataArray:
    """What a training did to old values that it did not show.

    Args:
        before: reading before it, ``logprob[fact, phrasing, route]`` and ``standing[fact, phrasing]`` in nats and
            ``recalled[fact, phrasing, route]``.
        after: the same after it.
        taught_phrasings: how many phrasings of a fact any training shows; the others are held out.

    Returns:
        ``[quantity, asked, fact]``, after less before: log-probability and standing of old in nats and whether it is
        recalled (a share of phrasings), asked by the prompt (``prompt``) and in the mean of the phrasings that no
        training shows (``held_out``, NaN where there are none).

    Raises:
        ReadingError: if the readings are not of the same facts, values and phrasings by the same score.
    """
    for name, reading in (("before", before), ("after", after)):
        variables = ("logprob", "standing", "recalled")
        require(reading, f"{_WHAT} ({name})", variables=variables, dims=("fact", "phrasing", "route"))
    require_same(
        {"before": before, "after": after},
        _WHAT,
        dims=("fact", "phrasing", "route"),
        attributes=("score",),
        coordinates=("role", "value"),
    )
    changes = _of_old(after) - _of_old(before)
    held_out = changes.sel(phrasing=changes.phrasing >= taught_phrasings).mean("phrasing")
    asked = xr.DataArray(["prompt", "held_out"], dims="asked", name="asked")
    return xr.concat([changes.sel(phrasing=0, drop=True), held_out], asked).rename("gain")


def excess(gain: xr.DataArray, references: Mapping[str, xr.DataArray], level: float = 0.95) -> xr.Dataset:
    """By how much more old values came back than under each reference, paired by fact.

    Args:
        gain: ``[quantity, asked, fact]`` where half of the old values were taught again.
        references: the same of the same facts where something else was, by name.
        level: of the intervals over facts.

    Returns:
        ``excess[reference, quantity, asked, fact]`` in nats (a share for ``recalled``); ``estimate``, ``low``, ``high``
        and the count ``n`` over facts. Where ``recalled`` changed alike on all of them, Student's interval would have
        no width: then as many facts as 0 of n leaves room for may differ as far as a share can.

    Raises:
        ReadingError: if a reference is not of the same facts, or there is none.
    """
    if not references:
        raise ReadingError("There is no reference to hold the relearned half against. Give at least one.")
    for name, reference in references.items():
        if reference.fact.values.tolist() != gain.fact.values.tolist():
            raise ReadingError(f"The reference {name!r} is not of the facts that were held out. Read the same facts.")
    names = xr.DataArray(list(references), dims="reference", name="reference")
    difference = xr.concat([gain - reference for reference in references.values()], names).rename("excess")
    return _with_room(over_facts(difference, level), difference, level).assign(excess=difference)


def _with_room(means: xr.Dataset, difference: xr.DataArray, level: float) -> xr.Dataset:
    """The means with intervals of shares widened where all facts agree (Clopper and Pearson 1934, for 0 of n)."""
    if not difference.sizes["fact"]:  # none of the other half can be compared
        return means
    alike = (difference.quantity == "recalled") & (difference.max("fact") == difference.min("fact"))
    may_differ = 1 - ((1 - level) / 2) ** (1 / means.n.where(means.n > 0))
    low, high = (means.estimate + may_differ * (end - means.estimate) for end in (-1, 1))
    return means.assign(low=means.low.where(~alike, low), high=means.high.where(~alike, high))


def _of_old(reading: xr.Dataset) -> xr.DataArray:
    """What is read of old ``[quantity, fact, phrasing]``, without coordinates beside the dimensions."""
    old = reading.sel(route="old", drop=True)
    logprob = old.logprob
    parts = [logprob, old.standing, old.recalled.astype(float).where(logprob.notnull())]
    quantity = xr.DataArray(list(QUANTITIES), dims="quantity", name="quantity")
    return xr.concat([part.reset_coords(drop=True) for part in parts], quantity)  # pyright: ignore[reportReturnType]
