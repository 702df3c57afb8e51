"""Means over records: scipy where all are independent or draws are of one size, by simulation where they are not."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.record_mean import mean_over_records


def _facts(values, **coordinates):
    values = np.asarray(values, dtype=float)
    return xr.DataArray(values, coordinates, ("fact", "prompt")[: values.ndim])


def test_independent_records_have_students_interval():
    values = np.random.default_rng(0).normal(3, 1, (9, 4))
    means = values.mean(1)
    expected = stats.t.interval(0.9, 8, means.mean(), stats.sem(means))
    assert mean_over_records(_facts(values), 0.9) == pytest.approx((means.mean(), *expected, 9))


def test_draws_of_one_size_are_observations():
    values, seed = np.random.default_rng(0).normal(3, 1, 24), np.repeat(np.arange(6), 4)
    draws = values.reshape(6, 4).mean(1)
    expected = stats.t.interval(0.95, 5, draws.mean(), stats.sem(draws))
    assert mean_over_records(_facts(values, seed=("fact", seed))) == pytest.approx((draws.mean(), *expected, 24))


def test_records_of_unequal_draws_have_equal_weight_and_what_is_not_asked_none():
    seed = ("fact", [0, 0, 0, 0, 1, 2])
    values = _facts([[1, 3], [2, np.nan], [2, 2], [np.nan, np.nan], [6, 6], [8, 0]], seed=seed)
    found = mean_over_records(values)
    assert found.estimate == pytest.approx((2 + 2 + 2 + 6 + 4) / 5) and found.n == 5
    assert found.estimate == mean_over_records(values.drop_vars("seed")).estimate


def test_it_covers_records_of_unequal_draws():
    rng, hits, n_samples = np.random.default_rng(0), 0, 400
    for _ in range(n_samples):
        seed = np.repeat(np.arange(12), rng.integers(1, 9, 12))
        found = mean_over_records(_facts(rng.normal(0, 1, 12)[seed] + rng.normal(0, 1, len(seed)), seed=("fact", seed)))
        hits += found.low <= 0 <= found.high
    assert 0.91 <= hits / n_samples <= 0.98


def test_one_observation_has_no_ends_and_nothing_no_mean():
    one = mean_over_records(_facts([1.0, 3.0, np.nan], seed=("fact", [0, 0, 1])))
    assert one[::3] == (2, 2) and np.isnan(one[1:3]).all()
    assert mean_over_records(_facts(np.zeros((3, 0)))).n == 0


def test_what_has_no_mean_is_refused():
    with pytest.raises(ReadingError, match="dimension fact"):
        mean_over_records(xr.DataArray([0.5], dims="prompt"))
    with pytest.raises(ReadingError, match="infinite"):
        mean_over_records(_facts([0.5, np.inf]))
    with pytest.raises(ReadingError, match="takes numbers"):
        mean_over_records(xr.DataArray(["a"], dims="fact"))
    with pytest.raises(ReadingError, match="no level 2"):
        mean_over_records(_facts([0.5]), 2)
