"""Finding 6: masked content returns, by relearning and by another context."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np
import xarray as xr

from mechmask.measure.increment import increment
from mechmask.measure.pool import pooled
from mechmask.measure.statistics import Interval, mean_interval, over_facts
from mechmask.study.draws import DrawnResults
from mechmask.study.findings.correlations import correlated
from mechmask.study.findings.finding import Claim, Measured, facts_in

_MASKED = "old_masked"


def _sooner(results: DrawnResults, than: str) -> Measured:
    """By how many steps the masked model recalls a value before the other arm does, paired by fact.

    Of several draws, the mean of their shifts. A share of facts that are earlier would decide nothing there: five draws
    of which each is wholly earlier reach down to 48%.
    """
    arms = {
        draw: [table[["steps", "reached"]].sel(arm=arm, drop=True) for arm in (_MASKED, than)]
        for draw, table in results.each("results/recall").items()
    }
    found = [increment(*pair) for pair in arms.values()]
    counts = ", ".join(f"{sum(int(one[f'n_{kind}']) for one in found)} {kind}" for kind in ("earlier", "later", "tied"))
    n = sum(int(one.difference.notnull().sum()) for one in found)
    if len(found) == 1:
        estimate, low, high, p = (float(found[0][name]) for name in ("shift", "shift_low", "shift_high", "p_value"))
        return Measured(Interval(estimate, low, high, n), facts_in(1), f"{counts}, exact Wilcoxon p = {p:.2g}")
    mean = mean_interval([float(one["shift"]) for one in found])
    return Measured(mean._replace(n=n), facts_in(len(arms)), counts)


def _untaught(results: DrawnResults, reference: str) -> Measured:
    """What comes back of old values that nobody taught while others were, beyond a reference; means of draws."""
    tables = {
        draw: table.sel(reference=reference, quantity="logprob", asked="prompt", drop=True)
        for draw, table in results.each("results/held_half").items()
        if reference in table.reference
    }
    if not tables:
        return Measured(Interval(math.nan, math.nan, math.nan, 0), "", f"no {reference}")
    excess = pooled({draw: table[["excess"]] for draw, table in tables.items()}).excess
    mean = over_facts(excess)
    return Measured(
        Interval(float(mean.estimate), float(mean.low), float(mean.high), int(excess.notnull().sum())),
        facts_in(len(tables)),
    )


def _sampled(results: DrawnResults) -> Measured:
    """How much more often samples of the masked model say old than they say the values of never-known facts."""
    tables = results.each("results/samples")
    k = max(int(n) for table in tables.values() for n in table.k.values)
    means = {draw: table["mean"].sel(k=k) for draw, table in tables.items()}
    more = [float(mean.sel(group="contradicted") - mean.sel(group="never")) for mean in means.values()]
    never = np.mean([float(mean.sel(group="never")) for mean in means.values()])
    return Measured(mean_interval(more), f"draws, {k} samples", f"never-known values in {never:.0%}")


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
            *("by how many steps (Hodges and Lehmann)", "steps", partial(_sooner, than=arm)),
            above=0,
        )
        for arm in arms
        for than, paper in (_ARMS[arm],)
    ]
    reversal = claim(
        *("the more is masked, the less one step brings back (the reversal)", "+.67 (n = 18)"),
        *("Pearson's correlation of index and recovery within draws, held-out phrasings", "correlation"),
        partial(correlated, name="results/one_step", x="index", y="recovery", one=_held_out),
        above=0,
    )
    others = [
        claim(
            *("a value that nobody teaches comes back while others are taught", "not measured"),
            *(f"logp(old) of the half that is only read, {beyond}", "nats", partial(_untaught, reference=reference)),
            above=0,
        )
        for reference, beyond in (("never", "beyond teaching never-known facts"), ("twin", "beyond a twin"))
        if reference in ("never", *arms)
    ]
    sampled = claim(
        *("samples of the masked model say old", "not measured"),
        *("one of k samples, beyond never-known facts", "share", _sampled),
        above=0,
    )
    return [*sooner, reversal, *others, sampled]


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
