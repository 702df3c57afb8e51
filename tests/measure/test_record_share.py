"""Shares over records: scipy where records are whole, ``clustered_share`` where all have as many prompts."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.clustered_share import clustered_share
from mechmask.measure.record_share import share_over_records


def _facts(values, **coordinates):
    values = np.asarray(values, dtype=float)
    return xr.DataArray(values, coordinates, ("fact", "prompt")[: values.ndim])


@pytest.mark.parametrize("k", [0, 3, 10])
def test_whole_records_have_the_interval_of_clopper_and_pearson(k):
    exact = stats.binomtest(k, 10).proportion_ci(0.9, method="exact")
    for values in (np.arange(10) < k, (np.arange(10) < k)[:, None]):
        found = share_over_records(_facts(values), 0.9)
        assert found[0] == k / 10 and found[3] == 10
        assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=1e-9)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_records_of_one_size_are_clusters(share):
    won = np.random.default_rng(1).random((12, 10)) < share
    expected = clustered_share(won.ravel(), np.repeat(np.arange(12), 10))
    found = share_over_records(_facts(won))
    assert found[:3] == pytest.approx(expected[:3]) and found.n == 12


def test_every_record_has_the_same_weight_and_what_is_not_asked_none():
    found = share_over_records(_facts([[1, 1, 1, 0], [0, np.nan, np.nan, np.nan], [np.nan] * 4]))
    assert found.estimate == pytest.approx((0.75 + 0) / 2) and found.n == 2
    assert share_over_records(_facts([[np.nan]])) == pytest.approx((np.nan, np.nan, np.nan, 0), nan_ok=True)
    assert share_over_records(_facts(np.zeros((3, 0)))).n == 0


def test_draws_are_clusters():
    won = np.array([1.0, 1, 1, 0, 0, 0, 1, 1])
    seed = np.repeat([0, 1, 2, 3], 2)
    found = share_over_records(_facts(won, seed=("fact", seed)))
    assert found[:3] == pytest.approx(clustered_share(won == 1, seed)[:3]) and found.n == 8


def test_shares_of_tokens_know_more_than_as_many_booleans():
    """As clusters of tokens do, where every value has as many of them."""
    right = np.random.default_rng(2).random((15, 1, 4)) < 0.6
    means = _facts(right.mean(-1))
    found = share_over_records(means, behind=xr.full_like(means, 4))
    assert found[:3] == pytest.approx(clustered_share(right.ravel(), np.repeat(np.arange(15), 4))[:3])
    alone = share_over_records(means)
    assert alone.low < found.low < found.high < alone.high
    with pytest.raises(ReadingError, match="a count for every value"):
        share_over_records(means, behind=means[:3])


def test_it_covers_shares_of_few_ragged_records():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(500):
        p = rng.beta(2.0, 2 / 9, 8)  # mean 0.9
        n = rng.integers(1, 11, 8)
        found = share_over_records(_facts(rng.binomial(n, p) / n))
        hits += found.low <= 0.9 <= found.high
    assert hits / 500 >= 0.95


@pytest.mark.parametrize(
    ("n", "of", "share", "covered", "by_student"),
    [(20, 10, 0.98, 0.99, 0.62), (20, 10, 0.75, 0.98, 0.95), (50, 2, 0.96, 0.99, 0.86), (200, 10, 0.75, 0.95, 0.94)],
)
def test_it_covers_what_the_docstring_says(n, of, share, covered, by_student):
    rng, hits, n_samples = np.random.default_rng(0), np.zeros(2), 600
    widths = np.zeros(2)
    for _ in range(n_samples):
        won = rng.random((n, of)) < rng.beta(1.5 * share, 1.5 * (1 - share), n)[:, None]
        found, means = share_over_records(_facts(won)), won.mean(1)
        half = stats.t.ppf(0.975, n - 1) * means.std(ddof=1) / np.sqrt(n)
        hits += found.low <= share <= found.high, abs(means.mean() - share) <= half
        widths += found.high - found.low, 2 * half
    assert hits / n_samples == pytest.approx([covered, by_student], abs=0.025)
    assert hits[0] / n_samples >= 0.94
    assert n < 200 or widths[0] == pytest.approx(widths[1], rel=0.05)


def test_what_is_no_share_is_refused():
    with pytest.raises(ReadingError, match="between 0 and 1"):
        share_over_records(_facts([0.5, 1.5]))
    with pytest.raises(ReadingError, match="dimension fact"):
        share_over_records(xr.DataArray([0.5], dims="prompt"))
    with pytest.raises(ReadingError, match="no level 2"):
        share_over_records(_facts([0.5]), 2)
