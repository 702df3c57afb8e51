"""Best of k against sampling, and against the closed form in high precision."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.sampling import best_of_k


def reading(probabilities, score="sequence"):
    values = np.log(np.asarray(probabilities, dtype=float))[:, None]
    logprob = xr.DataArray(values, {"fact": range(len(values)), "route": ["old"]}, ("fact", "route"))
    return xr.Dataset({"logprob": logprob}, attrs={"score": score})


def test_it_is_the_binomial_chance_of_one_or_more():
    probabilities, counts = [1e-12, 1e-3, 0.4, 1.0], [1, 5, 1000]
    found = best_of_k(reading(probabilities), counts)
    assert found.dims == ("fact", "k") and found.k.values.tolist() == counts
    for p, row in zip(probabilities, found.values, strict=True):
        np.testing.assert_allclose(row, [stats.binom.sf(0, k, p) for k in counts], rtol=1e-9)


def test_values_of_several_tokens_drawn_one_after_the_other():
    """Of 40,000 sets of three samples from a little chain, as many begin with the value as it says."""
    rng = np.random.default_rng(0)
    first, second = np.array([0.3, 0.7]), np.array([[0.2, 0.8], [0.5, 0.5]])
    draws = rng.random((2, 40_000, 3))
    says = (draws[0] < first[0]) & (draws[1] < second[0, 0])
    wanted = best_of_k(reading([first[0] * second[0, 0]]), 3).item()
    assert abs(says.any(1).mean() - wanted) < 4 * np.sqrt(wanted * (1 - wanted) / 40_000)


def test_further_dimensions_stay_and_what_is_missing_stays_missing():
    one = reading([0.1, 0.2]).expand_dims(phrasing=[0, 1])
    one["logprob"] = one.logprob.where(one.phrasing == 0)
    found = best_of_k(one, 4)
    assert set(found.dims) == {"phrasing", "fact", "k"} and found.sel(phrasing=1).isnull().all()


@pytest.mark.parametrize("k", [0, -1, 1.5, [[1]], True])
def test_what_is_no_number_of_samples_is_refused(k):
    with pytest.raises(ReadingError, match="no number of samples"):
        best_of_k(reading([0.1]), k)


def test_scores_that_are_no_probability_are_refused():
    for score in ("mean", "divergence"):
        with pytest.raises(ReadingError, match="score='sequence'"):
            best_of_k(reading([0.1], score), 2)
    with pytest.raises(ReadingError, match="was not read"):
        best_of_k(reading([0.1]), 2, route="new")
