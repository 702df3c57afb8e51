"""Adjusted p-values by hand, and the largest t against every flip of signs."""

import math
from itertools import product

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.multiplicity import LARGEST_EXACT_N, benjamini_hochberg, holm, max_t

_SMALL = settings(max_examples=80, deadline=None, database=None, derandomize=True)
_P_VALUES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@_SMALL
@given(_P_VALUES)
def test_holm_steps_down(p_values):
    """Holm (1979): the i-th smallest is held against the family that is left, and none passes before a smaller."""
    expected, largest = dict.fromkeys(range(len(p_values)), 0.0), 0.0
    for i, k in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - i) * p_values[k]))
        expected[k] = largest
    np.testing.assert_allclose(holm(p_values), list(expected.values()), rtol=1e-12)


@_SMALL
@given(_P_VALUES)
def test_benjamini_and_hochberg_step_up(p_values):
    """Their equation 1: rejected at q are all up to the largest i with ``p(i) <= i q / m``; adjusted is the least q."""
    m = len(p_values)
    ordered = sorted(p_values)
    expected = [min(1.0, min(m / (i + 1) * ordered[i] for i in range(m) if ordered[i] >= p)) for p in p_values]
    np.testing.assert_allclose(benjamini_hochberg(p_values), expected, rtol=1e-12)


@pytest.mark.parametrize("adjust", [holm, benjamini_hochberg])
def test_tests_that_were_not_made_stay_and_do_not_count(adjust):
    table = np.array([[0.01, np.nan, 0.04], [0.03, 0.002, np.nan]])
    found = adjust(table)
    assert found.shape == (2, 3) and np.isnan(found[[0, 1], [1, 2]]).all()
    np.testing.assert_array_equal(found[~np.isnan(table)], adjust(table[~np.isnan(table)]))
    assert np.isnan(adjust([np.nan])).all() and adjust([]).shape == (0,)
    assert table[0, 0] == 0.01


@pytest.mark.parametrize("adjust", [holm, benjamini_hochberg])
@pytest.mark.parametrize("p_values", [[0.1, 1.2], [-0.1]])
def test_what_is_no_p_value_is_refused(adjust, p_values):
    with pytest.raises(ReadingError, match="between 0 and 1"):
        adjust(p_values)


def _curves(seed, n, layers=5, mean=0.0):
    """Facts whose layers resemble their neighbours."""
    steps = np.random.default_rng(seed).normal(size=(n, layers))
    for layer in range(1, layers):
        steps[:, layer] = 0.9 * steps[:, layer - 1] + np.sqrt(1 - 0.81) * steps[:, layer]
    return xr.DataArray(steps + mean, {"layer": range(layers)}, ("fact", "layer"))


def _every_flip(values):
    """The largest |t| over layers for every choice of signs, by scipy."""
    flips = product((1, -1), repeat=len(values))
    return np.array([np.abs(stats.ttest_1samp(np.array(s)[:, None] * values, 0).statistic).max() for s in flips])


@pytest.mark.parametrize("n", [2, 6, 8])
def test_up_to_thirteen_facts_every_flip_counts(n):
    curves = _curves(n, n, mean=0.8)
    found = max_t(curves)
    t = stats.ttest_1samp(curves.values, 0).statistic
    largest = _every_flip(curves.values)
    np.testing.assert_allclose(found.t, t, rtol=1e-9)
    expected = [np.mean(largest >= abs(x) * (1 - 1e-9)) for x in t]
    np.testing.assert_allclose(found.p_adjusted, expected, atol=1e-12)
    assert found.attrs["n_permutations"] == 2**n and found.n == n


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_band_is_as_wide_as_flipped_residuals_go(level):
    curves = _curves(1, 8, mean=3.0)
    residuals = curves.values - curves.values.mean(0)
    largest = np.sort(_every_flip(residuals))[::-1]
    critical = largest[int((1 - level) * len(largest))]
    assert np.mean(largest > critical) <= 1 - level
    half = critical * stats.sem(curves.values)
    found = max_t(curves, level)
    np.testing.assert_allclose(found.high - found["mean"], half, rtol=1e-6)
    np.testing.assert_allclose(found["mean"] - found.low, half, rtol=1e-6)


def test_random_flips_come_near_all_of_them(monkeypatch):
    curves = _curves(2, 10, mean=0.4)
    exact = max_t(curves)
    monkeypatch.setattr("mechmask.measure.multiplicity.LARGEST_EXACT_N", 5)
    drawn = max_t(curves, n_permutations=20_000)
    np.testing.assert_allclose(drawn.p_adjusted, exact.p_adjusted, atol=4 * 0.5 / np.sqrt(20_000))
    np.testing.assert_allclose(drawn.low, exact.low, atol=0.1)
    assert float(drawn.p_adjusted.min()) >= 1 / 20_001


