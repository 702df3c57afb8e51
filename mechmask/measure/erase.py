"""Erase index, its normalised form, and the verdict (paper 2F; DESIGN, definitions).

The paper's index is the drop of ``logp(old)`` less that of the controls. It counts probability that the new route took
as if it were lost knowledge, so the verdict rests on the standing of old among distractors, held against facts that
were never known under the same change.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.contest import ceiling
from mechmask.measure.reading import require
from mechmask.measure.standing import standing_interval
from mechmask.measure.statistics import Interval, mean_interval, prediction_interval

FEWEST_NEVER = 8  # below this the spread of never-known facts is too uncertain for a verdict (DESIGN)
PAPER_CUTOFF_NATS = 8.0  # the middle of 3..13 nats, within which every cutoff separates the paper's two regimes


def erase_index(
    before: xr.Dataset, after: xr.Dataset, *, cutoff_nats: float = PAPER_CUTOFF_NATS, level: float = 0.95
) -> xr.Dataset:
    """What became of the old value of every contradicted fact.

    Args:
        before: reading of all facts before the change, ``logprob[fact, route]`` or ``[fact, phrasing, route]``.
        after: reading of the same facts by the same score after it.
        cutoff_nats: erase index above which the paper's criterion says erased.
        level: of all intervals.

    Returns:
        Over ``fact`` (the contradicted ones), in nats where not said otherwise: ``index`` with ``index_low`` and
        ``index_high`` (uncertainty of the control mean), ``ceiling`` after the change, ``standing_before``,
        ``standing_after`` with interval (over distractors and phrasings), ``normalised`` with interval (EI*, a ratio;
        NaN where old did not stand above the never-known facts before), ``surprise`` (``-logp(new)`` before),
        ``verdict`` and ``paper_verdict``; and over nothing: ``never``, ``never_low``, ``never_high``, ``n_never``,
        ``n_control``. ``index``, ``ceiling`` and ``surprise`` are of the prompt itself, the standing is averaged over
        phrasings.

    Raises:
        ReadingError: if the readings are not of the same facts by the same score, or there is no contradicted or no
            control fact.
    """
    _comparable(before, after)
    facts, controls = _role(before, "contradicted"), _role(before, "control")
    if not facts.any() or not controls.any():
        raise ReadingError(
            "The erase index needs at least one contradicted and one control fact. Give facts both roles."
        )
    drop = _prompt(before).sel(route="old", drop=True) - _prompt(after).sel(route="old", drop=True)
    control = mean_interval(drop[controls].values, level)
    first, last = standing_interval(before.logprob, level), standing_interval(after.logprob, level)
    never_known = last.standing.values[_role(before, "never")]
    never = prediction_interval(never_known, level)
    result = xr.Dataset({"drop": drop, "index": drop - control.estimate})
    result["index_low"], result["index_high"] = drop - control.high, drop - control.low
    result["surprise"] = -_prompt(before).sel(route="new", drop=True)
    if before.attrs.get("score") != "mean":
        result["ceiling"] = ceiling(_prompt(after))
    result["standing_before"] = first.standing
    result["standing_after"], result["standing_low"], result["standing_high"] = last.standing, last.low, last.high
    result = result.assign(_normalised(first, last, never_known, level))
    result["verdict"] = _verdict(last, never)
    paper = np.select(
        [result["index"] > cutoff_nats, result["index"] <= cutoff_nats], ["erased", "masked"], "undecided"
    )
    result["paper_verdict"] = ("fact", paper)
    return (
        result[{"fact": np.flatnonzero(facts)}]
        .assign(never=never.estimate, never_low=never.low, never_high=never.high, n_never=never.n, n_control=control.n)
        .assign_attrs(_origin(before, after), level=level, cutoff_nats=cutoff_nats)
    )


def _origin(before: xr.Dataset, after: xr.Dataset) -> dict[str, object]:
    """Of which model and weights the two readings are, and by which score."""
    named = {name: after.attrs[name] for name in ("score", "model") if name in after.attrs}
    weights = {f"fingerprint_{w}": r.attrs.get("fingerprint", "") for w, r in (("before", before), ("after", after))}
    return {**named, **weights}


def _comparable(before: xr.Dataset, after: xr.Dataset) -> None:
    for name, reading in (("before", before), ("after", after)):
        require(reading, f"The erase index ({name})", variables=("logprob", "role"), dims=("fact", "route"))
        others = set(reading.logprob.dims) - {"fact", "phrasing", "route"}
        if others or not {"old", "new"} <= set(reading.route.values):
            raise ReadingError(
                "The erase index takes one reading of the routes old and new at the output, over fact, route and "
                f"phrasing; this one has {', '.join(map(str, reading.logprob.dims))}. Select one layer, step or state."
            )
    if list(before.fact.values) != list(after.fact.values) or list(before.route.values) != list(after.route.values):
        raise ReadingError("The two readings are not of the same facts and routes. Read one fact set before and after.")
    if before.attrs.get("score") != after.attrs.get("score"):
        raise ReadingError(
            f"The two readings have different scores ({before.attrs.get('score')}, {after.attrs.get('score')}). "
            "Use one score."
        )
    if ("phrasing" in before.dims) != ("phrasing" in after.dims):
        raise ReadingError("One reading has phrasings and the other has not. Read both in the same way.")


def _role(reading: xr.Dataset, role: str) -> np.ndarray:
    return reading.role.values == role


def _prompt(reading: xr.Dataset) -> xr.DataArray:
    return reading.logprob.sel(phrasing=0, drop=True) if "phrasing" in reading.dims else reading.logprob


def _normalised(first: xr.Dataset, last: xr.Dataset, never_known: np.ndarray, level: float) -> dict[str, xr.DataArray]:
    """``EI* = (S_before - S_after) / (S_before - S_never)``, its interval by the delta method.

    The errors of before and after are taken as independent, which is on the safe side: their distractors are shared.
    """
    read = never_known[~np.isnan(never_known)]
    never = read.mean() if len(read) else np.nan
    never_error = np.std(read, ddof=1) / np.sqrt(len(read)) if len(read) > 1 else np.nan
    room = (first.standing - never).where(first.standing > never)
    ratio = (first.standing - last.standing) / room
    variance = ((1 - ratio) * first.error) ** 2 + last.error**2 + (ratio * never_error) ** 2
    half = stats.norm.ppf(0.5 + level / 2) * np.sqrt(variance) / room
    return {"normalised": ratio, "normalised_low": ratio - half, "normalised_high": ratio + half}


def _verdict(last: xr.Dataset, never: Interval) -> xr.DataArray:
    if never.n < FEWEST_NEVER:
        return xr.full_like(last.standing, "undecided", dtype="<U10")
    above = last.low > never.high
    below = last.high < never.low
    inside = (last.low >= never.low) & (last.high <= never.high)
    verdict = np.select([above, inside, below], ["masked", "erased", "suppressed"], "undecided")
    return xr.DataArray(verdict, coords=last.standing.coords, dims=last.standing.dims)
