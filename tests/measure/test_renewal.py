"""Renewal by hand: what old regains, less what never facts do; the interval against scipy's Welch."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.renewal import _welch, renewal

ROLES = ["contradicted"] * 5 + ["control"] * 2 + ["never"] * 4
DIMS = ("fact", "phrasing", "route")


def reading(seed, shift=0.0):
    rng = np.random.default_rng(seed)
    logprob = rng.normal(-5, 1, (11, 3, 4))
    logprob[:5, :, 0] += shift
    coords = {"fact": [f"f{i}" for i in range(11)], "role": ("fact", ROLES), "phrasing": [0, 1, 2]}
    coords |= {"route": ["old", "new", "distractor_0", "distractor_1"]}
    parts = {"logprob": (DIMS, logprob), "standing": (DIMS[:2], logprob[..., 0] - logprob[..., 2])}
    return xr.Dataset(parts, coords, {"score": "sequence", "fingerprint": "same"})


def test_it_is_a_difference_in_differences():
    reference, test = reading(0), reading(1, shift=3.0)
    found = renewal(reference, test, level=0.9)
    margin = [(one.logprob[..., 1] - one.logprob[..., 0]).values for one in (reference, test)]
    gained = margin[0] - margin[1]
    at = {"quantity": "margin", "asked": "prompt"}
    np.testing.assert_allclose(found.regained.sel(at), np.r_[gained[:5, 0], gained[7:, 0]])
    np.testing.assert_allclose(found.excess.sel(at)[:5], gained[:5, 0] - gained[7:, 0].mean())
    assert found.excess.sel(at)[5:].isnull().all() and found.role.values.tolist() == [
        r for r in ROLES if r != "control"
    ]
    welch = stats.ttest_ind(gained[:5, 0], gained[7:, 0], equal_var=False).confidence_interval(0.9)
    np.testing.assert_allclose([found.difference_low.sel(at), found.difference_high.sel(at)], welch)
    held_out = {"quantity": "margin", "asked": "held_out"}
    np.testing.assert_allclose(found.regained.sel(held_out)[:5], gained[:5, 1:].mean(1))
    n = int((found.excess.sel(at) > 0).sum())
    exact = stats.binomtest(n, 5).proportion_ci(0.9, method="exact")
    assert found.n_positive.sel(at) == n and found.n.sel(at) == 5 and found.n_never.sel(at) == 4
    np.testing.assert_allclose([found.positive_low.sel(at), found.positive_high.sel(at)], exact)


@pytest.mark.parametrize(("n", "n_never", "spread"), [(6, 4, 1.0), (6, 12, 2.0), (12, 12, 3.0)])
def test_coverage_of_the_difference(n, n_never, spread):
    """2000 samples, standard error 0.005; never facts that spread as much or more."""
    rng = np.random.default_rng(n)
    found = [_welch(rng.normal(3, 1, n), rng.normal(1, spread, n_never), 0.95) for _ in range(2000)]
    assert np.mean([one.low <= 2 <= one.high for one in found]) == pytest.approx(0.95, abs=0.02)


def test_a_frame_that_moves_all_facts_alike_renews_nothing():
    reference = reading(0)
    test = reference.copy(deep=True)
    test["logprob"].loc[{"route": "old"}] += 2.0
    test["standing"] += 2.0
    found = renewal(reference, test)
    np.testing.assert_allclose(found["mean"], 2.0)
    np.testing.assert_allclose(found.difference, 0.0, atol=1e-12)


def test_facts_without_other_phrasings_have_nothing_held_out():
    found = renewal(reading(0).isel(phrasing=[0]), reading(1).isel(phrasing=[0]))
    assert found.regained.sel(asked="held_out").isnull().all()
    assert found.n.sel(asked="held_out").values.tolist() == [0, 0]
    assert found.difference.sel(asked="held_out").isnull().all()


def test_refusals():
    reference, test = reading(0), reading(1)
    with pytest.raises(ReadingError, match="contradicted and never"):
        renewal(reference.isel(fact=slice(0, 7)), test.isel(fact=slice(0, 7)))
    with pytest.raises(ReadingError, match="differ in fingerprint"):
        renewal(reference, test.assign_attrs(fingerprint="other"))
    with pytest.raises(ReadingError, match="needs standing"):
        renewal(reference.drop_vars("standing"), test)