def test_the_same_flips_come_with_the_same_seed():
    curves = _curves(3, LARGEST_EXACT_N + 1, mean=0.3)
    xr.testing.assert_identical(max_t(curves, n_permutations=99), max_t(curves, n_permutations=99))
    assert not max_t(curves, n_permutations=99).equals(max_t(curves, n_permutations=99, seed=1))


def test_one_layer_is_a_test_of_its_own_and_more_of_the_same_cost_nothing():
    curves = _curves(4, 9, layers=1, mean=0.7)
    alone = max_t(curves)
    many = max_t(xr.concat([curves] * 6, "layer"))
    np.testing.assert_allclose(many.p_adjusted, np.repeat(alone.p_adjusted, 6), atol=1e-12)
    expected = stats.permutation_test(
        (curves.values[:, 0],), lambda x, axis: np.abs(x.mean(axis)), permutation_type="samples", vectorized=True,
        alternative="greater", n_resamples=np.inf,
    )  # fmt: skip
    assert float(alone.p_adjusted[0]) == pytest.approx(expected.pvalue)


def test_signs_units_and_the_order_of_dimensions_do_not_matter():
    curves = _curves(5, 7, mean=0.5)
    found, other = max_t(curves), max_t((-3 * curves).transpose("layer", "fact"))
    np.testing.assert_allclose(other.p_adjusted, found.p_adjusted, atol=1e-12)
    np.testing.assert_allclose(other.low, -3 * found.high, rtol=1e-9)
    assert found.layer.values.tolist() == list(range(5))


def test_facts_with_a_hole_and_layers_without_spread_are_left_out():
    curves = _curves(6, 8, mean=1.0)
    whole = max_t(curves.isel(fact=slice(7)))
    holed = max_t(curves.where((curves.fact != 7) | (curves.layer != 2)))
    xr.testing.assert_allclose(holed, whole)
    flat = xr.concat([xr.zeros_like(curves.isel(layer=[0])), curves], "layer").assign_coords(layer=range(6))
    found = max_t(flat)
    assert np.isnan([found[name][0] for name in ("t", "p_adjusted", "low", "high")]).all() and found["mean"][0] == 0
    np.testing.assert_allclose(found.p_adjusted[1:], max_t(curves).p_adjusted)


@pytest.mark.parametrize(("n", "bounded"), [(5, False), (6, True)])
def test_five_facts_are_too_few_for_a_band(n, bounded):
    found = max_t(_curves(7, n, mean=50.0))
    assert bool(np.isfinite(found.low).all()) is bounded
    assert (float(found.p_adjusted.min()) <= 0.05) is bounded


@pytest.mark.parametrize("n", [0, 1])
def test_one_fact_has_no_t(n):
    found = max_t(_curves(8, 3).isel(fact=slice(n)))
    assert np.isnan(found.t).all() and np.isnan(found.low).all() and found.n == n


# what 1000 samples gave, of 30 layers
_COVERAGE = {6: 0.94, 12: 0.95, 24: 0.945}


@pytest.mark.parametrize(("n", "mean"), [(6, 0.0), (6, 3.0), (12, 0.0), (24, 3.0)])
def test_the_band_covers_the_whole_curve_and_the_test_holds_its_level(n, mean):
    """300 samples, three standard errors of at most 0.014."""
    found = [max_t(_curves((n, i), n, 30, mean), n_permutations=499) for i in range(300)]
    covered = np.mean([((x.low <= mean) & (mean <= x.high)).all() for x in found])
    assert covered == pytest.approx(_COVERAGE[n], abs=3 * math.sqrt(0.06 * 0.94 / 300))
    rejected = np.mean([(x.p_adjusted <= 0.05).any() for x in found])
    assert rejected <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 300) if mean == 0 else rejected == 1


def test_bad_input():
    curves = _curves(9, 6)
    with pytest.raises(ReadingError, match="this one has fact, layer, state"):
        max_t(curves.expand_dims(state=2).transpose("fact", "layer", "state"))
    with pytest.raises(ReadingError, match="this one is none"):
        max_t(curves.values)
    with pytest.raises(ReadingError, match="infinite"):
        max_t(curves.where(curves.fact != 2, np.inf))
    with pytest.raises(ReadingError, match="between 0 and 1"):
        max_t(curves, level=1)
