"""What every figure and table of a study shows, in words: a function a result, each from the labelled numbers alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import xarray as xr

from mechmask.draw.style import percent
from mechmask.measure.commit import commit_layer
from mechmask.measure.commit_interval import commit_interval
from mechmask.measure.contest import margin
from mechmask.measure.dose import dose_curve
from mechmask.measure.names import state_name
from mechmask.measure.statistics import Interval, several_draws
from mechmask.measure.summary import overview
from mechmask.study.pages.words import (
    contradicted_in,
    interval_in,
    level_in,
    listed,
    mean_over_facts,
    of_prompt,
    stated,
)


def of_trajectory(reading: xr.Dataset) -> str:
    """How far new leads at the last checkpoint."""
    last = contradicted_in(of_prompt(reading)).sortby("step").isel(step=-1)
    mean, counted = mean_over_facts(margin(last.logprob), 0.95)
    return (
        f"At the last checkpoint (step {int(last.step)}) new leads old by {stated(mean, 'nats')} on average "
        f"(95% interval, n = {counted})."
    )


def of_course(course: xr.Dataset) -> str:
    """What is left of the trace at the last step of a correction."""
    last, level = course.sortby("step").isel(step=-1), level_in(course)
    (before, _), (after, counted) = (mean_over_facts(last[f"trace_{when}"], level) for when in ("before", "after"))
    return (
        f"After step {int(last.step)} the old values still stand {stated(after, 'nats')} above never known on average; "
        f"before the correction it was {stated(before, 'nats')} ({percent(level)} intervals, n = {counted})."
    )


def of_depth(reading: xr.Dataset) -> str:
    """From which layer on new leads for good, in every state."""
    depth = contradicted_in(of_prompt(reading))
    states = [str(state) for state in depth.state.values if state != "before"] if "state" in depth.dims else []
    parts = [f"after {state_name(state)} {_committed(depth.sel(state=state, drop=True))}" for state in states]
    top = int(depth.layer.values.max())
    return f"New leads for good, of {top} layers: {listed(parts)} (mean layer over facts, 95% intervals)."


def of_depth_trajectory(reading: xr.Dataset) -> str:
    """From which layer on new leads for good at the last checkpoint."""
    last = contradicted_in(of_prompt(reading)).sortby("step").isel(step=-1)
    top = int(reading.layer.values.max())
    return (
        f"At the last checkpoint (step {int(last.step)}) new leads for good, of {top} layers, {_committed(last)} "
        "(mean layer over facts, 95% interval)."
    )


def of_erase(result: xr.Dataset) -> str:
    """EI* of the group and the verdict on it, in every state."""
    level = 1 - 2 * float(result.attrs.get("alpha", 0.05))
    parts = [
        f"{state_name(state)} {stated(Interval(row['normalised'], row['normalised_low'], row['normalised_high'], 0))}, "
        f"{row['verdict']}, n = {row['n']} facts{_of_draws(row)}"
        for state, row in overview(result, level_in(result)).to_dict("index").items()
    ]
    return f"EI* of the group (0 kept, 1 as if never known; {percent(level)} intervals): {listed(parts)}."


def of_verdicts(result: xr.Dataset) -> str:
    """How many single facts are decided, in every state, and the exact interval of the share that is masked."""
    parts = []
    for state, row in overview(result, level_in(result)).to_dict("index").items():
        ends = f"{row['masked_share_low']:.2f}, {row['masked_share_high']:.2f}"
        counts = f"{row['masked']} of {row['n']} facts masked [{ends}], {row['erased']} erased"
        parts.append(f"{state_name(state)} {counts}")
    return f"Verdicts on single facts (exact {percent(level_in(result))} interval of the share): {listed(parts)}."


def of_correlation(table: xr.Dataset, what: str, dim: str = "state") -> str:
    """How two numbers go together over facts, in every state or condition.

    Args:
        table: with ``estimate[..., correlation]``, its interval and ``n``.
        what: the two numbers.
        dim: along which there are several.
    """
    level, pearson = level_in(table), table.sel(correlation="pearson")
    places = pearson[dim].values.tolist() if dim in pearson.dims else [None]
    parts = []
    for place in places:
        one = interval_in(pearson if place is None else pearson.sel({dim: place}), "estimate")
        counted = f"{stated(one)}, n = {one.n} facts"
        parts.append(counted if place is None else f"{state_name(place).replace('_', ' ')} {counted}")
    return f"{what}, Pearson's r with {percent(level)} interval: {listed(parts)}."


of_surprise: Callable[[xr.Dataset], str] = partial(
    of_correlation, what="Surprise at the onset against the final margin"
)


def of_doses(doses: xr.Dataset) -> str:
    """What is left of the trace at the last dose of every course."""
    curve, level = dose_curve(doses), 1 - 2 * float(doses.attrs.get("alpha", 0.05))
    parts = []
    for path in dict.fromkeys(curve.path.values.tolist()):
        rows = np.flatnonzero(curve.path.values == path)
        last = curve.isel(dose=int(rows[np.argmax(curve["at"].values[rows])]))
        parts.append(f"{path} at {float(last['at']):g} {stated(interval_in(last, 'left'))}")
    n, unit = _units(doses)
    return (
        f"Share of the trace that is left at the last dose of each course ({percent(level)} intervals, n = {n} "
        f"{unit}): "
        f"{listed(parts)}."
    )


def of_precision(table: xr.Dataset) -> str:
    """EI* under every precision, and what changed beside float32."""
    level = 1 - 2 * float(table.attrs.get("alpha", 0.05))
    parts = [
        f"{name} {stated(interval_in(table.sel(precision=name), 'group_normalised'))}, other verdicts on "
        f"{int(table.n_changed.sel(precision=name))}"
        for name in table.precision.values.tolist()
    ]
    return (
        f"EI* of the group by precision ({percent(level)} intervals, n = {table.sizes['fact']} facts): {listed(parts)}."
    )


def of_contrast(auroc: xr.Dataset, rebound: xr.Dataset) -> str:
    """How well trace tells edited from fine-tuned facts, and on how many phrasings old leads again."""
    at = auroc.sel(statistic="trace", edited="any", tuned="any").isel(of=0)
    told = [
        f"{str(dose).replace('_', ' ')} {stated(interval_in(at.sel(dose=dose), 'auroc'))}, "
        f"n = {int(at.n.sel(dose=dose))} facts"
        for dose in at.dose.values.tolist()
    ]
    first, asked = rebound.isel(dose=0), str(rebound.asked.values[0])
    back = []
    for way in first.way.values.tolist():
        one = interval_in(first.sel(way=way, asked=asked), "share", "n_probes")
        back.append(f"{state_name(way)} {stated(one)}, n = {one.n} probes")
    return (
        f"AUROC of the trace, fine-tuned above edited ({percent(level_in(auroc))} intervals): {listed(told)}. Share of "
        f"probes ({asked.replace('_', ' ')}) on which old leads, {str(first.dose.values).replace('_', ' ')}: "
        f"{listed(back)}."
    )


def of_recall(recall: xr.Dataset, increment: xr.Dataset) -> str:
    """How much sooner a masked value comes back than a third one."""
    shift, level = interval_in(increment, "shift"), level_in(increment)
    n = int(increment.difference.notnull().sum())
    if math.isnan(shift.estimate):
        said = f"No fact is recalled in both arms often enough to say which comes first (n = {n} facts in pairs)."
    else:
        said = (
            f"The third value is recalled {stated(shift, 'steps')} after the old one, the same fact in pairs "
            f"({percent(level)} interval of the median shift, n = {n} facts)."
        )
    medians = [
        f"{str(arm).replace('_', ' ')} {float(recall.median_steps.sel(arm=arm)):g}, n = {int(recall.n.sel(arm=arm))}"
        for arm in recall.arm.values.tolist()
    ]
    return f"{said} Median steps to recall, inf where fewer than half were: {listed(medians)} facts."


def of_one_step(table: xr.Dataset) -> str:
    """What one step brings back, against the erase index."""
    return of_correlation(table, "The erase index against what one step brings back", "asked")


def of_renewal(result: xr.Dataset) -> str:
    """What another context brings back, beyond never facts."""
    at = result.sel(quantity="margin", asked="prompt")
    parts = [
        f"{order} {stated(interval_in(at.sel(order=order), 'difference'), 'nats')}, "
        f"n = {int(at.n.sel(order=order))} and {int(at.n_never.sel(order=order))} never facts"
        for order in at.order.values.tolist()
    ]
    level = percent(level_in(result))
    return f"What old regains on new in another context, beyond never facts ({level} intervals): {listed(parts)}."


def of_editors(editing: xr.Dataset, verdicts: xr.Dataset) -> str:
    """Efficacy and EI* of every editor."""
    parts = []
    for state in verdicts.state.values.tolist():
        one = verdicts.sel(state=state)
        scored = interval_in(editing.sel(state=state, metric="efficacy_score"), "estimate")
        parts.append(
            f"{state_name(state)} ES {stated(scored)}, n = {scored.n} facts, EI* "
            f"{stated(interval_in(one, 'normalised'))}, {one.group_verdict.item()}, took on {int(one.n_took)}"
        )
    return f"Efficacy ({percent(level_in(editing))} intervals) and EI* of the group, by editor: {listed(parts)}."


def of_wear(sequence: xr.Dataset) -> str:
    """What a sequence of edits has done to the model by its end."""
    last, shown = sequence.isel(edits=-1), "neighborhood_score"
    name = shown if shown in sequence.metric.values else str(sequence.metric.values[0])
    at = last.sel(metric=name)
    parts = []
    for state in at.state.values.tolist():
        one = interval_in(at.sel(state=state), "estimate")
        parts.append(f"{state_name(state)} {stated(one)}, n = {one.n}")
    return (
        f"{name.replace('_', ' ').capitalize()} after {int(last.edits)} edits ({percent(level_in(sequence))} "
        "intervals): "
        f"{listed(parts)}."
    )


def of_rows(what: str, table: pd.DataFrame, name: str, n: str = "n") -> str:
    """The rows of a table in words: for each its labels, the estimate with its interval, and n.

    Args:
        what: is estimated, in its unit.
        table: with the estimate, its ends (``_low`` and ``_high``, or ``low`` and ``high``) and a count.
        name: column of the estimate.
        n: column of the count.
    """
    ends = ("low", "high") if name == "estimate" else (f"{name}_low", f"{name}_high")
    parts = []
    columns = zip(*(table[column].tolist() for column in (name, *ends, n)), strict=True)
    for labels, (estimate, low, high, counted) in zip(table.index.tolist(), columns, strict=True):
        labelled = ", ".join(map(state_name, labels if isinstance(labels, tuple) else (labels,))).replace("_", " ")
        one = Interval(estimate, low, high, int(counted))
        parts.append(f"{labelled} {stated(one)}, n = {one.n}")
    return f"{what}: {listed(parts)}."


def of_discrimination(by_fact: pd.DataFrame, statistic: str) -> str:
    """How well the chosen statistic tells who knew, where it was not chosen.

    Args:
        by_fact: AUROC of every candidate, a row each.
        statistic: the chosen one.
    """
    rows = by_fact.query("statistic == @statistic and reference == 'never' and phrasings == 'all'")
    rows = rows.query("treatment == 'contradicted' and known == 'any'")
    last = rows.loc[rows["dose"] == rows["dose"].max()].iloc[0]
    one = Interval(last["auroc"], last["low"], last["high"], int(last["n"]))
    return (
        f"At the last dose {statistic}, paired, tells what was told from what never was with an AUROC of {stated(one)} "
        f"(95% interval, n = {one.n} readings of facts on the judging draws)."
    )


def _committed(depth: xr.Dataset) -> str:
    layers = commit_interval(commit_layer(depth, "new").values)
    if not layers.n:
        return f"on none of {layers.n_none} facts"
    shown = stated(Interval(*layers[:4]), digits=1)
    return f"from layer {shown} on {layers.n} of {layers.n + layers.n_none} facts"


def _of_draws(row: dict[str, object]) -> str:
    return f" in {row['draws']} draws" if "draws" in row else ""


def _units(doses: xr.Dataset) -> tuple[int, str]:
    return (
        (len(set(doses.seed.values.tolist())), "draws") if several_draws(doses.fact) else (doses.sizes["fact"], "facts")
    )
