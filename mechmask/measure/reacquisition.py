"""Reacquisition: after how many steps a taught value is recalled, by fact and by arm (paper 2F, finding 6).

An arm is a state of the model and a value that it is taught; all arms have one budget. A fact that is not recalled when
the budget ends is censored: all that is known is that it takes longer, and no number stands for how long.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike

from mechmask.errors import ReadingError
from mechmask.measure.reading import require
from mechmask.measure.statistics import proportion_interval
from mechmask.measure.survival import hazard_ratio, survival_curve

_WHAT = "The course of reacquisition"


def course_of_arms(arms: Mapping[str, Mapping[int, xr.Dataset]]) -> xr.Dataset:
    """The taught values of several arms at every step that was read.

    Args:
        arms: by name, what was read after how many optimizer steps: ``logprob[fact, phrasing, route]`` in nats and
            ``recalled[fact, phrasing, route]`` of the facts that the arm is taught; its route ``old`` is the value
            taught.

    Returns:
        ``logprob`` in nats and ``recalled`` (1 or 0) of the taught value, ``[arm, step, fact, phrasing]``, NaN where an
        arm is not taught the fact or the fact has no such phrasing; ``value[arm, fact]``, empty there.

    Raises:
        ReadingError: if there is no arm, or two arms were not read at the same steps.
    """
    grids = {name: sorted(readings) for name, readings in arms.items()}
    if not grids or len({tuple(grid) for grid in grids.values()}) > 1:
        raise ReadingError(
            f"{_WHAT} takes arms that were read at the same steps; these were at {grids}. Read all of them alike."
        )
    courses = {name: _course(readings) for name, readings in arms.items()}
    facts = list(dict.fromkeys(fact for one in courses.values() for fact in one.fact.values.tolist()))
    parts = [
        one[["logprob", "recalled"]].reindex(fact=facts).assign(value=one.value.reindex(fact=facts, fill_value=""))
        for one in courses.values()
    ]
    joined = xr.concat(parts, xr.DataArray(list(courses), dims="arm", name="arm"), join="outer")
    return joined.transpose("arm", "step", "fact", "phrasing")


def steps_to_recall(recalled: xr.DataArray) -> xr.Dataset:
    """First step from which on a fact is recalled at every step that was read.

    Args:
        recalled: ``[step, fact]``, 1 or 0, NaN where the fact is not taught; further dimensions, such as ``arm``, stay.

    Returns:
        Over the other dimensions: ``steps``, in optimizer steps, the last one read where it is censored and NaN where
        the fact is not taught; ``reached`` (boolean), ``False`` where it is censored; ``n_lapses``, at how many steps
        it was not recalled although it had been before. ``attrs["budget_steps"]`` is the last step.

    Raises:
        ReadingError: if there is no dimension ``step`` or ``fact``, or a fact was read at some of the steps only.

    Examples:
        >>> import xarray as xr
        >>> recalled = xr.DataArray([[0, 0], [1, 0], [1, 0]], dims=("step", "fact"), coords={"step": [0, 2, 4]})
        >>> result = steps_to_recall(recalled)
        >>> result.steps.values, result.reached.values
        (array([2., 4.]), array([ True, False]))
    """
    _require_steps(recalled)
    recalled = recalled.sortby("step")
    says = recalled == 1
    from_here_on = says.isel(step=slice(None, None, -1)).cumprod("step").astype(bool)
    first = recalled.step.where(from_here_on).min("step")
    taught, budget = recalled.notnull().any("step"), float(recalled.step[-1])
    before = says.astype(int).cumsum("step") > 0
    return xr.Dataset(
        {
            "steps": first.fillna(budget).where(taught),
            "reached": first.notnull(),
            "n_lapses": (before & ~says).sum("step").where(taught),
        },
        attrs={"budget_steps": budget},
    )


def steps_to_share(recalled: xr.DataArray, share: float = 0.9) -> xr.DataArray:
    """First step at which so many of the taught facts are recalled.

    Args:
        recalled: ``[step, fact]``, 1 or 0, NaN where the fact is not taught; further dimensions, such as ``arm``, stay.
        share: of the facts, above 0 and at most 1.

    Returns:
        Over the other dimensions, in optimizer steps; NaN where the budget ends first.

    Raises:
        ReadingError: if there is no dimension ``step`` or ``fact``, a fact was read at some of the steps only, or the
            share is none.
    """
    _require_steps(recalled)
    if not 0 < share <= 1:
        raise ReadingError(f"{share} is not a share of facts. Give a number above 0 and at most 1.")
    # a count, not a mean: 0.9 of 10 facts is 9, which a mean of floats may miss by a rounding
    enough = np.ceil(share * recalled.notnull().sum("fact") - 1e-9)
    there = (recalled == 1).sum("fact") >= enough
    return recalled.step.where(there & (enough > 0)).min("step").rename("steps_to_share")


def curves_of_arms(arms: xr.Dataset, at_steps: ArrayLike, level: float = 0.95) -> xr.Dataset:
    """The share of facts that each arm does not recall yet, at every step (Kaplan and Meier 1958).

    Args:
        arms: what ``steps_to_recall`` returned, ``steps[arm, fact]`` and ``reached[arm, fact]``.
        at_steps: where the share is given, ``[step]``.
        level: of the intervals.

    Returns:
        ``survival`` with ``survival_low`` and ``survival_high`` ``[arm, step]``, shares; ``median_steps`` with
        ``median_low`` and ``median_high`` ``[arm]``, in steps, ``inf`` where an arm never comes down to a half; the
        counts ``n`` and ``n_censored`` ``[arm]``.

    Raises:
        ReadingError: if the table lacks one of these.
    """
    require(arms, "The curves of arms", variables=("steps", "reached"), dims=("arm", "fact"))
    curves = [_curve(arms.isel(arm=i), np.asarray(at_steps), level) for i in range(arms.sizes["arm"])]
    return xr.concat(curves, arms.arm.reset_coords(drop=True), combine_attrs="override")


def hazard_ratios(arms: xr.Dataset, of_arm: str, level: float = 0.95) -> xr.Dataset:
    """How many times as fast one arm recalls its facts as each other arm, from any step on (Cox 1972).

    Facts of two arms count as independent. Where they are the same facts, which are fast or slow in both, the interval
    is wider than it need be.

    Args:
        arms: what ``steps_to_recall`` returned, ``steps[arm, fact]`` and ``reached[arm, fact]``.
        of_arm: the arm that is held against each other one.
        level: of the intervals.

    Returns:
        ``hazard_ratio`` with ``hazard_ratio_low`` and ``hazard_ratio_high`` ``[arm]``, ratios; 1 for the arm itself.

    Raises:
        ReadingError: if there is no such arm.
    """
    require(arms, "The hazard ratio", variables=("steps", "reached"), dims=("arm", "fact"))
    if of_arm not in arms.arm.values:
        raise ReadingError(f"There is no arm {of_arm!r}. There are {', '.join(map(str, arms.arm.values))}.")
    first = _times(arms.sel(arm=of_arm))
    found = [
        (1.0, 1.0, 1.0) if name == of_arm else hazard_ratio(*first, *_times(arms.isel(arm=i)), level)[:3]
        for i, name in enumerate(arms.arm.values)
    ]
    names = ("hazard_ratio", "hazard_ratio_low", "hazard_ratio_high")
    return xr.Dataset(
        {name: ("arm", list(column)) for name, column in zip(names, zip(*found, strict=True), strict=True)}
    )


def _curve(arm: xr.Dataset, at_steps: np.ndarray, level: float) -> xr.Dataset:
    """One arm's curve on a grid: flat between two steps at which a fact is recalled, and 1 before the first."""
    curve = survival_curve(*_times(arm), level)
    n = int(curve.n)
    shares = curve[["estimate", "low", "high"]].reindex(step=at_steps.astype(float), method="ffill")
    shares = shares.assign_coords(step=at_steps)
    none_yet = {"estimate": 1.0, "low": proportion_interval(n, n, level).low, "high": 1.0}
    names = {"estimate": "survival", "low": "survival_low", "high": "survival_high"}
    survival = shares.fillna(none_yet if n else {}).rename(names)
    medians = curve[["median_steps", "median_low", "median_high", "n"]]
    return survival.assign(medians.data_vars).assign(n_censored=n - int(curve.n_reached)).assign_attrs(level=level)


