"""Two one-sided tests: against scipy's own one-sided tests, statsmodels, and by simulated size and coverage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.weightstats import DescrStatsW

from mechmask.errors import ReadingError
from mechmask.measure.equivalence import equivalence, equivalence_from

_SMALL = settings(max_examples=80, deadline=None, database=None, derandomize=True)
_SAMPLES = st.lists(st.floats(-10, 10), min_size=2, max_size=30).filter(lambda x: np.std(x) > 1e-3)


@_SMALL
@given(_SAMPLES, st.floats(0.1, 10), st.sampled_from([0.9, 0.95, 0.99]))
def test_it_is_two_one_sided_tests(sample, margin, level):
    found = equivalence(sample, margin, level)
    above = stats.ttest_1samp(sample, -margin, alternative="greater").pvalue
    below = stats.ttest_1samp(sample, margin, alternative="less").pvalue
    assert found.p_value == pytest.approx(max(above, below), rel=1e-9, abs=1e-12)
    low, high = stats.t.interval(2 * level - 1, len(sample) - 1, np.mean(sample), stats.sem(sample))
    np.testing.assert_allclose(found[:4], [np.mean(sample), low, high, len(sample)], rtol=1e-9, atol=1e-9)
    if min(abs(low + margin), abs(high - margin)) > 1e-9:
        assert found.equivalent == (-margin < low and high < margin)


def test_statsmodels_finds_the_same():
    sample = np.random.default_rng(0).normal(0.2, 1, 15)
    expected, *_ = DescrStatsW(sample).ttost_mean(-0.8, 0.8)
    assert equivalence(sample, 0.8).p_value == pytest.approx(expected, rel=1e-9)


def test_many_at_once_are_each_alone():
    samples = np.random.default_rng(1).normal(0, 1, (5, 9))
    margins = np.array([0.2, 0.5, 0.9, 1.5, 3.0])
    found = equivalence_from(samples.mean(1), stats.sem(samples, axis=1), 8, margins, 0.9)
    for i, sample in enumerate(samples):
        alone = equivalence(sample, margins[i], 0.9)
        assert (alone.equivalent, alone.n) == (found.equivalent[i], found.freedom[i] + 1)
        np.testing.assert_allclose([found[k][i] for k in (0, 1, 2, 4)], [alone[k] for k in (0, 1, 2, 4)], rtol=1e-9)


def test_arguments_broadcast_and_a_known_error_is_normal():
    found = equivalence_from(np.zeros((2, 1)), [0.1, 0.2, 0.3], np.inf, 0.4)
    assert found.equivalent.shape == found.low.shape == (2, 3)
    np.testing.assert_allclose(found.high[0], stats.norm.ppf(0.95) * np.array([0.1, 0.2, 0.3]))
    np.testing.assert_allclose(found.p_value[1], stats.norm.sf(0.4 / np.array([0.1, 0.2, 0.3])))


@_SMALL
@given(_SAMPLES)
def test_the_sign_and_the_order_do_not_matter(sample):
    found, mirrored = equivalence(sample, 1.0), equivalence([-x for x in reversed(sample)], 1.0)
    assert mirrored.p_value == pytest.approx(found.p_value, rel=1e-6, abs=1e-12)
    np.testing.assert_allclose([mirrored.low, mirrored.high], [-found.high, -found.low], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("n", [6, 12, 24])
def test_size_and_coverage(n):
    """20,000 samples whose mean stands on the margin: size 0.05 and coverage 0.9, three standard errors of each."""
    samples = np.random.default_rng(n).normal(1, 0.2, (20_000, n))
    found = equivalence_from(samples.mean(1), stats.sem(samples, axis=1), n - 1, 1.0)
    assert found.equivalent.mean() == pytest.approx(0.05, abs=3 * np.sqrt(0.05 * 0.95 / 20_000))
    covered = (found.low <= 1) & (found.high >= 1)
    assert covered.mean() == pytest.approx(0.9, abs=3 * np.sqrt(0.9 * 0.1 / 20_000))


def test_too_few_or_unknown_are_not_equivalent():
    for found in (equivalence([], 1.0), equivalence([0.0, np.nan], 1.0)):
        assert np.isnan([found.low, found.high, found.p_value]).all() and found.equivalent is False
    found = equivalence_from([0.0, np.nan, 0.0, 0.0], [np.nan, 1e-3, 1e-3, 1e-3], [5, 5, 0, 5], [1, 1, 1, np.nan])
    assert np.isnan(found.p_value).all() and not found.equivalent.any()


@pytest.mark.parametrize(("value", "is_within"), [(0.1, True), (-0.1, True), (0.5, False), (0.7, False)])
def test_equal_values_are_judged_by_where_they_stand(value, is_within):
    assert equivalence([value] * 3, 0.5).equivalent is is_within


@pytest.mark.parametrize("margin", [0.0, -1.0])
def test_a_margin_that_is_none(margin):
    with pytest.raises(ReadingError, match="margin is above zero"):
        equivalence([1.0, 2.0], margin)


def test_other_bad_input():
    with pytest.raises(ReadingError, match=r"between 0\.5 and 1"):
        equivalence([1.0, 2.0], 1.0, level=0.4)
    with pytest.raises(ReadingError, match="infinite"):
        equivalence([1.0, np.inf], 1.0)
    with pytest.raises(ReadingError, match="not negative"):
        equivalence_from(0.0, -1.0, 5, 1.0)
