"""Differences of shares in pairs of records: by the rule they are put together by, and by how often they hold."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.record_difference import share_difference_over_records


def shares(values, **coordinates):
    values = np.asarray(values, dtype=float)
    return xr.DataArray(values, dims=("fact", "prompt")[: values.ndim], coords=coordinates)


def pair(change):
    """Two shares of which the second less the first is this."""
    return shares(np.clip(-change, 0, 1)), shares(np.clip(change, 0, 1))


def test_of_one_prompt_a_record_it_is_square_and_add_of_exact_intervals():
    """7 records rise, 2 fall, 21 stay: Zou and Donner's rule by hand, with the correlation of the two counts."""
    change = np.array([1.0] * 7 + [-1.0] * 2 + [0.0] * 21)
    up, down = 7 / 30, 2 / 30
    (l1, u1), (l2, u2) = (stats.binomtest(k, 30).proportion_ci(method="exact") for k in (7, 2))
    r = -np.sqrt(up * down / ((1 - up) * (1 - down)))  # of two cells of a multinomial
    low = np.sqrt((up - l1) ** 2 + (u2 - down) ** 2 - 2 * r * (up - l1) * (u2 - down))
    high = np.sqrt((u1 - up) ** 2 + (down - l2) ** 2 - 2 * r * (u1 - up) * (down - l2))
    found = share_difference_over_records(*pair(change))
    assert tuple(found) == pytest.approx((up - down, up - down - low, up - down + high, 30))


@pytest.mark.parametrize(("n", "n_prompts", "rise", "fall"), [(20, 4, 0.15, 0.05), (50, 1, 0.02, 0.0)])
def test_it_holds_as_often_as_it_says(n, n_prompts, rise, fall):
    generator, held, students = np.random.default_rng(0), 0, 0
    for _ in range(400):
        of_record, of_prompt = generator.random(n)[:, None], generator.random((n, n_prompts))
        drawn = np.where(generator.random((n, 1)) < 0.5, of_record, of_prompt)
        change = (drawn < rise).astype(float) - (drawn > 1 - fall)
        found = share_difference_over_records(*pair(change))
        held += found.low <= rise - fall <= found.high
        means = change.mean(1)
        half = stats.t.ppf(0.975, n - 1) * stats.sem(means)
        students += abs(means.mean() - (rise - fall)) <= half
    assert held / 400 > 0.94
    if not fall:
        assert students / 400 < 0.75


def test_where_nothing_changes_it_does_not_claim_that_nothing_can():
    same = shares([1.0] * 20)
    found = share_difference_over_records(same, same)
    bound = stats.binomtest(0, 20).proportion_ci().high
    assert tuple(found) == pytest.approx((0, -bound, bound, 20))


def test_it_stays_within_bounds_and_turns_with_the_order():
    there = share_difference_over_records(shares([0.0, 0.0, 0.0]), shares([1.0, 1.0, 1.0]))
    back = share_difference_over_records(shares([1.0, 1.0, 1.0]), shares([0.0, 0.0, 0.0]))
    assert (there.estimate, there.high) == (1, 1) and (there.low, there.high) == (-back.high, -back.low)


def test_what_is_not_asked_does_not_count():
    first, second = (
        shares([[1.0, np.nan], [0.0, 1.0], [np.nan, np.nan]]),
        shares([[0.0, np.nan], [1.0, 1.0], [np.nan, np.nan]]),
    )
    found = share_difference_over_records(first, second)
    assert found.estimate == pytest.approx((-1 + 0.5) / 2) and found.n == 2
    nothing = share_difference_over_records(first * np.nan, second * np.nan)
    assert np.isnan(nothing[:3]).all() and nothing.n == 0


def test_draws_are_clusters():
    generator = np.random.default_rng(1)
    change = np.repeat(generator.choice([-1.0, 0.0, 1.0], 6), 10)
    alone, clustered = (
        share_difference_over_records(*(of.assign_coords(about) for of in pair(change)))
        for about in ({}, {"seed": ("fact", np.repeat(range(6), 10))})
    )
    assert clustered.estimate == alone.estimate
    assert clustered.high - clustered.low > 1.5 * (alone.high - alone.low)


@pytest.mark.parametrize("other", [shares([1.0, 0.0, 0.0]), shares([1.0, 0.0], fact=["a", "c"]), shares([1.0, 0.0])])
def test_shares_of_other_facts_are_refused(other):
    with pytest.raises(ReadingError, match="Read one fact set both times"):
        share_difference_over_records(shares([1.0, 0.0], fact=["a", "b"]), other)


def test_what_is_no_share_is_refused():
    with pytest.raises(ReadingError, match="between 0 and 1"):
        share_difference_over_records(shares([0.0, 0.0]), shares([2.0, 0.0]))
