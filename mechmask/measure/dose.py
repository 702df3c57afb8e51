"""Dose and response: what a correction leaves and costs as it grows, and the dose at which the trace is gone.

A dose is one state of one correction: so many steps at such a learning rate and rank, or so much of the trained change.
Doses that follow on one another, the steps of a training or the scales of its change, are a *path*. Changes are
compared where new has the same lead (``at_margin``), since a weaker one that leaves more has shown nothing.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from mechmask.errors import ReadingError
from mechmask.measure.normalised import group_normalised
from mechmask.measure.reading import require
from mechmask.measure.sample import require_level
from mechmask.measure.statistics import over_facts, several_draws
from mechmask.measure.verdict import MARGIN_SHARE

_WHAT = "A dose curve"
_MEANS = {  # what is averaged at every dose, and over what
    "trace": ("trace_after", "fact"),
    "index": ("index", "fact"),
    "margin": ("margin", "fact"),
    "probability_new": ("probability_new", "fact"),
    "control_drop": ("control_drop", "control"),
    "text_cost": ("text_cost", "sequence"),
}


def dose_curve(doses: xr.Dataset, level: float = 0.95) -> xr.Dataset:
    """Means at every dose, with their intervals.

    Args:
        doses: what ``DoseStudy`` finds: ``trace_after``, ``trace_before``, ``index``, ``margin`` (nats) and
            ``probability_new``, each ``[dose, fact]``; ``control_drop[dose, control]`` and ``text_cost[dose,
            sequence]`` in nats; ``norm[dose]``; and what ``group_normalised`` needs.
        level: of Student's intervals of the means.

    Returns:
        Over ``dose``: ``trace``, ``index``, ``margin``, ``control_drop`` and ``text_cost`` in nats and
        ``probability_new``, each with ``_low`` and ``_high`` over facts (draws, where there are several), controls or
        sequences; ``left``, the share of the group's trace that is left (1 - EI*), with Fieller's interval at the
        level of the verdict; ``norm``. Coordinates are those of ``doses`` along ``dose``.

    Raises:
        ReadingError: if ``doses`` lacks one of these, or the level is not between 0 and 1.
    """
    require_level(level, _WHAT)
    variables = ("trace_before", "shared_error", "n_never", "norm", *(source for source, _ in _MEANS.values()))
    require(doses, _WHAT, variables=variables, dims=("dose", "fact"))
    curve = doses[["norm"]]
    for name, (source, unit) in _MEANS.items():
        values = doses[source] if unit == "fact" else doses[source].rename({unit: "fact"})
        mean = over_facts(values.transpose("dose", "fact"), level)
        curve = curve.assign({name: mean.estimate, f"{name}_low": mean.low, f"{name}_high": mean.high})
    left = zip(("left", "left_low", "left_high"), _left(doses, _level_of_verdict(doses)), strict=True)
    return curve.assign({name: ("dose", values) for name, values in left}).assign_attrs(doses.attrs)


def dose_erased(doses: xr.Dataset, level: float | None = None) -> xr.Dataset:
    """The dose at which the trace is gone, on every path.

    That is the first dose from which on what is left of the group's trace stays within the margin. Its interval inverts
    those of what is left (Fieller's, see ``group_normalised``): it begins at the first dose at which that may be within
    the margin and ends at the first from which on it surely stays so. The dose is a step of a ladder, and no finer.

    Measured at 90% over 300 ladders of 31 steps, 2 nats of noise a fact and step beside a trace of 20: the interval
    holds the step that crosses the margin in all with 5, 6, 8 and 24 facts and in 99% with five draws of six. It is the
    wider the finer the ladder, since any step may be the first that looks gone.

    Args:
        doses: ``trace_before`` and ``trace_after`` ``[dose, fact]`` in nats, ``shared_error`` and ``n_never``, with the
            coordinates ``path[dose]`` and ``at[dose]``, the place along the path (steps, or the scale).
        level: of the interval; by default that of the verdict, so that it ends where the group is no longer masked.

    Returns:
        Over ``path``: ``dose`` in steps or as a scale, with ``low`` and ``high``, ``inf`` where it is not reached;
        ``row``, its number along ``doses.dose``, -1 where there is none; the count ``n`` of facts or draws. With fewer
        than two of them nothing is reached and the interval is NaN.

    Raises:
        ReadingError: if ``doses`` lacks one of these, or the level is not between 0 and 1.
    """
    if level is not None:
        require_level(level, "A dose at which the trace is gone")
    require(doses, _WHAT, variables=("trace_before", "trace_after", "shared_error", "n_never"), dims=("dose", "fact"))
    level = _level_of_verdict(doses) if level is None else level
    margin = float(doses.attrs.get("margin_share", MARGIN_SHARE))
    n, unit = _units(doses)
    estimate, low, high = _left(doses, level)
    estimate = np.where(np.isnan(high), np.nan, estimate)  # of fewer than two facts nothing is said
    paths = list(dict.fromkeys(doses.path.values.tolist()))
    rows = []
    for path in paths:
        order = np.flatnonzero(doses.path.values == path)
        order = order[np.argsort(doses["at"].values[order], kind="stable")]
        places = np.append(doses["at"].values[order].astype(float), np.inf)
        gone, surely = (_stays_within(values[order], margin) for values in (estimate, high))
        perhaps = int(np.append(low[order] <= margin, True).argmax())
        ends = places[[perhaps, surely]] if n > 1 else (np.nan, np.nan)
        rows.append((places[gone], *ends, np.append(order, -1)[gone], n))
    columns = dict(zip(("dose", "low", "high", "row", "n"), zip(*rows, strict=True), strict=True))
    result = xr.Dataset({name: ("path", np.asarray(values)) for name, values in columns.items()}, {"path": paths})
    return result.assign_attrs(level=level, unit=unit)


def at_margin(course: xr.Dataset, margin: float, along: str = "step") -> xr.Dataset:
    """Every fact where new has just come to lead old by so much: matched success.

    Args:
        course: readings along ``step`` (or another dimension, in the order of its labels), such as ``trace_after[step,
            fact]``; with ``margin`` ``[step, fact]`` in nats, or ``logprob_new`` and ``logprob_old`` of which it is the
            difference.
        margin: in nats.
        along: the dimension.

    Returns:
        The numbers of ``course`` at each fact's first place with that margin, and ``first[fact]``, that place (a step);
        NaN for a fact that never gets there. Texts are left out.

    Raises:
        ReadingError: if there is no margin along ``along``, or ``margin`` is not a finite number.
    """
    course, margins = _with_margins(course, margin, along)
    return _at_first(course, margins >= margin, along)


def at_mean_margin(course: xr.Dataset, margin: float, along: str = "step") -> xr.Dataset:
    """The same where the mean margin of the facts has just come to be that large: one place for all of them.

    Args:
        course: as for ``at_margin``, with ``margin[step, fact]`` in nats.
        margin: in nats.
        along: the dimension.

    Returns:
        The numbers of ``course`` there and the place, ``first``; all NaN if the mean never gets there.

    Raises:
        ReadingError: as ``at_margin``.
    """
    course, margins = _with_margins(course, margin, along)
    return _at_first(course, margins.mean([dim for dim in margins.dims if dim != along]) >= margin, along)


def _left(doses: xr.Dataset, level: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The share of the group's trace that is left at every dose, with both ends of its interval."""
    ratios = np.array([group_normalised(doses.isel(dose=i), level)[:3] for i in range(doses.sizes["dose"])])
    estimate, low, high = 1 - ratios.T
    return estimate, high, low


def _level_of_verdict(doses: xr.Dataset) -> float:
    return float(doses.attrs.get("interval_level", 0.90))


def _units(doses: xr.Dataset) -> tuple[int, str]:
    """How many observations a group's ratio rests on, and what they are: facts, or draws where there are several."""
    if several_draws(doses):
        return len(np.unique(doses["seed"].values)), "draws"
    read = doses[["trace_before", "trace_after"]].to_array().notnull().all(["variable", "dose"])
    return int(read.sum()), "facts"


def _stays_within(left: np.ndarray, margin: float) -> int:
    """The first dose from which on all is within the margin; the last plus one. What is NaN or has no end is not."""
    stays = np.logical_and.accumulate((left <= margin)[::-1])[::-1]
    return int(stays.argmax()) if stays.any() else len(stays)


def _with_margins(course: xr.Dataset, margin: float, along: str) -> tuple[xr.Dataset, xr.DataArray]:
    if not np.isfinite(margin):
        raise ReadingError(f"A margin of {margin} nats is never reached or always. Give a finite number.")
    if "margin" not in course and {"logprob_new", "logprob_old"} <= set(course.data_vars):
        course = course.assign(margin=course.logprob_new - course.logprob_old)
    require(course, "Matched success", variables=("margin",), dims=(along,))
    if along not in course.margin.dims:
        raise ReadingError(f"The margin has no dimension {along!r}, so it cannot grow along it. Give margin along it.")
    course = course.sortby(along) if along in course.coords else course
    return course, course.margin


def _at_first(course: xr.Dataset, reached: xr.DataArray, along: str) -> xr.Dataset:
    numbers = {name: values for name, values in course.data_vars.items() if values.dtype.kind in "biuf"}
    picked = xr.Dataset({"first": course[along].astype(float), **numbers}).drop_vars(along, errors="ignore")
    moving = [name for name, values in picked.data_vars.items() if along in values.dims]
    return picked[moving].isel({along: reached.argmax(along)}).where(reached.any(along)).assign_attrs(course.attrs)
