"""Intervals against scipy's own distributions, closed forms, published algorithms, and simulated coverage."""

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
    bca_interval,
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


def _bca(sample, level, statistic, draws=200_000):
    """Efron (1987), equations 3.8 and 6.6, written down."""
    rng = np.random.default_rng(99)
    resampled = np.sort(statistic(sample[rng.integers(0, len(sample), (draws, len(sample)))], axis=1))
    observed = statistic(sample)
    below = (np.mean(resampled < observed) + np.mean(resampled <= observed)) / 2
    left_out = np.array([statistic(np.delete(sample, i)) for i in range(len(sample))])
    off = left_out.mean() - left_out
    acceleration = (off**3).sum() / (6 * (off**2).sum() ** 1.5)
    bias = stats.norm.ppf(below)
    tails = bias + stats.norm.ppf([(1 - level) / 2, (1 + level) / 2])
    return np.quantile(resampled, stats.norm.cdf(bias + tails / (1 - acceleration * tails)))


@pytest.mark.parametrize("statistic", [np.mean, np.var])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_bca_is_efrons(statistic, level):
    sample = np.random.default_rng(3).lognormal(size=12)
    found = bca_interval(sample, level, statistic=statistic, n_resamples=100_000)
    low, high = _bca(sample, level, statistic)
    width = high - low
    assert (found.estimate, found.n) == (statistic(sample), 12)
    assert abs(found.low - low) < 0.03 * width and abs(found.high - high) < 0.03 * width


def test_bca_of_a_statistic_without_axis_is_the_same():
    sample = np.random.default_rng(4).normal(size=9)
    found = bca_interval(sample, n_resamples=1999, statistic=lambda x: float(sum(x) / len(x)))
    np.testing.assert_allclose(found, bca_interval(sample, n_resamples=1999), atol=0.02)


def test_bca_comes_again_with_its_seed_and_leaves_nans_out():
    sample = np.random.default_rng(5).normal(size=9)
    assert bca_interval(sample) == bca_interval(np.append(sample, np.nan)) != bca_interval(sample, seed=1)


# what 4000 samples gave: normal, log-normal
_BCA_COVERAGE = {6: (0.85, 0.77), 12: (0.905, 0.84), 24: (0.925, 0.885)}


@pytest.mark.parametrize("n", _BCA_COVERAGE)
@pytest.mark.parametrize("skewed", [False, True])
def test_bca_covers_as_often_as_its_docstring_says(n, skewed):
    """400 samples: three standard errors of at most 0.021."""
    rng = np.random.default_rng(n)
    samples, mean = (rng.lognormal(size=(400, n)), np.exp(0.5)) if skewed else (rng.normal(size=(400, n)), 0.0)
    intervals = [bca_interval(x, n_resamples=999) for x in samples]
    expected = _BCA_COVERAGE[n][skewed]
    covered = np.mean([x.low <= mean <= x.high for x in intervals])
    assert covered == pytest.approx(expected, abs=3 * math.sqrt(expected * (1 - expected) / 400))


@pytest.mark.parametrize("sample", [[], [np.nan], [2.0], [3.0, 3.0, 3.0]])
def test_what_does_not_vary_has_no_bootstrap_interval(sample):
    found = bca_interval(sample)
    assert np.isnan([found.low, found.high]).all()
    assert found.estimate == sample[0] if found.n else math.isnan(found.estimate)


def test_bca_refuses_what_has_no_mean_and_no_level():
    with pytest.raises(ReadingError, match="1 of 2 values are infinite"):
        bca_interval([1.0, -math.inf])
    with pytest.raises(ReadingError, match="no level 95"):
        bca_interval([1.0, 2.0], level=95)


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
