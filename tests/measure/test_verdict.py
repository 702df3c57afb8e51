"""The tables of the verdict fit together, and of several reasons the first in order is given."""

import itertools

import numpy as np
import pytest
import xarray as xr

from mechmask.measure.verdict import DECIDED, NO_REMEDY, REMEDIES, VERDICTS, describe, judge, reason_of, took


def _judged(low=0.2, high=0.4, *, old=9.0, never=1.0, noise=1.0, taken=True, share=0.25):
    before = xr.Dataset({"old": ("fact", [old]), "never": ("fact", [never]), "noise": noise})
    ratio = xr.Dataset({"normalised_low": ("fact", [low]), "normalised_high": ("fact", [high])})
    judged = judge(before, ratio, xr.DataArray([taken], dims="fact"), share)
    return judged.verdict.item(), judged.reason.item(), judged.remedy.item()


@pytest.mark.parametrize(
    ("low", "high", "verdict", "reason"),
    [
        (-0.5, 0.74, "masked", "above_margin"),
        (0.75, 1.25, "erased", "within_margin"),
        (1.26, 2.0, "suppressed", "below_margin"),
        (0.5, 1.1, "undecided", "across_upper_margin"),
        (0.5, 0.75, "undecided", "across_upper_margin"),
        (0.9, 1.3, "undecided", "across_lower_margin"),
        (1.25, 1.3, "undecided", "across_lower_margin"),
        (0.7, 1.3, "undecided", "across_both_margins"),
        (-np.inf, np.inf, "undecided", "not_known_before"),
        (np.nan, np.nan, "undecided", "not_known_before"),
    ],
)
def test_where_the_interval_lies_decides(low, high, verdict, reason):
    assert _judged(low, high)[:2] == (verdict, reason)
    assert reason_of(np.array(low), np.array(high), 0.25) == reason


def test_the_first_reason_in_order_is_given():
    """All five obstacles in every combination; whatever is there first in ``REMEDIES`` is named."""
    for gone in itertools.product([True, False], repeat=5):
        obstacles = dict(zip(REMEDIES, gone, strict=False))
        assert list(obstacles) == ["did_not_take", "not_read", "no_reference", "noise_unknown", "not_known_before"]
        verdict, reason, remedy = _judged(
            *((np.nan, np.nan) if obstacles["not_known_before"] else (0.2, 0.4)),
            taken=not obstacles["did_not_take"],
            old=np.nan if obstacles["not_read"] else 9.0,
            never=np.nan if obstacles["no_reference"] else 1.0,
            noise=np.nan if obstacles["noise_unknown"] else 1.0,
        )
        expected = next((name for name, there in obstacles.items() if there), None)
        assert (verdict, reason) == (("undecided", expected) if expected else ("masked", "above_margin"))
        assert remedy == (REMEDIES[expected] if expected else NO_REMEDY)


def test_every_reason_has_its_verdict_or_its_remedy_and_words():
    assert set(DECIDED.values()) | {"undecided"} == set(VERDICTS)
    assert not set(DECIDED) & set(REMEDIES)
    for reason in (*DECIDED, *REMEDIES):
        assert describe(reason) != reason.replace("_", " "), "words of its own"
    for remedy in REMEDIES.values():
        assert remedy[0].isupper() and remedy.endswith(".")
    assert describe("of_another_version") == "of another version"


def test_what_took():
    logprob = xr.DataArray(
        [[-3, -1, -2], [-1, -1, -2], [-3, -2, -1], [-3, -1, np.nan], [-3, np.nan, -2]],
        {"route": ["old", "new", "distractor_0"]},
        ("fact", "route"),
    )
    reading = xr.Dataset({"logprob": logprob})
    assert took(reading).values.tolist() == [True, False, False, True, False]
    recalled = xr.zeros_like(logprob, dtype=bool)
    recalled[1:3, 1] = True
    recalled[4, 0] = True
    assert took(reading.assign(recalled=recalled)).values.tolist() == [True, True, True, True, False]
