"""The verdict again where the weights are held in narrower types: what it owes to rounding, fact by fact.

Model and correction are the same and so are the facts, so that everything is compared with float32 in pairs.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
import xarray as xr

from mechmask.errors import ReadingError
from mechmask.measure.clustered_share import share_of_facts
from mechmask.measure.normalised import group_normalised, normalised_difference
from mechmask.measure.reading import require, require_same
from mechmask.measure.statistics import Interval, over_facts
from mechmask.measure.summary import overview

CONTROL = "float32"
FINEST_FIRST = (CONTROL, "bfloat16", "int8", "nf4")

_WHAT = "A comparison of precisions"
_GROUP = ("trace_after", "normalised", "verdict")


def precision_table(results: Mapping[str, xr.Dataset], level: float = 0.95) -> xr.Dataset:
    """What became of the old values under each precision, and what changed beside float32.

    Args:
        results: what ``erase_index`` gave of a correction whose weights before and after were both held in a type, by
            its name; ``float32`` among them.
        level: of the intervals of changes.

    Returns:
        What ``erase_index`` gives, along ``precision``; beside it

        * ``[precision, fact]``: ``verdict_changed`` (boolean) and ``verdict_reversed``, where it is decided both
          times and not alike; ``trace_change``, that of the trace after the correction, in nats;
        * ``[precision]``: ``mean_trace_change`` in nats and ``group_change``, the change in EI* of the group (a
          difference of ratios), each with ``_low`` and ``_high`` at ``level``, paired by fact; ``group_normalised``,
          EI* of the group, with Fieller's interval at the result's ``interval_level``; counts ``n_changed`` and
          ``n_reversed``.

    Raises:
        ReadingError: if there is no float32, or two results are not of the same facts.
    """
    if CONTROL not in results:
        raise ReadingError(
            f"{_WHAT} is with {CONTROL}, which is not among {', '.join(results) or 'none'}. Read it too."
        )
    for name, result in results.items():
        require(result, f"{_WHAT} ({name})", variables=("trace_before", "trace_after", "verdict"), dims=("fact",))
    require_same(results, _WHAT, dims=("fact",), attributes=("statistic", "score", "reference", "margin_share"))
    control = results[CONTROL]
    axis = xr.DataArray(list(results), dims="precision", name="precision")
    rows = [_compared(result, control, level) for result in results.values()]
    return xr.concat(rows, axis, combine_attrs="drop_conflicts").assign_attrs(change_level=level)


def precision_overview(table: xr.Dataset) -> pd.DataFrame:
    """One row per precision: the group under it, and what changed beside float32.

    Args:
        table: what ``precision_table`` returned: ``trace_change[precision, fact]`` in nats and so on.

    Returns:
        ``n`` facts; mean ``trace_after`` in nats with its interval, EI* of the group (``normalised``, a ratio) with
        its own, and the ``verdict`` on the group, as ``overview`` has them; ``mean_trace_change`` in nats and
        ``group_change``, a difference of ratios, with intervals; ``n_changed`` and ``n_reversed``, verdicts that are
        other than in float32, and those that are decided both times, with the interval of the share of changed ones
        (see ``share_of_facts``).

    Raises:
        ReadingError: if it is no such table.
    """
    require(table, _WHAT, variables=("trace_change", "n_changed", "group_change"), dims=("precision", "fact"))
    level = float(table.attrs.get("change_level", 0.95))
    return pd.DataFrame.from_dict(
        {str(name): _row(table.sel(precision=name, drop=True), level) for name in table.precision.values},
        orient="index",
    ).rename_axis("precision")


def _compared(result: xr.Dataset, control: xr.Dataset, level: float) -> xr.Dataset:
    change = result.trace_after - control.trace_after
    changed = result.verdict != control.verdict
    both_decided = (result.verdict != "undecided") & (control.verdict != "undecided")
    mean = over_facts(change, level)
    intervals = {
        "mean_trace_change": Interval(float(mean.estimate), float(mean.low), float(mean.high), int(mean.n)),
        "group_change": normalised_difference(control, result, level),
        "group_normalised": group_normalised(result),
    }
    numbers = {"n_changed": int(changed.sum()), "n_reversed": int((changed & both_decided).sum())}
    for name, interval in intervals.items():
        numbers |= {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
    per_fact = {"trace_change": change, "verdict_changed": changed, "verdict_reversed": changed & both_decided}
    return result.assign(per_fact).assign(numbers)


def _row(one: xr.Dataset, level: float) -> dict[str, object]:
    group = overview(one, level).iloc[0]
    row: dict[str, object] = {
        name: group[name]
        for name in group.index
        if name == "n" or name.removesuffix("_low").removesuffix("_high") in _GROUP
    }
    for name in ("mean_trace_change", "group_change"):
        row |= {end: float(one[end]) for end in (name, f"{name}_low", f"{name}_high")}
    share = share_of_facts(one.verdict_changed, level)
    counts = {"n_changed": int(one.n_changed), "n_reversed": int(one.n_reversed)}
    return row | counts | {"changed_share_low": share.low, "changed_share_high": share.high}
