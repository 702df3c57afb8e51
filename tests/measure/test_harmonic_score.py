"""The harmonic mean of shares: by simulation, against a bootstrap of many records, and by its bounds."""

from __future__ import annotations

import time

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.harmonic_score import harmonic_mean_of_shares
from mechmask.measure.record_share import share_over_records

PROMPTS = (1, 2, 10)


def _facts(values, **coordinates):
    values = np.asarray(values, dtype=float)
    return xr.DataArray(values, coordinates, ("fact", "prompt")[: values.ndim])


def _sample(rng, n, shares, related):
    """Scores of ``n`` records whose three shares (beta, intra-record correlation .4) go together over records."""
    covariance = np.where(np.eye(3, dtype=bool), 1.0, related)
    levels = stats.norm.cdf(rng.multivariate_normal(np.zeros(3), covariance, n))
    for share, of, level in zip(shares, PROMPTS, levels.T, strict=True):
        own = stats.beta.ppf(level, 1.5 * share, 1.5 * (1 - share))[:, None]
        yield _facts(own > rng.random((n, of)) if of > 1 else (level > 1 - share)[:, None])


@pytest.mark.parametrize(
    ("n", "shares", "related"),
    [
        *[(10, (0.5, 0.5, 0.5), 0), (10, (0.5, 0.5, 0.5), 0.8), (10, (0.99, 0.9, 0.8), -0.4)],
        *[(10, (0.999, 0.99, 0.99), 0), (10, (0.05, 0.05, 0.95), 0.8)],
        *[(30, (0.99, 0.99, 0.2), 0), (30, (0.1, 0.1, 0.1), 0.8), (100, (0.9, 0.6, 0.75), 0)],
    ],
)
def test_it_covers(n, shares, related):
    rng, hits = np.random.default_rng(0), 0
    for _ in range(150):
        found = harmonic_mean_of_shares(list(_sample(rng, n, shares, related)))
        assert 0 <= found.low <= found.estimate <= found.high <= 1
        hits += found.low <= stats.hmean(shares) <= found.high
    assert hits / 150 >= 0.92  # 94% and more, less the error of 150 samples


@pytest.mark.parametrize("related", [0, 0.8])
def test_of_many_records_it_is_as_wide_as_the_bootstrap(related):
    scores = list(_sample(np.random.default_rng(1), 500, (0.9, 0.7, 0.6), related))
    found = harmonic_mean_of_shares(scores)
    means = np.array([score.mean("prompt") for score in scores])
    drawn = means[:, np.random.default_rng(2).integers(0, 500, (4000, 500))].mean(-1)
    low, high = np.quantile(stats.hmean(drawn, axis=0), [0.025, 0.975])
    assert found.estimate == pytest.approx(stats.hmean(means.mean(1)))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.1 * (high - low))


def test_where_all_succeed_it_has_the_exact_bound_however_they_go_together():
    found = harmonic_mean_of_shares([_facts(np.ones((20, of))) for of in PROMPTS])
    assert found == pytest.approx((1, stats.binomtest(20, 20).proportion_ci().low, 1, 20))


def test_few_records_with_paraphrases_leave_it_as_open_as_their_own_score():
    """Of 500 records 3 have paraphrases, all right: what is known of S is what 3 records say."""
    paraphrases = np.full((500, 2), np.nan)
    paraphrases[:3] = 1
    scores = [_facts(np.ones((500, 1))), _facts(paraphrases), _facts(np.ones((500, 10)))]
    found, few = harmonic_mean_of_shares(scores), share_over_records(scores[1])
    assert found.n == 3 and found.low == pytest.approx(stats.hmean([1, few.low, 1]), abs=0.01)
    scores[1][:3, 0] = 0
    half = harmonic_mean_of_shares(scores)
    assert half.low < found.low and half.high < 1


def test_one_score_of_nothing_makes_it_nothing():
    found = harmonic_mean_of_shares([_facts(np.ones(12)), _facts(np.zeros(12)), _facts(np.arange(12) % 2)])
    assert found[:2] == (0, 0) and 0 < found.high < 0.7
    empty = harmonic_mean_of_shares([_facts(np.ones(4)), _facts(np.full(4, np.nan))])
    assert empty.n == 0 and np.isnan(empty[:3]).all()


def test_draws_are_observations():
    rng = np.random.default_rng(3)
    of_draw = np.repeat(rng.random((2, 5)) < 0.6, 8, axis=1).astype(float)
    alone = harmonic_mean_of_shares([_facts(of) for of in of_draw])
    seed = ("fact", np.repeat(np.arange(5), 8))
    drawn = harmonic_mean_of_shares([_facts(of, seed=seed) for of in of_draw])
    assert drawn.estimate == alone.estimate and drawn.low < alone.low < alone.high < drawn.high


def test_thousands_of_records_take_no_time():
    rng = np.random.default_rng(0)
    scores = [_facts(rng.random((7500, of)) < 0.8) for of in PROMPTS]
    start = time.perf_counter()
    harmonic_mean_of_shares(scores)
    assert time.perf_counter() - start < 1


def test_what_is_no_share_is_refused():
    with pytest.raises(ReadingError, match="between 0 and 1"):
        harmonic_mean_of_shares([_facts([0.5, 1.5])])
    with pytest.raises(ReadingError, match="no level 2"):
        harmonic_mean_of_shares([_facts([0.5])], 2)
