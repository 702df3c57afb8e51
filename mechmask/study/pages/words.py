"""Numbers as a sentence has them: an estimate with its interval and n, in its unit; and what columns are called."""

from __future__ import annotations

import math
from collections.abc import Sequence

import xarray as xr

from mechmask.measure.statistics import Interval, over_facts, several_draws

COLUMNS = {
    "index": "erase index, nats",
    "normalised": "EI*",
    "trace_before": "trace before, nats",
    "trace_after": "trace after, nats",
    "mean_trace_change": "change of the trace, nats",
    "group_change": "change of EI*",
    "n_changed": "other verdicts",
    "n_reversed": "reversed verdicts",
    "p_value": "p",
    "mean_surprise": "mean surprise, nats",
    "n_graded": "n",
    "why": "reason",
    "auroc": "AUROC",
    "kl": "KL, nats per token",
    "commit_layer": "commit layer",
    "memory_mib": "memory, MiB",
}
"""What columns of tables are called on a page; others by their own names."""

_MOST = 4  # numbers that one sentence can carry


def stated(interval: Interval, unit: str = "", digits: int = 2) -> str:
    """An estimate with its interval, such as "2.31 nats [1.20, 3.42]".

    Args:
        interval: the estimate; its ends are NaN where there is none.
        unit: behind it.
        digits: after the decimal point.
    """
    if math.isnan(interval.estimate):
        return "not measured"
    behind = f" {unit}" if unit else ""
    ends = (
        f"[{interval.low:.{digits}f}, {interval.high:.{digits}f}]" if math.isfinite(interval.low) else "(no interval)"
    )
    return f"{interval.estimate:.{digits}f}{behind} {ends}"


def interval_in(table: xr.Dataset, name: str, n: str = "n") -> Interval:
    """The number of that name in a table without dimensions, with ``_low``, ``_high`` and a count.

    Args:
        table: that holds it.
        name: of the estimate.
        n: name of the count.
    """
    ends = ("low", "high") if name == "estimate" else (f"{name}_low", f"{name}_high")
    estimate, low, high = (float(table[one]) for one in (name, *ends))
    return Interval(estimate, low, high, int(table[n]) if n in table else 0)


def mean_over_facts(values: xr.DataArray, level: float) -> tuple[Interval, str]:
    """The mean of ``[fact]`` with its interval, and what its observations are, such as "6 facts".

    Args:
        values: of facts, in any unit.
        level: of the interval.
    """
    mean = over_facts(values, level)
    n = int(mean.n)
    counted = f"{n} {'draws' if several_draws(values) else 'facts'}"
    return Interval(float(mean.estimate), float(mean.low), float(mean.high), n), counted


def listed(parts: Sequence[str]) -> str:
    """The first parts of a list in a sentence, and how many more there are."""
    more = len(parts) - _MOST
    return "; ".join([*parts[:_MOST], *([f"and {more} more in the table or figure"] if more > 0 else [])])


def level_in(table: xr.Dataset) -> float:
    """The level of a table's intervals."""
    return float(table.attrs.get("level", 0.95))


def of_prompt(reading: xr.Dataset) -> xr.Dataset:
    """A reading of the prompt alone."""
    return reading.isel(phrasing=0, drop=True) if "phrasing" in reading.dims else reading


def contradicted_in(reading: xr.Dataset) -> xr.Dataset:
    """The contradicted facts of a reading, where it says who they are."""
    if "role" not in reading.coords:
        return reading
    return reading.isel(fact=[i for i, role in enumerate(reading.role.values.tolist()) if role == "contradicted"])


def draws_named(seeds: Sequence[int]) -> str:
    """Draws by their numbers, such as "draws 0, 1".

    Args:
        seeds: of the draws.
    """
    return f"draw{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
