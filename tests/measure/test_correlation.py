"""Correlations against scipy, against copies of clusters drawn one by one, and by simulated coverage."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.correlation import pearson, spearman

_SMALL = settings(max_examples=30, deadline=None, database=None, derandomize=True)
_PAIRS = st.lists(st.tuples(st.integers(-9, 9), st.integers(-9, 9)), min_size=4, max_size=12).filter(
    lambda pairs: all(len(set(part)) > 2 for part in zip(*pairs, strict=True))
)


def _pairs(seed, n, rho=0.6):
    return np.random.default_rng(seed).multivariate_normal([0, 0], [[1, rho], [rho, 1]], n).T


@pytest.mark.parametrize(("function", "expected"), [(pearson, stats.pearsonr), (spearman, stats.spearmanr)])
@pytest.mark.parametrize("n", [5, 12, 40])
def test_the_estimate_is_scipys(function, expected, n):
    x, y = _pairs(n, n)
    x[1] = x[0]
    assert function(x, y, n_resamples=99).estimate == pytest.approx(expected(x, y).statistic, rel=1e-12)


@pytest.mark.parametrize(("function", "expected"), [(pearson, stats.pearsonr), (spearman, stats.spearmanr)])
def test_the_p_value_counts_all_orders_where_they_are_few(function, expected):
    x, y = _pairs(0, 6)
    observed = expected(x, y).statistic
    others = np.array([expected(np.array(order), y).statistic for order in permutations(x)])
    share = np.mean(np.abs(others) >= abs(observed) - 1e-9)
    assert function(x, y).p_value == pytest.approx(share, abs=1 / 720)


@pytest.mark.parametrize(("function", "rank"), [(pearson, np.asarray), (spearman, stats.rankdata)])
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_interval_is_fishers_with_the_error_of_whole_clusters(function, rank, level):
    """Clusters drawn one by one, their observations copied, scipy's correlation of the copies."""
    x, y = _pairs(1, 30)
    cluster = np.repeat(list("abcdef"), 5)
    rng = np.random.default_rng(7)
    draws = []
    for _ in range(2000):
        rows = np.concatenate([np.flatnonzero(cluster == label) for label in rng.choice(list("abcdef"), 6)])
        draws.append(np.corrcoef(rank(x[rows]), rank(y[rows]))[0, 1])
    estimate = np.corrcoef(rank(x), rank(y))[0, 1]
    half = stats.t.ppf(0.5 + level / 2, 5) * np.std(draws, ddof=1) * np.sqrt(6 / 5) / (1 - estimate**2)
    found = function(x, y, level, cluster=cluster)
    expected = np.arctanh(estimate) + np.array([-half, half])
    np.testing.assert_allclose(np.arctanh([found.low, found.high]), expected, atol=0.03)
    assert (found.n, found.n_clusters) == (30, 6)
    error = half / stats.t.ppf(0.5 + level / 2, 5)
    expected = 2 * stats.t.sf(abs(np.arctanh(estimate)) / error, 5)
    assert found.p_value == pytest.approx(expected, rel=0.3)


@pytest.mark.parametrize("function", [pearson, spearman])
def test_an_observation_is_a_cluster_of_its_own(function):
    x, y = _pairs(2, 15)
    alone, named = function(x, y), function(x, y, cluster=np.arange(15))
    assert alone[:4] == named[:4] and alone.n_clusters == named.n_clusters == 15


@pytest.mark.parametrize("function", [pearson, spearman])
def test_observations_copied_within_clusters_do_not_sharpen_it(function):
    x, y = _pairs(3, 12)
    once = function(x, y)
    thrice = function(np.repeat(x, 3), np.repeat(y, 3), cluster=np.repeat(np.arange(12), 3))
    np.testing.assert_allclose(thrice[:3], once[:3], rtol=1e-9)
    assert (thrice.n, thrice.n_clusters) == (36, 12)


@_SMALL
@given(_PAIRS)
def test_symmetry_and_signs(pairs):
    x, y = (np.array(part, dtype=float) for part in zip(*pairs, strict=True))
    for function in (pearson, spearman):
        found = np.array(function(x, y, n_resamples=99)[:3])
        np.testing.assert_allclose(function(y, x, n_resamples=99)[:3], found, atol=1e-9)
        np.testing.assert_allclose(function(x, -y, n_resamples=99)[:3], -found[[0, 2, 1]], atol=1e-9)
        assert -1 <= found[1] <= found[0] + 1e-9 and found[0] - 1e-9 <= found[2] <= 1


