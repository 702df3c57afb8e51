"""The increment: by how many steps one arm recalls a fact before another, paired by fact (paper 2F, finding 6).

Where one of the two is censored, the sign of the difference is known and its size only from below. The test and the
shift are of times restricted to the budget, ``min(T, budget)``, which are known for every such pair; a pair in which
both are censored says nothing and is left out. How many pairs are of which kind stands beside them.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from mechmask.errors import ReadingError
from mechmask.measure.rank_tests import hodges_lehmann, wilcoxon
from mechmask.measure.reading import require
from mechmask.measure.statistics import proportion_interval


def increment(earlier: xr.Dataset, later: xr.Dataset, level: float = 0.95) -> xr.Dataset:
    """Steps that ``later`` takes less those that ``earlier`` takes, paired by fact.

    Args:
        earlier: what ``steps_to_recall`` returned of the arm that should be faster: ``steps[fact]`` and
            ``reached[fact]``.
        later: the same of the other arm.
        level: of the intervals.

    Returns:
        ``difference[fact]`` in steps, above zero where ``earlier`` is faster, NaN where both are censored or a fact is
        not taught in both; ``bounded[fact]`` (boolean), where one of them is censored and the difference is at least so
        far from zero. Over nothing: the counts ``n_earlier``, ``n_later``, ``n_tied``, ``n_bounded`` and
        ``n_censored_in_both``; ``share_earlier`` of the facts that are not tied, with its exact interval;
        ``p_value``, ``statistic`` and ``n`` of the exact Wilcoxon test, two-sided; ``shift``, the median difference of
        Hodges and Lehmann (1963) in steps, with its interval. Intervals are ``_low`` and ``_high``.

    Raises:
        ReadingError: if the arms have no fact in common, or other budgets.
    """
    for name, arm in (("earlier", earlier), ("later", later)):
        require(arm, f"The increment ({name})", variables=("steps", "reached"), dims=("fact",))
    budgets = [arm.attrs.get("budget_steps") for arm in (earlier, later)]
    if budgets[0] != budgets[1]:
        raise ReadingError(
            f"The increment compares arms of one budget; these have {budgets[0]} and {budgets[1]} steps. Train both "
            "alike."
        )
    first, second = xr.align(earlier, later, join="inner")
    if not first.sizes["fact"]:
        raise ReadingError("The two arms have no fact in common. Give arms that are taught the same facts.")
    both_censored = ~first.reached & ~second.reached
    taught = first.steps.notnull() & second.steps.notnull()
    difference = (second.steps - first.steps).where(~both_censored & taught)
    bounded = (first.reached != second.reached) & taught
    return xr.Dataset(
        {"difference": difference, "bounded": bounded, **_counts(difference, bounded, both_censored & taught, level)},
        attrs={"budget_steps": budgets[0], "level": level},
    )


def _counts(difference: xr.DataArray, bounded: xr.DataArray, censored: xr.DataArray, level: float) -> dict[str, float]:
    known = difference.values[~np.isnan(difference.values)]
    n_earlier, n_later = int((known > 0).sum()), int((known < 0).sum())
    share = proportion_interval(n_earlier, n_earlier + n_later, level)
    test, shift = wilcoxon(known), hodges_lehmann(known, level)
    return {
        "n_earlier": n_earlier,
        "n_later": n_later,
        "n_tied": int((known == 0).sum()),
        "n_bounded": int(bounded.sum()),
        "n_censored_in_both": int(censored.sum()),
        "share_earlier": share.estimate,
        "share_earlier_low": share.low,
        "share_earlier_high": share.high,
        "statistic": test.statistic,
        "p_value": test.p_value,
        "n": test.n,
        "shift": shift.estimate,
        "shift_low": shift.low,
        "shift_high": shift.high,
    }
