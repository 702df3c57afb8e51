"""Trace of the old value: how far it stands above the same fact where it was never known (DESIGN, definitions).

Three references, the best first: the fact's twin (the same prompts and values in a model that never knew it and got the
same treatment); pseudo-subjects in its own prompts with its own values; facts of role ``never``, which all facts share
and which are about other things. What differs between two readings that should be the same, because nothing was known
in either, is noise by construction (another history, another name), and the only error that a trace is given.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.old_value import IN_NATS, StatisticName, statistic_of_old

STATISTIC: StatisticName = "geometric_standing"

TWIN = "twin"


def twin_trace(
    logprob: xr.DataArray, knew: xr.DataArray, statistic: str = STATISTIC, *, level: float = 0.95
) -> xr.Dataset:
    """Trace of every fact that one twin knew and another did not.

    Args:
        logprob: ``[twin, fact, route]`` or ``[twin, fact, phrasing, route]`` in nats.
        knew: which twin was taught which fact, ``[twin, fact]``, boolean. Facts that no twin was taught, such as those
            of role ``never``, have no trace and add to what is known of the noise.
        statistic: of which the trace is made; one in nats.
        level: of the intervals.

    Returns:
        Over ``fact``, those that some twin knew and some did not, in nats: ``old``, the statistic where the fact was
        known, and ``never``, where it was not; ``trace``, their difference, with ``error`` (standard error), ``low``
        and ``high`` (Student's interval at ``level``). ``n_knew`` and ``n_never``, the readings behind them. Over
        nothing: ``noise``, the standard deviation of one reading of a never-known fact, ``freedom``, its degrees of
        freedom, and ``shared_error``, the part of ``error`` that all facts share (none here). Without two readings of
        a never-known fact ``noise`` and all errors are NaN.

    Raises:
        ReadingError: if no fact was known by one twin and unknown by another, or the statistic is none in nats.
    """
    value = _in_nats(logprob, statistic)
    known, never = value.where(knew), value.where(~knew)
    both = known.notnull().any(TWIN) & never.notnull().any(TWIN)
    if not both.any():
        raise ReadingError(
            "No fact was known by one twin and unknown by another, so there is no trace. Let each twin be taught some "
            "of the facts and not all."
        )
    noise, freedom = _within(never, TWIN)
    means = known.mean(TWIN), never.mean(TWIN)
    counts = known.notnull().sum(TWIN), never.notnull().sum(TWIN)
    traces = _traces(*means, *counts, noise, freedom, statistic, level)
    return traces.isel(fact=np.flatnonzero(both.values))


def matched_trace(
    logprob: xr.DataArray, stands_for: xr.DataArray, statistic: str = STATISTIC, *, level: float = 0.95
) -> xr.Dataset:
    """Trace of every fact above pseudo-subjects that were put into its own prompts with its own values.

    Args:
        logprob: ``[fact, route]`` or ``[fact, phrasing, route]`` in nats, of the facts and of their pseudo-subjects.
        stands_for: ``[fact]``, for a pseudo-subject the label of the fact in whose prompts it was put, else empty.
        statistic: of which the trace is made; one in nats.
        level: of the intervals.

    Returns:
        As ``twin_trace``, over those of the facts that have a pseudo-subject, none where only others were read. The
        noise is that of one pseudo-subject beside another of the same fact, so that the interval is one for a fact that
        may be as odd as they are; it is taken from all pseudo-subjects, whether or not their fact was read.

    Raises:
        ReadingError: if there is no pseudo-subject, or the statistic is none in nats.
    """
    value = _in_nats(logprob, statistic)
    owner = np.asarray(stands_for.values, dtype=str)
    facts = [label for label in map(str, value.fact.values) if label in set(owner)]
    if not (owner != "").any():
        raise ReadingError(
            "No fact has a pseudo-subject of its own, so there is no trace. Draw roles with assign_roles, which makes "
            "them."
        )
    groups = {fact: value.values[owner == fact] for fact in dict.fromkeys(owner[owner != ""])}
    table = np.full((len(groups), max(map(len, groups.values()))), np.nan)
    for row, group in zip(table, groups.values(), strict=True):
        row[: len(group)] = group
    every = xr.DataArray(table, {"fact": list(groups)}, ("fact", TWIN))
    noise, freedom = _within(every, TWIN)  # of all, also of those whose fact was not read
    known, never = value.sel(fact=facts), every.sel(fact=facts)
    counts = known.notnull().astype(int), never.notnull().sum(TWIN)
    return _traces(known, never.mean(TWIN), *counts, noise, freedom, statistic, level)


def shared_trace(
    logprob: xr.DataArray, never: xr.DataArray, statistic: str = STATISTIC, *, level: float = 0.95
) -> xr.Dataset:
    """Trace of every fact above the mean of never-known facts about other things.

    Args:
        logprob: ``[fact, route]`` or ``[fact, phrasing, route]`` in nats.
        never: which facts were never known, ``[fact]``, boolean.
        statistic: of which the trace is made; one in nats.
        level: of the intervals.

    Returns:
        As ``twin_trace``, over the facts that were known. The noise is the spread of never-known facts, and
        ``shared_error`` that of their mean. Without a never-known fact all but ``old`` is NaN.

    Raises:
        ReadingError: if the statistic is none in nats.
    """
    value = _in_nats(logprob, statistic)
    reference = value.isel(fact=np.flatnonzero(never.values))
    known = value.isel(fact=np.flatnonzero(~never.values))
    noise, freedom = _within(reference, "fact")
    each = known.notnull().astype(int)
    mean, n_never = float(reference.mean()), int(reference.notnull().sum())
    traces = _traces(known, xr.full_like(known, mean), each, each * 0 + n_never, noise, freedom, statistic, level)
    return traces.assign(shared_error=noise / np.sqrt(n_never) if n_never else np.nan)


def _traces(
    old: xr.DataArray,
    never: xr.DataArray,
    n_knew: xr.DataArray,
    n_never: xr.DataArray,
    noise: float,
    freedom: int,
    statistic: str,
    level: float,
) -> xr.Dataset:
    """The traces from the means of both kinds of readings and their counts, each ``[fact]``."""
    trace = old - never
    n_readings = [count.where(count > 0).astype(float) for count in (n_knew, n_never)]
    error = noise * np.sqrt(1 / n_readings[0] + 1 / n_readings[1])
    half = error * (float(stats.t.ppf(0.5 + level / 2, freedom)) if freedom else np.nan)
    in_nats = {"old": old, "never": never, "trace": trace, "error": error, "low": trace - half, "high": trace + half}
    counts = {"n_knew": n_knew, "n_never": n_never, "noise": noise, "freedom": freedom, "shared_error": 0.0}
    return xr.Dataset({**in_nats, **counts}, attrs={"statistic": statistic, "level": level})


def _within(never: xr.DataArray, dim: str) -> tuple[float, int]:
    """Standard deviation along ``dim``, pooled over everything else, and its degrees of freedom."""
    freedom = int((never.notnull().sum(dim) - 1).clip(0).sum())
    squares = float(((never - never.mean(dim)) ** 2).sum())
    return (float(np.sqrt(squares / freedom)), freedom) if freedom else (np.nan, 0)


def _in_nats(logprob: xr.DataArray, statistic: str) -> xr.DataArray:
    value = statistic_of_old(logprob, statistic)
    if statistic not in IN_NATS:
        raise ReadingError(
            f"A trace is a difference in nats, and {statistic!r} is not in nats. Take one of {', '.join(IN_NATS)}."
        )
    return value
