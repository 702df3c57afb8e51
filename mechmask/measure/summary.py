"""The one table: erase index beside commit layer, per fact; and how often which verdict fell, and why none did."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from mechmask.measure.clustered_share import share_of_facts
from mechmask.measure.discrimination import auroc, clustered_auroc
from mechmask.measure.names import state_name
from mechmask.measure.normalised import group_normalised
from mechmask.measure.reading import require
from mechmask.measure.statistics import Interval, over_facts
from mechmask.measure.verdict import DECIDED, MARGIN_SHARE, REMEDIES, VERDICTS, describe, reason_of

_ONE_CHANGE = "change"

_COLUMNS = (
    *("index", "index_low", "index_high", "paper_verdict"),
    *("normalised", "normalised_low", "normalised_high"),
    *("trace_before", "trace_before_low", "trace_before_high", "trace_after", "trace_after_low", "trace_after_high"),
    *("took", "verdict", "reason", "commit_layer", "commit_low", "commit_high", "recalled", "remedy"),
)


def summary(result: xr.Dataset) -> pd.DataFrame:
    """One row per fact (and per state, where there are several).

    Args:
        result: what ``erase_index`` returned, or a study's ``erase``; columns that it lacks are left out.

    Returns:
        In nats unless stated otherwise: erase index with interval and the paper's verdict, normalised index (a ratio),
        trace before and after, whether the change took, the verdict with its reason, the commit layer of the new value
        with its range over phrasings (layers), whether greedy decoding produces new, and what would decide an undecided
        fact.

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
        level: of the intervals of means and shares.

    Returns:
        ``n`` facts, and of how many ``draws`` they are where ``seed[fact]`` says so (the mean of a draw is then one
        observation); ``index``, the mean erase index, ``trace_before`` and ``trace_after``, the mean traces, in nats
        with Student's intervals; ``normalised``, EI* of the group (a ratio of means with Fieller's interval at the
        result's ``interval_level``, see ``group_normalised``), and from it the ``verdict`` on the group and its
        ``reason``; ``auroc``, the probability that a fact's old value stands above the reference of one of them after
        the change (0.5 is as never known; missing where all facts have one reference), its interval by DeLong or, of
        several draws, with the draw as cluster; ``took``, how many facts the change took on; for every verdict on
        single facts its count and the exact interval of its share (see ``share_of_facts``); ``undecided_reasons``, such
        as ``not_known_before: 3`` (``none`` where all are decided). Intervals are ``_low`` and ``_high``.

    Raises:
        ReadingError: if ``result`` lacks the index, the verdict or a trace.
    """
    variables = ("index", "verdict", "reason", "took", "trace_before", "trace_after", "shared_error", "n_never")
    require(result, "The overview", variables=variables, dims=("fact",))
    rows = {state: _row(one, level) for state, one in _states(result).items()}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("state")


def conclusion(result: xr.Dataset) -> str:
    """The outcome in words.

    Args:
        result: as for ``overview``, with ``index[fact]`` in nats and ``paper_verdict[fact]``.

    Returns:
        Two sentences: what the raw index says, and what is left of the trace of old values. Where facts are undecided,
        two more: why, and what would decide them.

    Raises:
        ReadingError: if ``result`` lacks what ``overview`` needs, or the paper's verdict.
    """
    require(result, "The conclusion", variables=("index", "paper_verdict", "verdict"), dims=("fact",))
    raw, traces = [], []
    rows = overview(result)
    for state, one in _states(result).items():
        row = rows.loc[state]
        erased = share_of_facts(one.paper_verdict == "erased")
        name = _named(state)
        raw.append(
            f"{name} erases {round(erased.estimate * erased.n)} of {erased.n} old values "
            f"(exact 95% interval {erased.low:.0%} to {erased.high:.0%}; mean index {row['index']:.1f} nats)"
        )
        counts = ", ".join(f"{row[verdict]} {verdict}" for verdict in VERDICTS if row[verdict])
        ratio = f"EI* {row['normalised']:.2f} [{row['normalised_low']:.2f}, {row['normalised_high']:.2f}]"
        group = row["verdict"] if row["verdict"] != "undecided" else f"undecided ({_why_group(row['reason'], one)})"
        traces.append(
            f"{name} leaves {row['trace_after']:.1f} of {row['trace_before']:.1f} nats of trace: as a group the old "
            f"values are {group} ({ratio}), one by one {counts}"
        )
    reference = result.attrs.get("reference", "never facts")
    return (
        f"By the raw erase index (cutoff {result.attrs['cutoff_nats']:g} nats) {' and '.join(raw)}. "
        f"Held against facts that were never known ({_REFERENCES.get(reference, reference)}), "
        f"{'; '.join(traces)}.{_why_undecided(result)}"
    )


def plainly(result: xr.Dataset, known: str) -> str:
    """The outcome for a reader who knows none of the terms, in one sentence.

    Args:
        result: as for ``overview``, along ``state``.
        known: how the model came to know the facts, such as "that it knew".

    Returns:
        How much of the trace of the old values is left after each change, with its interval and the verdict on the
        group.

    Raises:
        ReadingError: if ``result`` lacks what ``overview`` needs.
    """
    rows: dict[str, dict[str, Any]] = overview(result).to_dict("index")
    parts = []
    for state, row in rows.items():
        why = _plain_reason(row["reason"], _states(result)[state])
        said = row["verdict"] if row["verdict"] != "undecided" else f"undecided: {why}"
        where = _PLAIN.get(state, f"after {state_name(state)}")
        parts.append(f"{_share_left(row)} {where} ({said})")
    name, n = result.attrs.get("model", "the model").split(" + ")[0], next(iter(rows.values()))["n"]
    return f"Corrected on {n} facts {known}, {name} still holds of the old values {', '.join(parts)}."


def _share_left(row: Mapping[str, Any]) -> str:
    """What is left of the trace, with its interval where there is one."""
    left, low, high = (1 - row[name] for name in ("normalised", "normalised_high", "normalised_low"))
    if math.isnan(left):
        return "an unknown share"
    return f"{left:.0%} [{low:.0%}, {high:.0%}]" if math.isfinite(low + high) else f"{left:.0%} [any share]"


def _plain_reason(reason: str, result: xr.Dataset) -> str:
    margin = f"{float(result.attrs.get('margin_share', MARGIN_SHARE)):.0%}"
    plain = {
        "across_upper_margin": f"possibly less than {margin}",
        "across_lower_margin": "possibly pushed below never known",
        "across_both_margins": "the interval is too wide to tell",
    }
    return plain.get(reason, _why_group(reason, result))


def _why_group(reason: str, one: xr.Dataset) -> str:
    """Why a group is undecided; of a change that took on some of its facts, on how many it did not."""
    failed, n = int((~one.took).sum()), one.sizes["fact"]
    return f"new does not lead on {failed} of {n}" if reason == "did_not_take" else describe(reason)


_PLAIN = {"won": "where the new one has just won", "driven_on": "where it was driven on"}

_REFERENCES = {
    "twins": "the same facts in models that were not taught them",
    "reference model": "the same facts in a model that never held them",
    "pseudo-subjects": "invented subjects in the same prompts",
    "never facts": "other facts, held out of all training",
}


def _row(one: xr.Dataset, level: float) -> dict[str, object]:
    row: dict[str, object] = {"n": one.sizes["fact"]}
    if "seed" in one.coords:
        row["draws"] = len(np.unique(one["seed"].values))
    for name in ("index", "trace_before", "trace_after"):
        interval = over_facts(one[name], level)
        row |= {
            name: float(interval.estimate),
            f"{name}_low": float(interval.low),
            f"{name}_high": float(interval.high),
        }
    ratio = group_normalised(one)
    row |= {"normalised": ratio.estimate, "normalised_low": ratio.low, "normalised_high": ratio.high}
    told_apart = _auroc(one, level)
    row |= {"auroc": told_apart.estimate, "auroc_low": told_apart.low, "auroc_high": told_apart.high}
    row |= {"reason": _group_reason(one, ratio), "took": int(one.took.sum())}
    row["verdict"] = DECIDED.get(str(row["reason"]), "undecided")
    for verdict in VERDICTS:
        share = share_of_facts(one.verdict == verdict, level)
        row |= {
            verdict: round(share.estimate * share.n),
            f"{verdict}_share_low": share.low,
            f"{verdict}_share_high": share.high,
        }
    row["undecided_reasons"] = ", ".join(f"{name}: {n}" for name, n in _reasons(one).items()) or "none"
    return row


def _auroc(one: xr.Dataset, level: float) -> Interval:
    """How surely old values after the change are told from their references, each the mean of its readings."""
    if "old_after" not in one or one.attrs.get("reference", "never facts") == "never facts":
        return Interval(math.nan, math.nan, math.nan, one.sizes["fact"])
    referred = np.flatnonzero(one.never_after.notnull().values)
    old, never = (one[name].values[referred] for name in ("old_after", "never_after"))
    if "seed" not in one.coords or len(np.unique(one.seed.values)) < 2:
        return auroc(old, never, level)
    seeds = one.seed.values[referred]
    knows = np.repeat([True, False], len(referred))
    return clustered_auroc(np.concatenate([old, never]), knows, np.tile(seeds, 2), level)


def _group_reason(one: xr.Dataset, ratio: Interval) -> str:
    """Why the group is judged as it is; a group in which a change did not take on some facts is not judged."""
    if not bool(one.took.all()):
        return "did_not_take"
    share = float(one.attrs.get("margin_share", MARGIN_SHARE))
    return str(reason_of(np.array(ratio.low), np.array(ratio.high), share))


def _states(result: xr.Dataset) -> dict[str, xr.Dataset]:
    if "state" not in result.dims:
        return {_ONE_CHANGE: result}
    return {str(state): result.isel(state=i) for i, state in enumerate(result.state.values)}


def _named(state: str) -> str:
    """A state as the subject of a sentence."""
    return _SUBJECTS.get(state, state_name(state))


_SUBJECTS = {
    _ONE_CHANGE: "the change",
    "won": "a correction that has just won",
    "driven_on": "the correction driven on",
    "float32": "the correction in float32",
    "bfloat16": "the correction in bfloat16",
    "int8": "the correction in int8",
    "nf4": "the correction in NF4",
}


def _reasons(one: xr.Dataset) -> dict[str, int]:
    """How many facts are undecided for which reason, in the order of ``REMEDIES``."""
    counts = Counter(str(reason) for reason in one.reason.values[one.verdict.values == "undecided"])
    return {reason: counts[reason] for reason in REMEDIES if counts[reason]}


def _why_undecided(result: xr.Dataset) -> str:
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