def test_ranks_do_not_see_a_monotone_transform_nor_infinities():
    x, y = _pairs(4, 14)
    assert spearman(np.exp(x), y**3) == spearman(x, y)
    x[np.argmin(x)] = -np.inf
    assert np.isfinite(spearman(x, y)[:3]).all()


def test_pairs_that_lack_a_value_are_left_out_with_their_cluster():
    x, y = _pairs(5, 12)
    cluster = np.repeat(np.arange(6), 2)
    holes = np.append(x, [np.nan, 1.0]), np.append(y, [2.0, np.nan])
    assert spearman(*holes, cluster=np.append(cluster, [77, 78])) == spearman(x, y, cluster=cluster)


@pytest.mark.parametrize("function", [pearson, spearman])
@pytest.mark.parametrize(("x", "y"), [([], []), ([1.0], [2.0]), ([1.0, 1, 1, 1], [1.0, 2, 3, 4])])
def test_what_does_not_vary_has_no_correlation(function, x, y):
    found = function(x, y)
    assert np.isnan([*found[:3], found.p_value]).all() and found.n == len(x)


def test_three_clusters_have_no_interval():
    x, y = _pairs(6, 9)
    found = pearson(x, y, cluster=np.repeat(np.arange(3), 3))
    assert np.isfinite(found.estimate) and np.isnan([found.low, found.high]).all()


@pytest.mark.parametrize("sign", [1, -1])
def test_a_perfect_order_is_not_a_certain_one(sign):
    x = np.arange(8.0)
    found = spearman(x, sign * x**3)
    near, far = sorted((found.low, found.high), key=abs, reverse=True)
    assert near == found.estimate == sign
    next_lower = spearman(x, [0, 1, 2, 3, 4, 5, 7, 6]).estimate
    half = 1.959964 * np.sqrt((1 + next_lower**2 / 2) / 5)  # Bonett and Wright (2000)
    assert sign * far == pytest.approx(np.tanh(np.arctanh(next_lower) - half), rel=1e-6)


@pytest.mark.parametrize("n", [6, 12, 24])
@pytest.mark.parametrize("rho", [0.0, 0.8])
@pytest.mark.parametrize("function", [pearson, spearman])
def test_coverage(function, rho, n):
    """250 samples: not below the level by more than three standard errors of 0.014."""
    truth = rho if function is pearson else 6 / np.pi * np.arcsin(rho / 2)
    found = [function(*_pairs((n, i), n, rho), n_resamples=299) for i in range(250)]
    assert np.mean([x.low <= truth <= x.high for x in found]) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 250)
    if rho == 0:
        assert np.mean([x.p_value <= 0.05 for x in found]) <= 0.05 + 3 * np.sqrt(0.95 * 0.05 / 250)
    if n == 24:
        assert np.mean([x.high - x.low for x in found]) < (1.0 if rho == 0 else 0.6)


@pytest.mark.parametrize("n_clusters", [4, 8, 20])
@pytest.mark.parametrize("function", [pearson, spearman])
def test_coverage_of_clusters(function, n_clusters):
    """250 samples of clusters of 6 pairs, half the variance between them; independent pairs are covered far less."""
    cluster = np.repeat(np.arange(n_clusters), 6)
    covered = []
    for i in range(250):
        between = _pairs((n_clusters, i), n_clusters, 0.0)
        x, y = (between[:, cluster] + _pairs((n_clusters, i, 1), len(cluster), 0.0)) / np.sqrt(2)
        found = function(x, y, cluster=cluster, n_resamples=299)
        covered.append(found.low <= 0 <= found.high)
    assert np.mean(covered) >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 250)


def test_bad_input():
    with pytest.raises(ReadingError, match="not 3 in x, 2 in y"):
        spearman([1, 2, 3], [1, 2])
    with pytest.raises(ReadingError, match="3 in cluster"):
        spearman([1, 2], [1, 2], cluster=["a", "b", "c"])
    with pytest.raises(ReadingError, match="2 have none"):
        spearman([1, 2, 3], [1, 2, 4], cluster=["a", None, None])
    with pytest.raises(ReadingError, match="infinite"):
        pearson([1, 2, np.inf], [1, 2, 4])
    with pytest.raises(ReadingError, match="between 0 and 1"):
        pearson([1, 2, 3], [1, 2, 4], level=0)
