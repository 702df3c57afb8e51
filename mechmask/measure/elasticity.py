"""Elasticity: whether what was learned first comes back the easier, the more it was contradicted.

After Ji et al. (2025, 2406.06144) and Wen and Zhang (2025). Facts are installed, contradicted for a dose of optimizer
steps, and taught their old values again. *Resistance*: the way back costs less loss than the way out. *Rebound*: after
a larger dose fewer steps lead back. A model that was never taught the old values goes the same ways, so that what any
new value would show is not taken for elasticity.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import numpy as np
import xarray as xr

from mechmask.errors import ReadingError
from mechmask.measure.increment import increment
from mechmask.measure.reacquisition import curves_of_arms, steps_to_recall
from mechmask.measure.reading import require
from mechmask.measure.statistics import over_facts

INSTALLED, NEVER = "installed", "never"

_WHAT = "Elasticity"
_SHIFT = ("shift", "shift_low", "shift_high", "p_value")

Course = Mapping[int, xr.Dataset]


def ways(
    out: Mapping[tuple[str, int], Course], back: Mapping[tuple[str, int], Course], n_tokens: xr.DataArray
) -> xr.Dataset:
    """The ways out and back of every arm and dose, fact by fact.

    Args:
        out: by arm and dose (optimizer steps of the contradiction), what was read of the prompts after how many steps
            of it: ``logprob[fact, route]`` in nats.
        back: the same while the old values are taught again.
        n_tokens: of each value, ``[fact, route]``, counts.

    Returns:
        Over ``arm``, ``dose`` and ``fact``: ``steps``, after how many optimizer steps of the way back old leads new for
        good, the last one where it does not (``reached``, boolean); ``loss_out`` and ``loss_back``, the mean loss of
        the value that is taught over as many first steps of either way, nats per token; and over ``end`` (``before``
        the contradiction, ``contradicted``, ``back``) and ``route`` too ``compression``, the normalised compression
        rate: the cross-entropy of the value in nats per token less the logarithm of the number of distinct values of
        that route (Ji et al., with the leaves of the pruned token tree as the values).

    Raises:
        ReadingError: if there is no way, or ways out and back are of other arms and doses.
    """
    if not out or out.keys() != back.keys():
        raise ReadingError(f"{_WHAT} needs a way back for every way out. Read both of each arm and dose.")
    arms, doses = list(dict.fromkeys(arm for arm, _ in out)), list(dict.fromkeys(dose for _, dose in out))
    rows = [
        xr.concat([_way(out[arm, dose], back[arm, dose], n_tokens) for dose in doses], _axis("dose", doses))
        for arm in arms
    ]
    return cast("xr.Dataset", xr.concat(rows, _axis("arm", arms)))


def elasticity(found: xr.Dataset, level: float = 0.95) -> xr.Dataset:
    """What the ways of all facts say together.

    Args:
        found: what ``ways`` gave: ``steps``, ``reached``, ``loss_out`` and ``loss_back`` ``[arm, dose, fact]``, in
            steps and in nats per token.
        level: of the intervals.

    Returns:
        Over ``arm`` and ``dose``: ``median_steps`` of the way back with its ends (Kaplan and Meier, ``inf`` where half
        of the facts do not come back), the counts ``n`` and ``n_censored``, and ``resistance``, the mean of the loss
        out less the loss back in nats per token, with Student's interval, above 0 where the way back is the easier.
        Over ``arm``: ``rebound``, by how many steps a fact comes back sooner after the largest dose than after the
        smallest (median difference of Hodges and Lehmann, with its interval and the exact Wilcoxon test
        ``rebound_p_value``). Over ``dose``: ``advantage``, the same of the installed facts before those that were
        never installed. Steps are restricted to the budget; a fact that comes back in neither of two is left out.

    Raises:
        ReadingError: if the table lacks one of these, or an arm.
    """
    require(found, _WHAT, variables=("steps", "reached", "loss_out", "loss_back"), dims=("arm", "dose", "fact"))
    missing = {INSTALLED, NEVER} - set(found.arm.values.tolist())
    if missing:
        raise ReadingError(f"{_WHAT} holds installed facts against never installed ones; {min(missing)} was not read.")
    ordered = found.sortby("dose")
    curves = [_of_dose(ordered.sel(dose=dose), level) for dose in ordered.dose.values]
    by_dose = cast("xr.Dataset", xr.concat(curves, ordered.dose))
    resisted = over_facts(ordered.loss_out - ordered.loss_back, level)
    table = by_dose.assign(
        resistance=resisted.estimate, resistance_low=resisted.low, resistance_high=resisted.high
    ).transpose("arm", "dose", ...)
    rebounds = [_shift(_at(ordered, arm, -1), _at(ordered, arm, 0), level) for arm in ordered.arm.values]
    advantages = [
        _shift(_at(ordered, INSTALLED, number), _at(ordered, NEVER, number), level)
        for number in range(ordered.sizes["dose"])
    ]
    return table.assign(_named("rebound", rebounds, "arm")).assign(_named("advantage", advantages, "dose"))


def _way(out: Course, back: Course, n_tokens: xr.DataArray) -> xr.Dataset:
    """Of one arm and dose."""
    margins = _along({step: _values(reading, "old") - _values(reading, "new") for step, reading in back.items()})
    reached = steps_to_recall((margins > 0).astype(float))
    k = min(max(out), max(back))
    losses = {
        name: _along({s: -_values(r, route) for s, r in course.items() if s < k}).mean("step")
        / n_tokens.sel(route=route)
        for name, course, route in (("loss_out", out, "new"), ("loss_back", back, "old"))
    }
    ends = {"before": out[min(out)], "contradicted": out[max(out)], "back": back[max(back)]}
    rates = xr.concat([_compression(reading, n_tokens) for reading in ends.values()], _axis("end", list(ends)))
    columns = {"steps": reached.steps, "reached": reached.reached, **losses, "compression": rates}
    bare = {name: values.reset_coords(drop=True) for name, values in columns.items()}
    return xr.Dataset(bare, attrs={"budget_steps": reached.attrs["budget_steps"]})


def _compression(reading: xr.Dataset, n_tokens: xr.DataArray) -> xr.DataArray:
    """The normalised compression rate of old and new of every fact, ``[fact, route]``, in nats per token."""
    routes = ["old", "new"]
    loss = -reading.logprob.sel(route=routes).reset_coords(drop=True) / n_tokens.sel(route=routes)
    leaves = [len(set(reading.value.sel(route=route).values.tolist())) for route in routes]
    return loss - xr.DataArray(np.log(leaves), {"route": routes}, "route")


def _values(reading: xr.Dataset, route: str) -> xr.DataArray:
    return reading.logprob.sel(route=route).reset_coords(drop=True)


def _along(readings: Mapping[int, xr.DataArray]) -> xr.DataArray:
    steps = sorted(readings)
    return cast("xr.DataArray", xr.concat([readings[step] for step in steps], _axis("step", steps)))


def _axis(name: str, labels: list) -> xr.DataArray:
    return xr.DataArray(labels, dims=name, name=name)


def _of_dose(found: xr.Dataset, level: float) -> xr.Dataset:
    """Medians of all arms."""
    budget = float(found.attrs["budget_steps"])
    curves = curves_of_arms(found[["steps", "reached"]], [0.0, budget], level)
    return curves[["median_steps", "median_low", "median_high", "n", "n_censored"]].reset_coords(drop=True)


def _at(found: xr.Dataset, arm: str, dose: int) -> xr.Dataset:
    return found[["steps", "reached"]].sel(arm=arm).isel(dose=dose).reset_coords(drop=True)


def _shift(earlier: xr.Dataset, later: xr.Dataset, level: float) -> dict[str, float]:
    """By how many steps the first is the earlier."""
    found = increment(earlier, later, level)
    return {name: float(found[name]) for name in _SHIFT}


def _named(name: str, shifts: list[dict[str, float]], dim: str) -> dict[str, tuple[str, list[float]]]:
    names = {of: of.replace("shift", name) if "shift" in of else f"{name}_{of}" for of in _SHIFT}
    return {new: (dim, [shift[of] for shift in shifts]) for of, new in names.items()}
