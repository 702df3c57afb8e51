"""Steps to recall against a count by hand, curves against the product of Kaplan and Meier written out."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from mechmask.errors import ReadingError
from mechmask.measure.increment import increment
from mechmask.measure.reacquisition import (
    course_of_arms,
    curves_of_arms,
    hazard_ratios,
    steps_to_recall,
    steps_to_share,
)
from mechmask.measure.survival import hazard_ratio


def recalled(rows, steps=(0, 2, 4, 6)):
    """A row for each fact."""
    return xr.DataArray(
        np.array(rows, dtype=float).T, {"step": list(steps), "fact": list("abcde")[: len(rows)]}, ("step", "fact")
    )


ROWS = [[0, 1, 1, 1], [0, 1, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1], [np.nan] * 4]


def test_steps_to_recall():
    table = steps_to_recall(recalled(ROWS))
    np.testing.assert_array_equal(table.steps, [2, 6, 6, 0, np.nan])
    np.testing.assert_array_equal(table.reached, [True, True, False, True, False])
    np.testing.assert_array_equal(table.n_lapses, [0, 1, 0, 0, np.nan])
    assert table.attrs["budget_steps"] == 6
    shuffled = steps_to_recall(recalled(ROWS).isel(step=[2, 0, 3, 1], fact=[4, 3, 2, 1, 0]))
    xr.testing.assert_identical(shuffled.sortby("fact"), table)


def test_what_is_recalled_and_then_lost_is_censored():
    table = steps_to_recall(recalled([[0, 1, 1, 0]]))
    assert not table.reached.item() and table.steps.item() == 6 and table.n_lapses.item() == 1


def test_steps_to_share_counts_facts():
    assert np.isnan(steps_to_share(recalled(ROWS), 0.9)) and steps_to_share(recalled(ROWS), 0.75) == 2
    nine_of_ten = xr.DataArray(np.r_[np.ones(9), 0][None], {"step": [3]}, ("step", "fact"))
    assert steps_to_share(nine_of_ten, 0.9) == 3
    with pytest.raises(ReadingError, match="not a share"):
        steps_to_share(recalled(ROWS), 0)


def test_a_fact_that_was_read_at_some_steps_only_is_refused():
    with pytest.raises(ReadingError, match="at some of the steps only"):
        steps_to_recall(recalled([[0, np.nan, 1, 1]]))
    with pytest.raises(ReadingError, match="dimension step"):
        steps_to_recall(recalled(ROWS).isel(step=0))


def arms(**steps):
    """By arm, steps of each fact; a negative one is censored there."""
    values = np.array(list(steps.values()), dtype=float)
    coords = {"arm": list(steps), "fact": [f"f{i}" for i in range(values.shape[1])]}
    dims = ("arm", "fact")
    return xr.Dataset({"steps": (dims, abs(values)), "reached": (dims, values > 0)}, coords, {"budget_steps": 10.0})


def test_curves_are_the_product_of_kaplan_and_meier():
    table = arms(fast=[1, 2, 2, 4, np.nan], slow=[4, -10, 8, -10, 9])
    curves = curves_of_arms(table, np.arange(11))
    np.testing.assert_allclose(curves.survival.sel(arm="fast"), [1, 0.75, 0.25, 0.25, *[0] * 7])
    np.testing.assert_allclose(curves.survival.sel(arm="slow"), [*[1] * 4, *[0.8] * 4, 0.6, 0.4, 0.4])
    np.testing.assert_array_equal(curves.n, [4, 5])
    np.testing.assert_array_equal(curves.n_censored, [0, 2])
    np.testing.assert_array_equal(curves.median_steps, [2, 9])
    assert curves.step.dtype.kind == "i"
    assert (curves.survival_low <= curves.survival).all() and (curves.survival <= curves.survival_high).all()
    np.testing.assert_allclose(curves.survival_low.sel(arm="slow", step=0), 0.025 ** (1 / 5))  # none of 5, exact


def test_hazard_ratios_are_those_of_the_pairs():
    table = arms(fast=[1, 2, 2, 4, 3], slow=[4, -10, 8, -10, 9])
    found = hazard_ratios(table, "fast")
    wanted = hazard_ratio([1, 2, 2, 4, 3], [True] * 5, [4, 10, 8, 10, 9], [True, False, True, False, True])
    assert found.hazard_ratio.values.tolist() == [1.0, wanted.estimate]
    assert found.hazard_ratio_low[1] == wanted.low
    with pytest.raises(ReadingError, match="no arm 'other'"):
        hazard_ratios(table, "other")


def test_the_increment_by_hand():
    table = arms(old=[1, 2, 5, -10, -10, 3, np.nan], third=[4, 2, 3, -10, 6, -10, 2])
    found = increment(table.sel(arm="old"), table.sel(arm="third"))
    np.testing.assert_array_equal(found.difference, [3, 0, -2, np.nan, -4, 7, np.nan])
    np.testing.assert_array_equal(found.bounded, [False] * 4 + [True, True, False])
    counts = [int(found[f"n_{name}"]) for name in ("earlier", "later", "tied", "bounded", "censored_in_both")]
    assert counts == [2, 2, 1, 2, 1]
    assert found.n == 5 and found.share_earlier == 0.5
    assert found["shift"] == 0.5  # the median of the 15 means of two: -4 -3 -2 -2 -1 -.5 0 .5 1.5 1.5 2.5 3 3.5 5 7


def test_arms_of_two_budgets_or_of_other_facts_are_refused():
    table = arms(old=[1, 2], third=[2, 1])
    old, third = table.sel(arm="old"), table.sel(arm="third")
    with pytest.raises(ReadingError, match="one budget"):
        increment(old, third.assign_attrs(budget_steps=20.0))
    with pytest.raises(ReadingError, match="no fact in common"):
        increment(old, third.assign_coords(fact=["x", "y"]))


def reading(facts, logprob, said):
    dims = ("fact", "phrasing", "route")
    coords = {
        "fact": list(facts),
        "route": ["old", "new"],
        "value": (("fact", "route"), [[f"{fact} old", f"{fact} new"] for fact in facts]),
    }
    shape = (len(facts), 2, 2)
    data = {"logprob": (dims, np.full(shape, logprob)), "recalled": (dims, np.full(shape, said))}
    return xr.Dataset(data, coords)


def test_the_course_keeps_arms_of_other_facts_apart():
    course = course_of_arms(
        {
            "one": {0: reading("ab", -5.0, False), 2: reading("ab", -1.0, True)},
            "two": {2: reading("bc", -2.0, True), 0: reading("bc", -4.0, False)},
        }
    )
    assert course.logprob.dims == ("arm", "step", "fact", "phrasing")
    np.testing.assert_array_equal(course.recalled.sel(phrasing=0, fact="b"), [[0, 1], [0, 1]])
    np.testing.assert_array_equal(course.logprob.sel(arm="two", step=2, phrasing=0), [np.nan, -2, -2])
    assert course.value.sel(arm="one").values.tolist() == ["a old", "b old", ""]
    with pytest.raises(ReadingError, match="at the same steps"):
        course_of_arms({"one": {0: reading("a", -1.0, True)}, "two": {1: reading("a", -1.0, True)}})


def test_a_phrasing_that_a_fact_lacks_is_not_one_that_it_misses():
    lacking = reading("ab", -1.0, False)
    lacking["logprob"][0, 1] = np.nan
    course = course_of_arms({"one": {0: lacking}})
    np.testing.assert_array_equal(course.recalled.isel(arm=0, step=0), [[0, np.nan], [0, 0]])
