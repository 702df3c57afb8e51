"""The tables of the verdict fit together, and of several reasons the first in order is given."""

import itertools

import numpy as np
import pytest
import xarray as xr

from mechmask.measure.statistics import Interval
from mechmask.measure.verdict import DECIDED, NO_REMEDY, REMEDIES, VERDICTS, describe, judge, took

_NEVER = Interval(0.0, -2.0, 2.0, 12)


def _standing(low, high):
    return xr.Dataset({"low": ("fact", np.atleast_1d(low)), "high": ("fact", np.atleast_1d(high))})


def _judged(before=(8.0, 9.0), after=(5.0, 6.0), never_before=_NEVER, never_after=_NEVER, taken=True):
    judged = judge(_standing(*before), _standing(*after), never_before, never_after, xr.DataArray([taken], dims="fact"))
    return judged.verdict.item(), judged.reason.item(), judged.remedy.item()


@pytest.mark.parametrize(
    ("after", "verdict", "reason"),
    [
        ((2.1, 9.0), "masked", "above_never"),
        ((-2.0, 2.0), "erased", "within_never"),
        ((-9.0, -2.1), "suppressed", "below_never"),
        ((2.0, 3.0), "undecided", "across_upper_bound"),
        ((-3.0, 2.0), "undecided", "across_lower_bound"),
        ((-3.0, -2.0), "undecided", "across_lower_bound"),
        ((-2.1, 2.1), "undecided", "across_both_bounds"),
        ((np.nan, np.nan), "undecided", "few_distractors"),
    ],
)
def test_where_the_interval_lies_decides(after, verdict, reason):
    assert _judged(after=after)[:2] == (verdict, reason)


def test_the_first_reason_in_order_is_given():
    """All four obstacles in every combination; whatever is there first in ``REMEDIES`` is named."""
    few = _NEVER._replace(n=7)
    for gone in itertools.product([True, False], repeat=4):
        obstacles = dict(zip(REMEDIES, gone, strict=False))
        assert list(obstacles) == ["did_not_take", "few_never", "few_distractors", "not_known_before"]
        before = (1.0, 9.0) if obstacles["not_known_before"] else (8.0, 9.0)
        options = {
            "taken": not obstacles["did_not_take"],
            "never_before": few if obstacles["few_never"] else _NEVER,
            "before": (np.nan, np.nan) if obstacles["few_distractors"] else before,
        }
        verdict, reason, remedy = _judged(**options)
        expected = next((name for name, there in obstacles.items() if there), None)
        assert (verdict, reason) == (("undecided", expected) if expected else ("masked", "above_never"))
        assert remedy == (REMEDIES[expected] if expected else NO_REMEDY)


@pytest.mark.parametrize("bounds", [{"never_before": _NEVER._replace(n=7)}, {"never_after": _NEVER._replace(n=7)}])
def test_eight_never_facts_are_needed_on_both_sides(bounds):
    assert _judged(**bounds)[1] == "few_never"


def test_every_reason_has_its_verdict_or_its_remedy_and_words():
    assert set(DECIDED.values()) | {"undecided"} == set(VERDICTS)
    assert not set(DECIDED) & set(REMEDIES)
    for reason, remedy in REMEDIES.items():
        assert remedy[0].isupper() and remedy.endswith(".")
        assert describe(reason) != reason.replace("_", " "), "words of its own"
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
