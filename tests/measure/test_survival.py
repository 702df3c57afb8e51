"""Survival by hand, against statsmodels and a likelihood written naively, and by simulated coverage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from statsmodels.duration.survfunc import SurvfuncRight, survdiff

from mechmask.errors import ReadingError
from mechmask.measure.survival import hazard_ratio, log_rank, survival_curve

_SMALL = settings(max_examples=50, deadline=None, database=None, derandomize=True)
_ARM = st.lists(st.tuples(st.integers(1, 8), st.booleans()), min_size=2, max_size=12)


def test_a_curve_by_hand():
    """Of 6, one at 10; of 5, two at 20; one is lost at 20; of 2, one at 40; the last is lost at 50."""
    curve = survival_curve([10, 20, 20, 20, 40, 50], [True, True, True, False, True, False])
    assert curve.step.values.tolist() == [10, 20, 40, 50]
    assert curve.at_risk.values.tolist() == [6, 5, 2, 1]
    np.testing.assert_allclose(curve.estimate, [5 / 6, 1 / 2, 1 / 4, 1 / 4])
    assert (curve.median_steps, curve.n, curve.n_reached) == (20, 6, 4)


def test_the_interval_is_greenwoods_on_log_minus_log():
    steps, reached = [10, 20, 20, 20, 40, 50], np.array([True, True, True, False, True, False])
    for level in (0.8, 0.95):
        curve = survival_curve(steps, reached, level)
        at_risk, events, share = np.array([6, 5, 2, 2]), np.array([1, 2, 1, 0]), curve.estimate.values
        greenwood = np.cumsum(events / (at_risk * (at_risk - events)))
        half = stats.norm.ppf(0.5 + level / 2) * np.sqrt(greenwood) / np.log(share)
        np.testing.assert_allclose(curve.low, share ** np.exp(-half), rtol=1e-9)
        np.testing.assert_allclose(curve.high, share ** np.exp(half), rtol=1e-9)


@_SMALL
@given(_ARM)
def test_curve_and_median_are_those_of_statsmodels(arm):
    steps, reached = (np.array(part) for part in zip(*arm, strict=True))
    curve = survival_curve(steps, reached)
    expected = SurvfuncRight(steps, reached.astype(int))
    at = curve.sel(step=expected.surv_times)
    np.testing.assert_allclose(at.estimate, expected.surv_prob, atol=1e-12)
    assert at.at_risk.values.tolist() == list(expected.n_risk)
    down = expected.surv_times[expected.surv_prob <= 0.5 + 1e-9]
    assert curve.median_steps == (down[0] if len(down) else np.inf)
    assert (curve.low <= curve.estimate).all() and (curve.estimate <= curve.high).all()
    assert curve.median_low <= curve.median_steps <= curve.median_high
    assert (np.diff(curve.high) <= 1e-12).all()


def test_the_median_lies_where_the_bounds_come_down_to_a_half():
    curve = survival_curve(np.arange(1, 21), np.ones(20, bool))
    assert curve.median_steps == 10
    assert curve.median_low == float(curve.step[curve.low <= 0.5][0])
    assert curve.median_high == float(curve.step[curve.high <= 0.5][0])


def test_none_and_all_carry_their_bound():
    none = survival_curve([50] * 12, [False] * 12)
    assert (none.estimate[0], none.high[0], none.median_steps, none.median_low) == (1, 1, np.inf, np.inf)
    assert float(none.low[0]) == pytest.approx(1 - stats.binomtest(0, 12).proportion_ci().high)
    every = survival_curve([50] * 12, [True] * 12)
    assert (every.estimate[0], every.low[0], every.median_steps, every.median_high) == (0, 0, 50, 50)
    assert float(every.high[0]) == pytest.approx(stats.binomtest(0, 12).proportion_ci().high)
    single = survival_curve([5], [True])
    assert float(single.high[0]) == pytest.approx(0.975) and single.median_high == np.inf


def test_no_facts_have_no_curve_and_missing_steps_no_fact():
    empty = survival_curve([np.nan], [True])
    assert empty.sizes["step"] == 0 and np.isnan(empty.median_steps) and empty.n == 0
    assert survival_curve([5, np.nan, 7], [1, 0, 0]).equals(survival_curve([5, 7], [1, 0]))


@_SMALL
@given(_ARM, _ARM)
def test_the_log_rank_test_is_that_of_statsmodels(a, b):
    (steps_a, reached_a), (steps_b, reached_b) = (map(np.array, zip(*arm, strict=True)) for arm in (a, b))
    found = log_rank(steps_a, reached_a, steps_b, reached_b)
    assert (found.n, found.n_reached) == (len(a) + len(b), reached_a.sum() + reached_b.sum())
    if np.isnan(found.p_value):
        return
    arms = np.append(np.zeros(len(a)), np.ones(len(b)))
    statistic, p_value = survdiff(np.append(steps_a, steps_b), np.append(reached_a, reached_b).astype(int), arms)
    assert found.statistic**2 == pytest.approx(statistic, rel=1e-6, abs=1e-9)
    assert found.p_value == pytest.approx(p_value, rel=1e-6)
    swapped = log_rank(steps_b, reached_b, steps_a, reached_a)
    assert swapped.statistic == pytest.approx(-found.statistic, abs=1e-9)


def _efron(log_ratio, a, b):
    """Efron (1977): the partial likelihood, each of the facts tied at a step counted out by a share."""
    total = 0.0
    facts = [(step, event, 1.0) for step, event in a] + [(step, event, 0.0) for step, event in b]
    for at in {step for step, event, _ in facts if event}:
        risk = sum(np.exp(log_ratio * x) for step, _, x in facts if step >= at)
        tied = [x for step, event, x in facts if event and step == at]
        gone = sum(np.exp(log_ratio * x) for x in tied)
        total += log_ratio * sum(tied) - sum(np.log(risk - i / len(tied) * gone) for i in range(len(tied)))
    return total


@_SMALL
@given(_ARM, _ARM, st.sampled_from([0.8, 0.95]))
def test_the_hazard_ratio_maximises_the_likelihood_and_its_bounds_lie_below_by_a_quantile(a, b, level):
    found = hazard_ratio(*zip(*a, strict=True), *zip(*b, strict=True), level)
    assert found.n == len(a) + len(b)
    if np.isnan(found.estimate):
        assert _efron(0.0, a, b) == pytest.approx(_efron(3.0, a, b))
        return
    best = -optimize.minimize_scalar(lambda x: -_efron(x, a, b), bounds=(-30, 30), method="bounded").fun
    if 0 < found.estimate < np.inf:
        assert _efron(np.log(found.estimate), a, b) == pytest.approx(best, abs=1e-5)
    for bound in (found.low, found.high):
        if 0 < bound < np.inf:
            assert best - _efron(np.log(bound), a, b) == pytest.approx(stats.chi2.ppf(level, 1) / 2, abs=1e-4)
    swapped = hazard_ratio(*zip(*b, strict=True), *zip(*a, strict=True), level)
    inverse = [1 / x if x else np.inf for x in (swapped.high, swapped.low)]
    np.testing.assert_allclose(inverse, found[1:3], rtol=1e-3)


def test_an_arm_that_is_wholly_faster_has_a_bound_below():
    found = hazard_ratio([10, 10, 20, 20], [True] * 4, [50] * 4, [False] * 4)
    assert found.estimate == found.high == np.inf and 1 < found.low < 20
    mirrored = hazard_ratio([50] * 4, [False] * 4, [10, 10, 20, 20], [True] * 4)
    assert (mirrored.estimate, mirrored.low) == (0, 0) and mirrored.high == pytest.approx(1 / found.low, rel=1e-4)


@pytest.mark.parametrize("compare", [log_rank, hazard_ratio])
@pytest.mark.parametrize(("a", "b"), [(([], []), ([1, 2], [True, True])), (([5, 6], [False] * 2), ([5], [False]))])
def test_what_cannot_be_compared(compare, a, b):
    found = compare(*a, *b)
    assert np.isnan(found[:2]).all() and found.n == len(a[0]) + len(b[0])


def _arm(rng, n, rate, grid):
    """Exponential steps, a quarter or so censored, read every ``grid``."""
    steps, budget = np.ceil(rng.exponential(1 / rate, n) / grid), np.ceil(rng.exponential(3, n) / grid)
    return np.minimum(steps, budget), steps <= budget


@pytest.mark.parametrize("n", [6, 12, 24])
def test_coverage_of_curve_and_median(n):
    """300 samples read four times within the median: three standard errors of 0.013, and the log-rank test's size."""
    rng, grid = np.random.default_rng(n), np.log(2) / 4
    share, median, rejected = [], [], []
    for _ in range(300):
        curve = survival_curve(*_arm(rng, n, 1, grid))
        there = curve.isel(step=curve.step <= 4)
        low, high = (there.low[-1], there.high[-1]) if there.sizes["step"] else (0, 1)
        share.append(low <= 0.5 <= high)
        median.append(curve.median_low <= 4 <= curve.median_high)
        rejected.append(log_rank(*_arm(rng, n, 1, grid), *_arm(rng, n, 1, grid)).p_value <= 0.05)
    lowest = 0.94 - 3 * np.sqrt(0.95 * 0.05 / 300)
    assert lowest <= np.mean(share) and lowest <= np.mean(median)
    assert 0.02 < np.mean(rejected) <= (0.065 if n == 6 else 0.055) + 3 * np.sqrt(0.05 * 0.95 / 300)


