"""How often the verdict is wrong, on states whose truth is known by construction.

A model that was left alone still knows what it was told. One that never knew, read after the same correction, is what a
perfect eraser would leave. In between lies what a correction really does, of which only the verdict's share is known.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr

from mechmask.measure.normalised import normalised, ratio_of_means
from mechmask.measure.statistics import proportion_interval
from mechmask.measure.trace import STATISTIC, TWIN, twin_trace
from mechmask.measure.verdict import ALPHA, DECIDED, MARGIN_SHARE, VERDICTS, judge, reason_of, took

TOLD, SPARE = "verbatim", "other_values"
"""The pool whose trace before is the one that was there, and the pool that never knew and is judged as if erased."""

REFERENCES = ("never", "other_entities")
"""The pools that a fact is held against."""


def verdicts_of_draw(
    doses: xr.Dataset,
    alone: xr.Dataset,
    edited: xr.Dataset | None = None,
    *,
    knowing: Sequence[str],
    statistic: str = STATISTIC,
    share: float = MARGIN_SHARE,
    alpha: float = ALPHA,
) -> pd.DataFrame:
    """The verdict on every contradicted fact of a draw, in every state whose truth is known and every other.

    Args:
        doses: ``logprob[pool, step, fact, phrasing, route]`` in nats and, where it was read, ``recalled``, the first
            step before the contradiction.
        alone: the same without ``step``, of models that were trained on the controls alone.
        edited: the same without ``step``, of models in which each fact was edited alone.
        knowing: the pools that know the old values.
        statistic: of which the trace is made.
        share: the margin, as a share of the trace before.
        alpha: the rate at which each verdict may be wrong.

    Returns:
        A row for each ``case`` (``left alone``, ``perfectly erased``, or the pool that was contradicted; behind a comma
        ``edited``, where it was edited instead), ``dose`` (number of the checkpoint), and ``unit`` (the fact's label,
        or ``group`` for all facts of the draw): ``verdict`` and ``reason``. An edit that did not take is not judged,
        nor is a group with one in it.
    """
    doses = doses.isel(fact=np.flatnonzero(doses.role.values == "contradicted"))
    told, last = doses.isel(step=0, drop=True), doses.sizes["step"] - 1
    cases = [("left alone", last, TOLD, alone.sel(fact=doses.fact), TOLD)]
    for dose in range(1, last + 1):
        after = doses.isel(step=dose, drop=True)
        cases.append(("perfectly erased", dose, TOLD, after, SPARE))
        cases += [(pool, dose, pool, after, pool) for pool in knowing]
    if edited is not None:
        after = edited.sel(fact=doses.fact)
        cases.append(("perfectly erased, edited", 1, TOLD, after, SPARE))
        cases += [(f"{pool}, edited", 1, pool, after, pool) for pool in knowing]
    rows = []
    for case, dose, known, after, held in cases:
        taken = _took(after, held) | (case == "left alone")  # where nothing was to be taken
        first, then = (
            twin_trace(state, _knew(state), statistic, level=1 - 2 * alpha)
            for state in (_states(told.logprob, known), _states(after.logprob, held))
        )
        ratio = normalised(first, then, 1 - 2 * alpha)
        judged = judge(first, ratio, taken, share)
        _, low, high = ratio_of_means(first.trace.values, then.trace.values, 0.0, 2, 1 - 2 * alpha)
        group = str(reason_of(low, high, share)) if bool(taken.all()) else "did_not_take"
        reasons = {**dict(zip(judged.fact.values, map(str, judged.reason.values), strict=True)), "group": group}
        rows += [[case, dose, unit, DECIDED.get(why, "undecided"), why] for unit, why in reasons.items()]
    return pd.DataFrame(rows, columns=["case", "dose", "unit", "verdict", "reason"])


def _took(after: xr.Dataset, pool: str) -> xr.DataArray:
    prompt = after.sel(pool=pool, drop=True).isel(phrasing=0, drop=True)
    return took(prompt).reset_coords(drop=True)


def error_rates(verdicts: pd.DataFrame, level: float = 0.95) -> pd.DataFrame:
    """Shares of verdicts by case and dose, of facts and of groups.

    Args:
        verdicts: what ``verdicts_of_draw`` gave, of one or more draws below each other.
        level: of the exact intervals, which take facts as independent: within one draw they are not.

    Returns:
        Indexed by ``unit`` (``fact`` or ``group``), ``case`` and ``dose``: ``n`` and, for every verdict, its share with
        ``_low`` and ``_high``.
    """
    keys = ["unit", "case", "dose"]
    rows = {}
    for labels, group in verdicts.assign(unit=np.where(verdicts["unit"] == "group", "group", "fact")).groupby(keys):
        found = np.asarray(group["verdict"])
        row: dict[str, float] = {"n": len(found)}
        for verdict in VERDICTS:
            share = proportion_interval(int((found == verdict).sum()), len(found), level)
            row |= {verdict: share.estimate, f"{verdict}_low": share.low, f"{verdict}_high": share.high}
        rows[labels] = row
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(keys)


def _states(logprob: xr.DataArray, pool: str) -> xr.DataArray:
    """One pool beside the references, as twins."""
    return logprob.sel(pool=[pool, *REFERENCES]).rename(pool=TWIN).assign_coords({TWIN: ["knew", *REFERENCES]})


def _knew(state: xr.DataArray) -> xr.DataArray:
    knew = (state[TWIN] == "knew").drop_vars(TWIN)
    return knew.expand_dims(fact=state.sizes["fact"], axis=-1)
