"""Signed ranks against every choice of signs, scipy, and simulation."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.rank_tests import LARGEST_EXACT_N, hodges_lehmann, wilcoxon

_SMALL = settings(max_examples=60, deadline=None, database=None, derandomize=True)
_TIED = st.lists(st.integers(-4, 4), min_size=1, max_size=9)  # of small whole numbers: ties and zeros in nearly all


def _by_enumeration(differences):
    """The two-sided p-value by the definition: every choice of signs of what is not zero, ranks after Pratt."""
    ranks = stats.rankdata(np.abs(differences))[np.asarray(differences) != 0]
    observed = stats.rankdata(np.abs(differences))[np.asarray(differences) > 0].sum()
    sums = np.array([ranks[np.array(signs, dtype=bool)].sum() for signs in product((0, 1), repeat=len(ranks))])
    return np.mean(np.abs(sums - ranks.sum() / 2) >= abs(observed - ranks.sum() / 2) - 1e-9)


@_SMALL
@given(_TIED)
def test_ties_and_zeros_are_counted_over_all_signs(differences):
    found = wilcoxon(differences)
    assert found.p_value == pytest.approx(_by_enumeration(differences), abs=1e-12)
    assert (found.n, found.n_zero, found.method) == (len(differences), differences.count(0), "exact")


@pytest.mark.parametrize("n", [1, 5, 6, 12, 30])
def test_without_ties_it_is_scipys(n):
    differences = np.random.default_rng(n).normal(0.3, 1, n)
    expected = stats.wilcoxon(differences, method="exact")
    found = wilcoxon(differences)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert min(found.statistic, n * (n + 1) / 2 - found.statistic) == expected.statistic


def test_many_differences_are_normal_as_scipys():
    differences = np.round(np.random.default_rng(0).normal(0.05, 1, LARGEST_EXACT_N + 1), 1)
    found = wilcoxon(differences)
    expected = stats.wilcoxon(differences, zero_method="pratt", method="asymptotic")
    assert found.method == "normal" and found.n_zero > 0
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert found.p_value == pytest.approx(wilcoxon(differences[:-1]).p_value, abs=0.05)


def test_twelve_of_one_sign_have_the_smallest_p_value():
    assert wilcoxon(np.arange(1, 13)).p_value == pytest.approx(2 / 2**12)


@_SMALL
@given(_TIED)
def test_signs_order_and_scale_do_not_matter(differences):
    found = wilcoxon(differences)
    assert wilcoxon([-3 * x for x in reversed(differences)]).p_value == pytest.approx(found.p_value, abs=1e-12)


def test_nothing_zeros_and_infinities():
    assert np.isnan(wilcoxon([np.nan]).p_value) and wilcoxon([]).n == 0
    assert wilcoxon([0.0, 0.0, np.nan])[:4] == (0.0, 1.0, 2, 2)
    assert wilcoxon(np.zeros(LARGEST_EXACT_N + 1)).p_value == 1
    assert wilcoxon([1.0, 2.0, -0.5, np.inf]) == wilcoxon([1.0, 2.0, -0.5, 9.0])


def _by_inversion(sample, level):
    """The shifts at which the exact test does not reject, found from the definition: between which Walsh averages."""
    means = np.sort([(a + b) / 2 for i, a in enumerate(sample) for b in sample[i:]])
    edges = np.concatenate([[means[0] - 1], (means[1:] + means[:-1]) / 2, [means[-1] + 1]])
    kept = [i for i, edge in enumerate(edges) if _by_enumeration(np.asarray(sample) - edge) > 1 - level]
    low = means[kept[0] - 1] if kept[0] > 0 else -np.inf
    high = means[kept[-1]] if kept[-1] < len(means) else np.inf
    return float(np.median(means)), low, high


@pytest.mark.parametrize("level", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("n", [1, 4, 6, 9])
def test_the_interval_inverts_the_test(n, level):
    sample = np.random.default_rng(n).normal(3, 1, n)
    found = hodges_lehmann(sample, level)
    np.testing.assert_allclose(found[:3], _by_inversion(sample, level), rtol=1e-12)
    assert found.n == n


def test_six_differences_are_bounded_by_the_extremes_and_five_by_nothing():
    sample = [4.0, 1.0, 3.0, 9.0, 2.0, 7.0]
    assert hodges_lehmann(sample)[1:] == (1.0, 9.0, 6)
    assert hodges_lehmann(sample, 1 - 2 / 2**6)[1:] == (1.0, 9.0, 6)
    assert hodges_lehmann(sample[:5])[1:] == (-np.inf, np.inf, 5)
    assert np.isnan(hodges_lehmann([np.nan])[:3]).all()


def test_many_differences_go_over_into_the_exact_interval():
    sample = np.random.default_rng(2).normal(size=LARGEST_EXACT_N + 1)
    np.testing.assert_allclose(hodges_lehmann(sample)[:3], hodges_lehmann(sample[:-1])[:3], atol=0.02)


@_SMALL
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=15), st.floats(-5, 5))
def test_a_shift_moves_it_and_a_mirror_mirrors_it(sample, shift):
    found = np.array(hodges_lehmann(sample)[:3])
    moved = np.array(hodges_lehmann([x + shift for x in reversed(sample)])[:3])
    mirrored = np.array(hodges_lehmann([-x for x in sample])[:3])
    np.testing.assert_allclose(moved, found + shift, atol=1e-9)
    np.testing.assert_allclose(mirrored, -found[[0, 2, 1]], atol=1e-9)


_DRAWS = {
    "normal": lambda rng, n: rng.normal(size=(600, n)),
    "laplace": lambda rng, n: rng.laplace(size=(600, n)),
    "rounded": lambda rng, n: np.round(2 * rng.normal(size=(600, n))) / 2,
}


@pytest.mark.parametrize("draw", _DRAWS)
@pytest.mark.parametrize("n", [6, 12, 24])
def test_coverage_and_size(n, draw):
    """600 samples: at least the level, less three standard errors of 0.009; and not always, so not idle."""
    samples = _DRAWS[draw](np.random.default_rng(n), n)
    intervals = [hodges_lehmann(x) for x in samples]
    coverage = np.mean([x.low <= 0 <= x.high for x in intervals])
    assert 0.95 - 3 * np.sqrt(0.95 * 0.05 / 600) <= coverage <= 0.999
    rejected = np.mean([wilcoxon(x).p_value <= 0.05 for x in samples])
    assert 0.005 <= rejected <= 0.05 + 3 * np.sqrt(0.95 * 0.05 / 600)


def test_bad_input():
    with pytest.raises(ReadingError, match="infinite"):
        hodges_lehmann([1.0, np.inf])
    with pytest.raises(ReadingError, match="between 0 and 1"):
        hodges_lehmann([1.0, 2.0], level=1.0)
    with pytest.raises(ReadingError, match="takes numbers"):
        wilcoxon(["a"])