@pytest.mark.parametrize(("n", "ratio"), [(6, 1), (6, 3), (12, 3), (24, 3)])
def test_coverage_of_the_hazard_ratio(n, ratio):
    """200 pairs of arms, three standard errors of 0.015."""
    rng, grid = np.random.default_rng(n), np.log(2) / 4
    found = [hazard_ratio(*_arm(rng, n, ratio, grid), *_arm(rng, n, 1, grid)) for _ in range(200)]
    assert np.mean([x.low <= ratio <= x.high for x in found]) >= 0.94 - 3 * np.sqrt(0.95 * 0.05 / 200)
    assert np.median([x.estimate for x in found]) == pytest.approx(ratio, rel=0.25)


def test_bad_input():
    with pytest.raises(ReadingError, match="steps from 0 on"):
        survival_curve([5, np.inf], [True, False])
    with pytest.raises(ReadingError, match="steps from 0 on"):
        log_rank([-1], [True], [5], [True])
    with pytest.raises(ReadingError, match="not 2 in steps, 1 in reached"):
        hazard_ratio([1, 2], [True], [1], [True])
    with pytest.raises(ReadingError, match="True or False"):
        survival_curve([1, 2], ["yes", "no"])
    with pytest.raises(ReadingError, match="between 0 and 1"):
        survival_curve([1, 2], [True, False], level=2)
