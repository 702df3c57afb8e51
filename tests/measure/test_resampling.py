"""Clusters drawn as weights are the same as observations copied."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.resampling import cluster_codes, resampled, weight_below

_SMALL = settings(max_examples=60, deadline=None, database=None, derandomize=True)


@_SMALL
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 3)), min_size=1, max_size=12))
def test_weighted_midranks_are_those_of_copies(observations):
    values, weights = (np.array(part, dtype=float) for part in zip(*observations, strict=True))
    copies = np.repeat(values, weights.astype(int))
    below = [np.sum(copies < x) + np.sum(copies == x) / 2 for x in values]
    np.testing.assert_allclose(weight_below(values, weights[None])[0], below)


def test_with_weights_of_one_they_are_midranks():
    values = np.array([2.0, -np.inf, 2.0, 5.0, np.inf])
    np.testing.assert_allclose(weight_below(values, np.ones((2, 5)))[1] + 0.5, stats.rankdata(values))


def test_clusters_are_drawn_whole_and_as_many_as_there_are():
    codes = cluster_codes(["b", "a", "b", "c", "a", "a"], "A test")
    seen = []

    def keep(weights):
        seen.append(weights)
        return weights.sum(1)

    resampled(keep, codes, 4000, seed=0)
    weights = np.concatenate(seen)
    assert weights.shape == (4000, 6)
    assert (weights[:, 0] == weights[:, 2]).all() and (weights[:, 1] == weights[:, 5]).all()
    assert (weights[:, 0] + weights[:, 1] + weights[:, 3] == 3).all()
    np.testing.assert_allclose(weights.mean(0), 1, atol=4 * np.sqrt(2 / 3 / 4000))


def test_draws_do_not_depend_on_how_many_fit_into_memory(monkeypatch):
    values, codes = np.random.default_rng(0).normal(size=8), np.arange(8)
    whole = resampled(lambda w: w @ values, codes, 50, seed=1)
    monkeypatch.setattr("mechmask.measure.resampling._WEIGHTS_AT_ONCE", 24)
    np.testing.assert_allclose(resampled(lambda w: w @ values, codes, 50, seed=1), whole, rtol=1e-9)


def test_draws_without_the_statistic_are_left_out():
    draws = resampled(lambda w: np.where(w[:, 0] > 0, 1.0, np.nan), np.arange(3), 300, seed=0)
    assert 0 < len(draws) < 300 and (draws == 1).all()


def test_an_observation_without_a_cluster_is_refused():
    with pytest.raises(ReadingError, match="1 have none"):
        cluster_codes(["a", None, "b"], "A clustered AUROC")
