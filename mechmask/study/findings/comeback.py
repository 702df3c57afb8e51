"""Finding 6: masked content returns, by relearning and by another context."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import xarray as xr

from mechmask.measure.clustered_share import share_of_facts
from mechmask.measure.increment import increment
from mechmask.measure.pool import pooled
from mechmask.measure.statistics import Interval, mean_interval
from mechmask.study.draws import DrawnResults
from mechmask.study.findings.correlations import correlated
from mechmask.study.findings.finding import Claim, Measured, facts_in

_MASKED = "old_masked"


def _earlier(results: DrawnResults, than: str) -> Measured:
    """Of the facts that one arm recalls before the other: the share that the masked model recalls first."""
    tables = results.each("results/recall")
    first, second = (
        pooled({draw: table[["steps", "reached"]].sel(arm=arm) for draw, table in tables.items()})
        for arm in (_MASKED, than)
    )
    found = increment(first, second)
    counts = f"{int(found.n_earlier)} earlier, {int(found.n_later)} later, {int(found.n_tied)} tied"
    shift = f"shift {float(found['shift']):+.1f} [{float(found.shift_low):.1f}, {float(found.shift_high):.1f}] steps"
    told = found.difference.isel(fact=np.flatnonzero(found.difference.fillna(0).values))
    interval = share_of_facts(told > 0)
    note = f"{counts}, {shift}, exact Wilcoxon p = {float(found.p_value):.2g}"
    return Measured(interval, facts_in(len(tables)), note)


def _renewed(results: DrawnResults, order: str) -> Measured:
    """Mean over draws of what contradicted facts regain above never facts."""
    tables = [
        table.sel(order=order, quantity="margin", asked="prompt") for table in results.each("results/renewal").values()
    ]
    flips = sum(int((table.excess > 0).sum()) for table in tables), sum(int(table.n) for table in tables)
    means = [float(table.difference) for table in tables]
    note = f"above zero on {flips[0]} of {flips[1]} facts"
    if len(means) < 2:
        one = tables[0]
        ends = (float(one.difference), float(one.difference_low), float(one.difference_high))
        return Measured(Interval(*ends, int(one.n)), "facts of one draw", note)
    return Measured(mean_interval(np.array(means)), "draws", note)


_ARMS = {
    "old_fresh": ("a fresh base learns it", "4 steps against 27 (Llama-3.2-3B)"),
    "novel": ("a third value is learned", "4 against 6; earlier on 12 of 18, p = .002"),
    "twin": ("a twin that never knew it learns it", "no such arm"),
}  # never-known facts are others: there is nothing to pair


def _reacquired(part: str, facts: str, arms: Sequence[str]) -> list[Claim]:
    claim = partial(Claim, 6, part, facts)
    sooner = [
        claim(
            *(f"a masked value is recalled again before {than}", paper),
            *("share of facts that are earlier", "share", partial(_earlier, than=arm)),
            above=0.5,
        )
        for arm in arms
        for than, paper in (_ARMS[arm],)
    ]
    reversal = claim(
        *("the more is masked, the less one step brings back (the reversal)", "+.67 (n = 18)"),
        *("Pearson's correlation of index and recovery, held-out phrasings", "correlation"),
        partial(correlated, name="results/one_step", x="index", y="recovery", one=_held_out),
        above=0,
    )
    return [*sooner, reversal]


def _held_out(table: xr.Dataset) -> xr.Dataset:
    contradicted = np.flatnonzero(table.role.values == "contradicted")
    return table.sel(asked="held_out", drop=True).isel(fact=contradicted)


CLAIMS = [
    *_reacquired("reacquisition", "taught", ("old_fresh", "novel", "twin")),
    *_reacquired("reacquisition_known", "known", ("novel",)),
    *(
        Claim(
            *(6, part, facts, f"another context brings part of the margin back, {order}"),
            *("+0.16 nats, on 14 of 18 (no control)", "margin regained above never facts", "nats"),
            partial(_renewed, order=order),
            above=0,
        )
        for part, facts in (("renewal", "taught"), ("renewal_known", "known"))
        for order in ("ABA", "ABC", "AAB")
    ),
]
