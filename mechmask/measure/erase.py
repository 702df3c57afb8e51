"""Erase index, its normalised form, and the verdict (paper 2F; DESIGN, definitions).

The paper's index is the drop of ``logp(old)`` less that of the controls. It counts probability that the new route took
as if it were lost knowledge, so the verdict rests on the standing of old among distractors, held against facts that
were never known under the same change (``measure/verdict.py``, ``measure/normalised.py``).
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from mechmask.errors import ReadingError
from mechmask.measure.contest import ceiling
from mechmask.measure.normalised import never_mean, normalised
from mechmask.measure.reading import require, require_same
from mechmask.measure.standing import standing_interval
from mechmask.measure.statistics import Interval, mean_interval, prediction_interval
from mechmask.measure.verdict import FEWEST_NEVER as FEWEST_NEVER
from mechmask.measure.verdict import judge, took

PAPER_CUTOFF_NATS = 8.0  # the middle of 3..13 nats, within which every cutoff separates the paper's two regimes

_WHAT = "The erase index"


def erase_index(
    before: xr.Dataset, after: xr.Dataset, *, cutoff_nats: float = PAPER_CUTOFF_NATS, level: float = 0.95
) -> xr.Dataset:
    """What became of the old value of every contradicted fact.

    Args:
        before: reading of all facts before the change, ``logprob[fact, route]`` or ``[fact, phrasing, route]`` in nats.
        after: reading of the same facts by the same score after it.
        cutoff_nats: erase index above which the paper's criterion says erased, in nats.
        level: of all intervals.

    Returns:
        Over ``fact`` (the contradicted ones), in nats unless stated otherwise:

        * ``drop`` of ``logp(old)``, ``index`` with ``index_low`` and ``index_high`` (uncertainty of the control mean),
          ``ceiling`` after the change (none for the score ``mean``), ``surprise`` (``-logp(new)`` before), and
          ``paper_verdict`` (text), all of the prompt itself;
        * ``standing_before`` with ``standing_before_low`` and ``standing_before_high``, ``standing_after`` with
          ``standing_low`` and ``standing_high`` (over distractors and phrasings), averaged over phrasings;
        * ``normalised`` (EI*, a ratio) with ``normalised_low`` and ``normalised_high``; NaN where old did not stand
          above the never-known facts before;
        * ``took`` (boolean), whether new leads on the prompt after the change or greedy decoding produces it;
        * ``verdict``, ``reason`` and ``remedy`` (text; see ``measure/verdict.py``).

        Over nothing: ``never``, the mean standing of never-known facts after the change, its standard error
        ``never_error`` and the bounds ``never_low`` and ``never_high`` within which one more of them falls;
        ``never_before``, ``never_before_low`` and ``never_before_high``, the same before it; the counts ``n_never`` and
        ``n_control``.

    Raises:
        ReadingError: if the readings are not of the same facts, values, roles, routes and phrasings by the same score
            with the same model, or there is no contradicted or no control fact.
    """
    before, after = _comparable(before, after)
    facts, controls = _role(before, "contradicted"), _role(before, "control")
    if not facts.any() or not controls.any():
        raise ReadingError(f"{_WHAT} needs at least one contradicted and one control fact. Give facts both roles.")
    first, last = standing_interval(before.logprob, level), standing_interval(after.logprob, level)
    unknown = {"never_before": _never(first, before), "never": _never(last, before)}
    never = {name: prediction_interval(standings, level) for name, standings in unknown.items()}
    mean, error = never_mean(unknown["never"])
    control = mean_interval(_drop(before, after)[controls].values, level)
    result = _paper_index(before, after, control, cutoff_nats)
    result = result.assign(
        standing_before=first.standing,
        standing_before_low=first.low,
        standing_before_high=first.high,
        standing_after=last.standing,
        standing_low=last.low,
        standing_high=last.high,
        took=took(_prompt(after)),
    )
    result = result.assign(normalised(first, last, mean, error, level))
    result = result.assign(judge(first, last, never["never_before"], never["never"], result.took))
    bounds = {f"{name}{end}": value for name, of in never.items() for end, value in _bounds(of).items()}
    return (
        result[{"fact": np.flatnonzero(facts)}]
        .assign({**bounds, "never_error": error, "n_never": never["never"].n, "n_control": control.n})
        .assign_attrs(_origin(before, after), level=level, cutoff_nats=cutoff_nats)
    )


def _paper_index(before: xr.Dataset, after: xr.Dataset, control: Interval, cutoff_nats: float) -> xr.Dataset:
    """The paper's index of every fact, with what is read beside it."""
    drop = _drop(before, after)
    index = drop - control.estimate
    verdict = np.select([index > cutoff_nats, index <= cutoff_nats], ["erased", "masked"], "undecided")
    result = xr.Dataset(
        {
            "drop": drop,
            "index": index,
            "index_low": drop - control.high,
            "index_high": drop - control.low,
            "paper_verdict": ("fact", verdict),
        }
    )
    result = result.assign(surprise=-_prompt(before).logprob.sel(route="new", drop=True))  # coordinates stay old's
    return result if before.attrs.get("score") == "mean" else result.assign(ceiling=ceiling(_prompt(after).logprob))


