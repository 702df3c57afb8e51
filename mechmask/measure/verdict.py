"""The verdict on a fact or a group of facts: masked, erased, suppressed or undecided, with the reason.

Masked: the trace of old lies surely above a margin, a stated share of the trace that was there before. Erased: surely
within that margin on both sides of never known, by two one-sided tests (Schuirmann 1987). Suppressed: surely below it.
All three are read off the interval of EI* at ``1 - 2 alpha``, so that each wrong verdict has a rate of at most
``alpha`` where noise is normal, and alike for known and never-known readings; ``measure/error_rates.py`` measures what
it is. A fact whose trace before was not surely above nothing is not judged, nor an edit that did not take. Every
sentence about a verdict is in this file.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from mechmask.measure.commit import lead

ALPHA = 0.05
MARGIN_SHARE = 0.25  # of the trace before: what is left below it is called nothing, what is above it something

VERDICTS = ("masked", "erased", "suppressed", "undecided")

DECIDED = {"above_margin": "masked", "within_margin": "erased", "below_margin": "suppressed"}
"""The verdict that follows from each reason that decides."""

REMEDIES = {
    "did_not_take": (
        "The edit has to take first: give it more steps or a stronger setting until the new value leads on the prompt."
    ),
    "not_read": "Give the fact distractors, or choose a statistic that needs none (log_odds).",
    "no_reference": (
        "Give the fact a never-known reference: pseudo-subjects that stand for it, a twin, or facts of role never."
    ),
    "noise_unknown": (
        "Read never-known facts twice: add never facts or pseudo-subjects, a third twin, or a replicate of the twins."
    ),
    "not_known_before": (
        "Use a fact that the model knows before the change, or install it for more steps; if its trace before is high "
        "but uncertain, add phrasings, distractors or replicates."
    ),
    "across_upper_margin": "Add phrasings, distractors or replicates of the reference, or judge the group of facts.",
    "across_lower_margin": "Add phrasings, distractors or replicates of the reference, or judge the group of facts.",
    "across_both_margins": (
        "Add phrasings, distractors and replicates: the interval of this fact is wider than the margin."
    ),
}
"""What would decide a fact, by the reason for which it is undecided; in the order in which reasons are looked for."""

NO_REMEDY = "none needed"

_DESCRIPTIONS = {
    "did_not_take": "the edit did not take",
    "not_read": "the statistic was not read",
    "no_reference": "nothing never known to hold it against",
    "noise_unknown": "the noise of never-known facts is not known",
    "not_known_before": "not shown to be known before",
    "across_upper_margin": "the interval crosses the margin above never known",
    "across_lower_margin": "the interval crosses the margin below never known",
    "across_both_margins": "the interval is wider than the margin",
    "above_margin": "the trace is surely above the margin",
    "within_margin": "the trace is surely within the margin of never known",
    "below_margin": "the trace is surely below the margin",
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


def judge(before: xr.Dataset, normalised: xr.Dataset, taken: xr.DataArray, share: float) -> xr.Dataset:
    """The verdict on every fact.

    Args:
        before: traces before the change: ``old[fact]``, ``never[fact]`` and ``noise`` in nats.
        normalised: EI* of every fact: ``normalised``, ``normalised_low`` and ``normalised_high`` ``[fact]``, ratios.
        taken: whether the change took, ``[fact]``.
        share: of the trace before that is the margin.

    Returns:
        Over ``fact``, as text: ``verdict``; ``reason``, a key of ``DECIDED`` or ``REMEDIES``; ``remedy``, what would
        decide an undecided fact (``none needed`` where it is decided).
    """
    low, high = normalised.normalised_low.values, normalised.normalised_high.values
    obstacles = {
        "did_not_take": ~taken.values,
        "not_read": np.isnan(before.old.values),
        "no_reference": np.isnan(before.never.values),
        "noise_unknown": np.full(taken.shape, bool(np.isnan(before.noise))),
    }
    reason = np.select(list(obstacles.values()), list(obstacles), reason_of(low, high, share))
    of = {
        "verdict": [DECIDED.get(label, "undecided") for label in reason],
        "reason": reason,
        "remedy": [REMEDIES.get(label, NO_REMEDY) for label in reason],
    }
    return xr.Dataset({name: ("fact", np.asarray(values, dtype=str)) for name, values in of.items()}, taken.coords)


def reason_of(low: np.ndarray, high: np.ndarray, share: float) -> np.ndarray:
    """The reason that an interval of EI* gives: a key of ``DECIDED``, or of ``REMEDIES`` where it does not decide.

    Args:
        low: lower bounds of EI*, ``[...]``, a ratio; without end or NaN where nothing was surely known before.
        high: upper bounds.
        share: of the trace before that is the margin.
    """
    unknown = ~(np.isfinite(low) & np.isfinite(high))
    conditions = {
        "not_known_before": unknown,
        "above_margin": high < 1 - share,
        "below_margin": low > 1 + share,
        "within_margin": (low >= 1 - share) & (high <= 1 + share),
        "across_both_margins": (low < 1 - share) & (high > 1 + share),
        "across_upper_margin": low < 1 - share,
    }
    return np.select(list(conditions.values()), list(conditions), "across_lower_margin")


def describe(reason: str) -> str:
    """A reason in words: ``not_known_before`` is "not shown to be known before"."""
    return _DESCRIPTIONS.get(reason, reason.replace("_", " "))
