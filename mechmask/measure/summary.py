"""The one table: erase index beside commit layer, per fact; and how often which verdict fell, and why none did."""

from __future__ import annotations

from collections import Counter

import pandas as pd
import xarray as xr

from mechmask.measure.names import state_name
from mechmask.measure.normalised import group_normalised
from mechmask.measure.reading import require
from mechmask.measure.statistics import mean_interval, proportion_interval
from mechmask.measure.verdict import REMEDIES, VERDICTS, describe

_ONE_CHANGE = "change"

_COLUMNS = (
    *("index", "index_low", "index_high", "paper_verdict"),
    *("normalised", "normalised_low", "normalised_high"),
    *("standing_before", "standing_after", "standing_low", "standing_high", "never_low", "never_high"),
    *("took", "verdict", "reason", "commit_layer", "commit_low", "commit_high", "recalled", "remedy"),
)


def summary(result: xr.Dataset) -> pd.DataFrame:
    """One row per fact (and per state, where there are several).

    Args:
        result: what ``erase_index`` returned, or a study's ``erase``; columns that it lacks are left out.

    Returns:
        In nats unless stated otherwise: erase index with interval and the paper's verdict, normalised index (a ratio),
        standing before and after with the range that never-known facts span, whether the change took, the verdict with
        its reason, the commit layer of the new value with its range over phrasings (layers), whether greedy decoding
        produces new, and what would decide an undecided fact.

    Raises:
        ReadingError: if ``result`` is not a dataset with ``index[fact]`` and ``verdict[fact]``.
    """
    require(result, "The summary", variables=("index", "verdict"), dims=("fact",))
    columns = [name for name in _COLUMNS if name in result]
    order = [str(dim) for dim in ("state", "fact") if dim in result.dims]
    table = result[columns].to_dataframe(dim_order=order)
    return table[columns]


def overview(result: xr.Dataset, level: float = 0.95) -> pd.DataFrame:
    """One row per state: what became of its facts as a group.

    Args:
        result: what ``erase_index`` returned, or a study's ``erase``: ``index[fact]`` in nats, ``verdict[fact]`` and
            so on, with the dimension ``state`` where there are several.
        level: of all intervals.

    Returns:
        ``n`` facts; ``index``, the mean erase index in nats with Student's interval; ``normalised``, EI* of the group
        (a ratio of means with Fieller's interval, see ``group_normalised``); ``took``, how many facts the change took
        on; for every verdict its count and the exact interval of its share; ``undecided_reasons``, such as
        ``few_never: 3`` (``none`` where all are decided). Intervals are ``_low`` and ``_high``. The table of a result
        of an earlier version lacks ``took`` and ``undecided_reasons``.

    Raises:
        ReadingError: if ``result`` lacks the index, the verdict, a standing or the never-known reference.
    """
    variables = ("index", "verdict", "standing_before", "standing_after", "never", "n_never")
    error = ("never_error",) if "never_error" in getattr(result, "variables", ()) else ("never_low", "never_high")
    require(result, "The overview", variables=(*variables, *error), dims=("fact",))
    rows = {state: _row(one, level) for state, one in _states(result).items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("state")


def conclusion(result: xr.Dataset) -> str:
    """The outcome in words.

    Args:
        result: as for ``overview``, with ``index[fact]`` in nats and ``paper_verdict[fact]``.

    Returns:
        Two sentences: what the raw index says, and what the standing says. Where facts are undecided, two more: why,
        and what would decide them.

    Raises:
        ReadingError: if ``result`` lacks what ``overview`` needs, or the paper's verdict.
    """
    require(result, "The conclusion", variables=("index", "paper_verdict", "verdict"), dims=("fact",))
    raw, standing = [], []
    rows = overview(result)
    for state, one in _states(result).items():
        row = rows.loc[state]
        erased = proportion_interval(int((one.paper_verdict == "erased").sum()), one.sizes["fact"])
        name = _named(state)
        raw.append(
            f"{name} erases {round(erased.estimate * erased.n)} of {erased.n} old values "
            f"(exact 95% interval {erased.low:.0%} to {erased.high:.0%}; mean index {row['index']:.1f} nats)"
        )
        counts = ", ".join(f"{row[verdict]} {verdict}" for verdict in VERDICTS if row[verdict])
        ratio = f"{row['normalised']:.2f} [{row['normalised_low']:.2f}, {row['normalised_high']:.2f}]"
        standing.append(f"{name}: {counts} (EI* {ratio})")
    return (
        f"By the raw erase index (cutoff {result.attrs['cutoff_nats']:g} nats) {' and '.join(raw)}. "
        "By the standing of the old value among values that were never taught, against facts that were never known, "
        f"{'; '.join(standing)}.{_why_undecided(result)}"
    )


def _row(one: xr.Dataset, level: float) -> dict[str, object]:
    index, normalised = mean_interval(one["index"].values, level), group_normalised(one, level)
    row: dict[str, object] = {"n": one.sizes["fact"]}
    for name, interval in (("index", index), ("normalised", normalised)):
        row |= {name: interval.estimate, f"{name}_low": interval.low, f"{name}_high": interval.high}
    if "took" in one:
        row["took"] = int(one.took.sum())
    for verdict in VERDICTS:
        share = proportion_interval(int((one.verdict == verdict).sum()), one.sizes["fact"], level)
        row |= {
            verdict: round(share.estimate * share.n),
            f"{verdict}_share_low": share.low,
            f"{verdict}_share_high": share.high,
        }
    if "reason" in one:
        row["undecided_reasons"] = ", ".join(f"{name}: {n}" for name, n in _reasons(one).items()) or "none"
    return row


def _states(result: xr.Dataset) -> dict[str, xr.Dataset]:
    if "state" not in result.dims:
        return {_ONE_CHANGE: result}
    return {str(state): result.isel(state=i) for i, state in enumerate(result.state.values)}


def _named(state: str) -> str:
    return "the change" if state == _ONE_CHANGE else state_name(state)


def _reasons(one: xr.Dataset) -> dict[str, int]:
    """How many facts are undecided for which reason, in the order of ``REMEDIES``."""
    counts = Counter(str(reason) for reason in one.reason.values[one.verdict.values == "undecided"])
    return {reason: counts[reason] for reason in REMEDIES if counts[reason]}


def _why_undecided(result: xr.Dataset) -> str:
    if "reason" not in result:
        return ""
    reasons = {state: _reasons(one) for state, one in _states(result).items()}
    causes = [
        f"{_named(state)}: {', '.join(f'{n} ({describe(reason)})' for reason, n in counts.items())}"
        for state, counts in reasons.items()
        if counts
    ]
    if not causes:
        return ""
    remedies = {REMEDIES[reason]: None for reason in REMEDIES if any(reason in counts for counts in reasons.values())}
    return f" Undecided, {'; '.join(causes)}. What would decide them: {' '.join(remedies)}"