def _drop(before: xr.Dataset, after: xr.Dataset) -> xr.DataArray:
    return _prompt(before).logprob.sel(route="old", drop=True) - _prompt(after).logprob.sel(route="old", drop=True)


def _bounds(interval: Interval) -> dict[str, float]:
    return {"": interval.estimate, "_low": interval.low, "_high": interval.high}


def _origin(before: xr.Dataset, after: xr.Dataset) -> dict[str, object]:
    """Model and score of the two readings, and the fingerprints of their weights."""
    named = {name: after.attrs[name] for name in ("score", "model") if name in after.attrs}
    weights = {f"fingerprint_{w}": r.attrs.get("fingerprint", "") for w, r in (("before", before), ("after", after))}
    return {**named, **weights}


def _comparable(before: xr.Dataset, after: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """The two readings, checked, without phrasings and distractors that none of their facts has."""
    for name, reading in (("before", before), ("after", after)):
        require(reading, f"{_WHAT} ({name})", variables=("logprob", "role"), dims=("fact", "route"))
        others = set(reading.logprob.dims) - {"fact", "phrasing", "route"}
        if others or not {"old", "new"} <= set(reading.route.values):
            raise ReadingError(
                f"{_WHAT} takes one reading of the routes old and new at the output, over fact, route and phrasing; "
                f"this one has {', '.join(map(str, reading.logprob.dims))}. Select one layer, step or state."
            )
    before, after = _read(before), _read(after)
    require_same(
        {"before": before, "after": after},
        _WHAT,
        dims=("fact", "phrasing", "route"),
        attributes=("score",),
        coordinates=("role", "subject", "value", "token"),
        same_model=True,
    )
    return before, after


def _read(reading: xr.Dataset) -> xr.Dataset:
    """The reading without phrasings and distractors that only other facts of the original set had."""
    there = reading.logprob.notnull()
    for dim, always in (("route", ["old", "new"]), ("phrasing", [0])):
        if dim in reading.dims:
            wanted = there.any([other for other in there.dims if other != dim]) | reading[dim].isin(always)
            reading = reading.isel({dim: np.flatnonzero(wanted)})
    return reading


def _role(reading: xr.Dataset, role: str) -> np.ndarray:
    return reading.role.values == role


def _never(standing: xr.Dataset, reading: xr.Dataset) -> np.ndarray:
    return standing.standing.values[_role(reading, "never")]


def _prompt(reading: xr.Dataset) -> xr.Dataset:
    return reading.sel(phrasing=0, drop=True) if "phrasing" in reading.dims else reading
