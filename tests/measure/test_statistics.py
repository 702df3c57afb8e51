"""Intervals against scipy's own distributions, closed forms, and simulated coverage."""

import math

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.statistics import (
    Interval,
    mean_interval,
    over_facts,
    prediction_interval,
    proportion_interval,
)

_SMALL = settings(max_examples=80, deadline=None, database=None, derandomize=True)
_SAMPLES = st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30).filter(lambda x: np.std(x) > 1e-3)
_LEVELS = st.sampled_from([0.5, 0.9, 0.95, 0.99])


@_SMALL
@given(_SAMPLES, _LEVELS)
def test_mean_interval_is_students(sample, level):
    found = mean_interval(sample, level)
    low, high = stats.t.interval(level, len(sample) - 1, loc=np.mean(sample), scale=stats.sem(sample))
    assert found.n == len(sample)
    np.testing.assert_allclose(found[:3], [np.mean(sample), low, high], rtol=1e-9, atol=1e-9)


@_SMALL
@given(_SAMPLES, _LEVELS)
def test_prediction_interval_is_that_of_one_more_draw(sample, level):
    found = prediction_interval(sample, level)
    n = len(sample)
    scale = np.std(sample, ddof=1) * math.sqrt(1 + 1 / n)
    low, high = stats.t.interval(level, n - 1, loc=np.mean(sample), scale=scale)
    assert found.n == n
    np.testing.assert_allclose(found[:3], [np.mean(sample), low, high], rtol=1e-9, atol=1e-9)


def test_mean_interval_is_what_a_t_test_gives():
    sample = np.random.default_rng(0).normal(3, 2, 11)
    expected = stats.ttest_1samp(sample, 0).confidence_interval(0.95)
    np.testing.assert_allclose(mean_interval(sample)[1:3], [expected.low, expected.high], rtol=1e-12)


@pytest.mark.parametrize("n", [3, 12])
def test_coverage_of_both(n):
    """4000 samples: one standard error of a coverage of 0.95 is 0.0034, so four of them, 0.0138, are allowed."""
    draws = np.random.default_rng(n).normal(7, 2, size=(4000, n + 1))
    held = predicted = 0
    for draw in draws:
        mean, more = mean_interval(draw[:n]), prediction_interval(draw[:n])
        held += mean.low <= 7 <= mean.high
        predicted += more.low <= draw[n] <= more.high
    assert held / 4000 == pytest.approx(0.95, abs=0.0138)
    assert predicted / 4000 == pytest.approx(0.95, abs=0.0138)


@pytest.mark.parametrize("interval", [mean_interval, prediction_interval])
def test_nans_are_left_out(interval):
    assert interval([1.0, np.nan, 2.0, 4.0, np.nan]) == interval([1.0, 2.0, 4.0])
    assert interval([1.0, np.nan, 2.0, 4.0]).n == 3


@pytest.mark.parametrize("interval", [mean_interval, prediction_interval])
@pytest.mark.parametrize(
    ("sample", "mean", "n"), [([], math.nan, 0), ([np.nan], math.nan, 0), ([2.5], 2.5, 1), ([2.5, np.nan], 2.5, 1)]
)
def test_fewer_than_two_values_have_no_interval(interval, sample, mean, n):
    found = interval(sample)
    assert found.n == n
    np.testing.assert_array_equal(found[:3], [mean, math.nan, math.nan])


@pytest.mark.parametrize(("n", "bound"), [(12, 0.2646), (157, 0.0232)])
def test_none_of_n_carries_its_bound(n, bound):
    found = proportion_interval(0, n)
    assert (found.estimate, found.low, found.n) == (0.0, 0.0, n)
    assert round(found.high, 4) == bound
    assert found.high == pytest.approx(1 - 0.025 ** (1 / n), rel=1e-9)


@pytest.mark.parametrize(("successes", "n"), [(1, 12), (6, 12), (11, 12), (3, 157)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_at_the_bounds_the_tails_have_their_probability(successes, n, level):
    def at_most(k, p):
        return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))

    found = proportion_interval(successes, n, level)
    assert found.estimate == successes / n
    assert at_most(successes, found.high) == pytest.approx((1 - level) / 2, rel=1e-6)
    assert 1 - at_most(successes - 1, found.low) == pytest.approx((1 - level) / 2, rel=1e-6)


@_SMALL
@given(st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_successes_and_failures_mirror_each_other(case):
    successes, n = case
    here, there = proportion_interval(successes, n), proportion_interval(n - successes, n)
    np.testing.assert_allclose([here.low, here.high], [1 - there.high, 1 - there.low], atol=1e-9)
    assert 0 <= here.low <= here.estimate <= here.high <= 1


def test_nothing_of_nothing():
    found = proportion_interval(0, 0)
    assert found.n == 0
    assert np.isnan(found[:3]).all()


def test_an_interval_is_shown_with_its_n():
    assert str(Interval(1.0, -0.25, 2.255, 12)) == "1.00 [-0.25, 2.25] (n=12)"


def test_over_facts_is_a_t_interval_at_every_place():
    values = np.random.default_rng(0).normal(size=(7, 3, 4))
    values[2, 1, 1] = np.nan
    array = xr.DataArray(values, {"layer": range(4)}, ("fact", "state", "layer"))
    found = over_facts(array, 0.9)
    assert found.estimate.dims == ("state", "layer") and found.attrs["unit"] == "facts"
    for state, layer in np.ndindex(3, 4):
        sample = values[:, state, layer][~np.isnan(values[:, state, layer])]
        at = found.isel(state=state, layer=layer)
        expected = stats.t.interval(0.9, len(sample) - 1, sample.mean(), stats.sem(sample))
        np.testing.assert_allclose([at.low, at.high, at.n], [*expected, len(sample)])


def test_over_facts_of_several_draws_is_over_draws():
    values = np.random.default_rng(1).normal(size=6)
    array = xr.DataArray(values, {"seed": ("fact", [3, 3, 5, 5, 5, 8])}, ("fact",))
    means = [values[:2].mean(), values[2:5].mean(), values[5]]
    found = over_facts(array)
    np.testing.assert_allclose([found.low, found.high], stats.t.interval(0.95, 2, np.mean(means), stats.sem(means)))
    assert found.n == 3 and found.attrs["unit"] == "draws"
    one_more = over_facts(array, interval=prediction_interval)
    assert one_more.n == 6 and one_more.attrs["unit"] == "facts"


def test_a_mean_over_facts_needs_facts():
    with pytest.raises(ReadingError, match="needs the dimension fact; this array has layer"):
        over_facts(xr.DataArray([1.0, 2.0], dims=("layer",)))
