"""Shares of observations in clusters: against scipy where there is no clustering, by simulation where there is."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.clustered_share import clustered_share, share_of_facts


def test_one_observation_a_cluster_is_clopper_and_pearson():
    for k in (0, 3, 10):
        found = clustered_share(np.arange(10) < k, np.arange(10))
        exact = stats.binomtest(k, 10).proportion_ci(0.95, method="exact")
        assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_none_of_many_probes_has_the_bound_of_none_of_the_facts():
    found = clustered_share(np.zeros(72, dtype=bool), np.repeat(np.arange(6), 12))
    assert found[:2] == (0, 0) and found.high == pytest.approx(stats.binomtest(0, 6).proportion_ci(0.95).high)
    whole = clustered_share(np.ones(72, dtype=bool), np.repeat(np.arange(6), 12))
    assert whole.estimate == whole.high == 1 and whole.low == pytest.approx(1 - found.high)


def test_the_effective_number_counts_a_cluster_of_each_kind_more():
    won = np.array([[1, 1, 1, 0], [0, 0, 0, 0], [1, 0, 1, 0], [1, 1, 1, 1], [0, 0, 1, 0]], dtype=bool)
    found = clustered_share(won.ravel(), np.repeat(list("abcde"), 4), 0.9)
    shares = np.append(won.mean(1), [1, 0])
    p = won.mean()
    effective = shares.mean() * (1 - shares.mean()) / (shares.var(ddof=1) / 7)
    assert 5 < effective < 20
    x = p * effective
    expected = stats.beta.ppf(0.05, x, effective - x + 1), stats.beta.ppf(0.95, x + 1, effective - x)
    assert (found.low, found.high) == pytest.approx(expected)


def test_two_of_many_are_not_known_better_than_none():
    cluster, won = np.repeat(np.arange(8), 17), np.zeros(136, dtype=bool)
    none = clustered_share(won, cluster)
    won[[0, 17]] = True
    assert 0.5 * none.high < clustered_share(won, cluster).high


def _hits(interval, n, of, share, correlation, n_samples):
    """The share of samples of clusters whose shares are beta-distributed in which the interval covers."""
    rng, a = np.random.default_rng(0), 1 / correlation - 1
    cluster, hits = np.repeat(np.arange(n), of), 0
    for _ in range(n_samples):
        won = rng.random((n, of)) < rng.beta(a * share, a * (1 - share), n)[:, None]
        low, high = interval(won, cluster)
        hits += low <= share <= high
    return hits / n_samples


def _authors_own(won, _):
    """Korn and Graubard's interval with their correction for few clusters; over clusters that are all alike."""
    (n, _), p = won.shape, won.mean()
    variance = won.mean(1).var(ddof=1) / n
    few = stats.t.ppf(0.975, won.size - 1) / stats.t.ppf(0.975, n - 1)
    effective = min(p * (1 - p) / variance * few**2, won.size) if variance else n
    of, rest = p * effective, (1 - p) * effective
    low = stats.beta.ppf(0.025, of, rest + 1) if of else 0.0
    return low, stats.beta.ppf(0.975, of + 1, rest) if rest else 1.0


@pytest.mark.parametrize(
    ("n", "of", "share", "correlation", "covered"),
    [
        *[(6, 14, 0.1, 0.3, 0.99), (8, 14, 0.1, 0.3, 0.99), (24, 14, 0.1, 0.3, 0.99)],
        *[(8, 14, 0.3, 0.3, 0.99), (8, 14, 0.5, 0.6, 0.97), (12, 14, 0.05, 0.5, 0.99), (8, 14, 0.05, 0.05, 1.0)],
    ],
)
def test_it_covers_what_the_docstring_says(n, of, share, correlation, covered):
    found = _hits(lambda won, cluster: clustered_share(won.ravel(), cluster)[1:3], n, of, share, correlation, 500)
    assert found == pytest.approx(covered, abs=0.015)


@pytest.mark.parametrize(("n", "share", "correlation", "covered"), [(6, 0.1, 0.3, 0.9), (12, 0.05, 0.5, 0.88)])
def test_the_authors_own_interval_covers_less(n, share, correlation, covered):
    assert _hits(_authors_own, n, 14, share, correlation, 1000) == pytest.approx(covered, abs=0.02)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.98])
def test_it_covers_five_draws_of_six_facts(share):
    assert _hits(lambda won, cluster: clustered_share(won.ravel(), cluster)[1:3], 5, 6, share, 0.3, 500) >= 0.95


@pytest.mark.parametrize("n_clusters", [3, 5, 8, 12])
@pytest.mark.parametrize("size", [6, 8])
def test_one_that_differs_makes_nothing_surer(n_clusters, size):
    cluster, won = np.repeat(np.arange(n_clusters), size), np.ones(n_clusters * size, dtype=bool)
    lows, highs = [], []
    for i in range(4):
        found, mirrored = clustered_share(won, cluster), clustered_share(~won, cluster)
        lows.append(found.low)
        highs.append(mirrored.high)
        won[i * size % len(won)] = False
    assert lows == sorted(lows, reverse=True) and highs == sorted(highs)


def test_facts_that_are_not_asked_leave_their_draws_as_they_are():
    """Of two draws one remains: its facts are one observation, not six."""
    asked = xr.DataArray([1.0] * 6 + [np.nan] * 6, {"seed": ("fact", [0] * 6 + [1] * 6)}, dims="fact")
    assert share_of_facts(asked)[:4] == (1.0, pytest.approx(0.025), 1.0, 6)
    assert share_of_facts(asked.drop_vars("seed")).low == pytest.approx(0.025 ** (1 / 6))


def test_nothing_read_is_no_share_and_other_input_is_refused():
    assert np.isnan(clustered_share([], []).estimate)
    with pytest.raises(ReadingError):
        clustered_share([True, False], [1])
    with pytest.raises(ReadingError):
        clustered_share([0.5, 1], [1, 2])
    with pytest.raises(ReadingError, match="level"):
        clustered_share([True], [1], level=1)


def test_facts_of_one_draw_are_independent_and_those_of_several_are_not():
    held = xr.DataArray([True] * 3 + [False] * 9, dims="fact")
    exact = stats.binomtest(3, 12).proportion_ci(method="exact")
    for one in (held, held.assign_coords(seed=("fact", [4] * 12))):
        assert share_of_facts(one) == pytest.approx((0.25, exact.low, exact.high, 12))
    draws = np.repeat([0, 1, 2, 3], 3)
    assert share_of_facts(held.assign_coords(seed=("fact", draws))) == clustered_share(held.values, draws)