def _times(arm: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    return arm.steps.values, arm.reached.values


def _course(readings: Mapping[int, xr.Dataset]) -> xr.Dataset:
    """One arm along ``step``, without the coordinates in which arms differ."""
    for reading in readings.values():
        require(reading, _WHAT, variables=("logprob", "recalled", "value"), dims=("fact", "phrasing", "route"))
    taught = [readings[number].sel(route="old", drop=True) for number in sorted(readings)]
    steps = xr.DataArray(sorted(readings), dims="step", name="step")
    logprob = xr.concat([one.logprob.reset_coords(drop=True) for one in taught], steps)
    said = xr.concat([one.recalled.reset_coords(drop=True) for one in taught], steps)
    recalled = said.astype(float).where(logprob.notnull())
    return xr.Dataset({"logprob": logprob, "recalled": recalled, "value": taught[0]["value"].reset_coords(drop=True)})


def _require_steps(recalled: xr.DataArray) -> None:
    missing = [dim for dim in ("step", "fact") if dim not in recalled.dims]
    if missing:
        raise ReadingError(f"Steps to recall need the dimension {missing[0]}. Give recalled[step, fact].")
    somewhere, everywhere = recalled.notnull().any("step"), recalled.notnull().all("step")
    if bool((somewhere != everywhere).any()):
        raise ReadingError(
            "Some facts were read at some of the steps only, so that it is not known when they are recalled. Read "
            "every fact at every step."
        )
