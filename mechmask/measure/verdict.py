"""The verdict on one fact: masked, erased, suppressed or undecided, with the reason and what would decide it.

A fact is held against facts that were never known, twice: before the change its standing has to lie surely above
theirs, or nothing can have been erased; after the change its interval decides. The bounds are where one more
never-known fact would fall (``prediction_interval``). An edit that did not take is not judged. Every sentence about a
verdict is in this file.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from mechmask.measure.commit import lead
from mechmask.measure.statistics import Interval

FEWEST_NEVER = 8  # below this the spread of never-known facts is too uncertain for a verdict (DESIGN)
VERDICTS = ("masked", "erased", "suppressed", "undecided")

DECIDED = {"above_never": "masked", "within_never": "erased", "below_never": "suppressed"}
"""The verdict that follows from each reason that decides."""

REMEDIES = {
    "did_not_take": (
        "The edit has to take first: give it more steps or a stronger setting until the new value leads on the prompt."
    ),
    "few_never": f"Add never facts until at least {FEWEST_NEVER} have a standing before and after the change.",
    "few_distractors": "Give the fact at least two distractors; eight or more make its interval narrow.",
    "not_known_before": (
        "Use a fact that the model knows before the change, or install it for more steps; if its standing before is "
        "high but uncertain, add distractors or phrasings."
    ),
    "across_upper_bound": "Add distractors or phrasings to this fact, or never facts, or repeat with another draw.",
    "across_lower_bound": "Add distractors or phrasings to this fact, or never facts, or repeat with another draw.",
    "across_both_bounds": (
        "Add distractors and phrasings: the interval of this fact is wider than the range of the never-known facts."
    ),
}
"""What would decide a fact, by the reason for which it is undecided; in the order in which reasons are looked for."""

NO_REMEDY = "none needed"

_DESCRIPTIONS = {
    "did_not_take": "the edit did not take",
    "few_never": "too few never facts",
    "few_distractors": "too few distractors",
    "not_known_before": "not shown to be known before",
    "across_upper_bound": "the interval crosses the upper bound of never-known facts",
    "across_lower_bound": "the interval crosses the lower bound of never-known facts",
    "across_both_bounds": "the interval is wider than the range of never-known facts",
}


def took(after: xr.Dataset) -> xr.DataArray:
    """Whether a change took: the new value leads every other route, or greedy decoding produces it.

    Args:
        after: reading of the prompts after the change, ``logprob[fact, route]`` in nats and, where it was read,
            ``recalled[fact, route]``.

    Returns:
        ``[fact]``, boolean. A tie is not a lead.
    """
    leads = lead(after.logprob) > 0
    if "recalled" in after:
        leads = leads | after.recalled.sel(route="new", drop=True).astype(bool)
    return leads.rename("took")


def judge(
    before: xr.Dataset, after: xr.Dataset, never_before: Interval, never_after: Interval, taken: xr.DataArray
) -> xr.Dataset:
    """The verdict on every fact.

    Args:
        before: ``standing_interval`` before the change: ``low[fact]`` and ``high[fact]`` in nats.
        after: the same after it.
        never_before: where the standing of one more never-known fact would fall before the change, in nats.
        never_after: the same after it.
        taken: whether the change took, ``[fact]``.

    Returns:
        Over ``fact``, as text: ``verdict``; ``reason``, a key of ``DECIDED`` or ``REMEDIES``; ``remedy``, what would
        decide an undecided fact (``none needed`` where it is decided).
    """
    few = min(never_before.n, never_after.n) < FEWEST_NEVER
    over, under = after.high > never_after.high, after.low < never_after.low
    conditions = {
        "did_not_take": ~taken,
        "few_never": xr.full_like(taken, few),
        "few_distractors": before.low.isnull() | after.low.isnull(),
        "not_known_before": ~(before.low > never_before.high),
        "above_never": after.low > never_after.high,
        "below_never": after.high < never_after.low,
        "across_both_bounds": over & under,
        "across_upper_bound": over,
        "across_lower_bound": under,
    }
    reason = np.select([condition.values for condition in conditions.values()], list(conditions), "within_never")
    of = {
        "verdict": [DECIDED.get(label, "undecided") for label in reason],
        "reason": reason,
        "remedy": [REMEDIES.get(label, NO_REMEDY) for label in reason],
    }
    return xr.Dataset({name: ("fact", np.asarray(values, dtype=str)) for name, values in of.items()}, taken.coords)


def describe(reason: str) -> str:
    """The reason for which a fact is undecided, in words: ``few_never`` is "too few never facts"."""
    return _DESCRIPTIONS.get(reason, reason.replace("_", " "))
