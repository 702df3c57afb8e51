"""EI* of a fact and of a group: where a t test turns, by simulated coverage, and at the edges."""

import math

import numpy as np
import pytest
import xarray as xr
from scipy import optimize, stats

from mechmask.errors import ReadingError
from mechmask.measure.normalised import (
    difference_of_ratios,
    group_normalised,
    normalised,
    normalised_difference,
    ratio_of_means,
)


def _random(seed, n=6, k=10, spread=3.0):
    rng = np.random.default_rng(seed)
    return 15 + rng.normal(0, 2, n), 4 + rng.normal(0, 2, n), rng.normal(0, spread, k)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_bounds_are_where_a_t_test_turns(seed, level):
    """A ratio is in the interval where ``mean(after) - s * mean(before) - (1 - s) * never`` is not told from zero."""
    before, after, never = _random(seed)
    error = stats.sem(never)

    def parts(share):
        contrast = after - share * before
        return contrast.mean() - (1 - share) * never.mean(), stats.sem(contrast) ** 2, ((1 - share) * error) ** 2

    estimate = (after.mean() - never.mean()) / (before.mean() - never.mean())
    _, over_facts, from_never = parts(estimate)
    freedom = (over_facts + from_never) ** 2 / (over_facts**2 / (len(before) - 1) + from_never**2 / (len(never) - 1))
    t = stats.t.ppf(0.5 + level / 2, freedom)

    def excess(share):
        difference, one, two = parts(share)
        return difference**2 - t**2 * (one + two)

    bounds = [optimize.brentq(excess, estimate, estimate + way * 3) for way in (1, -1)]
    computed = ratio_of_means(before - never.mean(), after - never.mean(), error, len(never), level)
    expected = [(before - after).sum() / (before - never.mean()).sum(), *(1 - np.array(bounds))]
    np.testing.assert_allclose(np.array(computed, dtype=float), expected, rtol=1e-9)


@pytest.mark.parametrize("spread", [2.0, 6.0])
@pytest.mark.parametrize("after", [-5.0, 0.0, 6.0, 14.0])
@pytest.mark.parametrize(("n", "k"), [(6, 8), (24, 12)])
def test_coverage(n, k, after, spread):
    """20,000 draws, standard error 0.0015; Student's interval of the mean of ratios covers 0.34 to 0.95."""
    rng = np.random.default_rng(0)
    before = 15 + rng.normal(0, 2, (20_000, n))
    last = after + 0.5 * (before - 15) + rng.normal(0, 2, before.shape)
    never = rng.normal(0, spread, (20_000, k))
    mean, error = never.mean(1), stats.sem(never, axis=1)
    _, low, high = ratio_of_means(before - mean[:, None], last - mean[:, None], error, k)
    truth = 1 - after / 15
    assert np.mean((low <= truth) & (truth <= high)) == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize("after", [0.0, 6.0, 14.0])
def test_coverage_of_five_draws(after):
    """Each draw an observation with a reference of its own: 20,000 samples, standard error 0.0015."""
    rng = np.random.default_rng(1)
    before = 15 + rng.normal(0, 3, (20_000, 5))
    last = after + 0.5 * (before - 15) + rng.normal(0, 2, before.shape)
    for level in (0.90, 0.95):
        _, low, high = ratio_of_means(before, last, 0.0, 2, level)
        assert np.mean((low <= 1 - after / 15) & (1 - after / 15 <= high)) == pytest.approx(level, abs=0.01)
    again = last + rng.normal(0, 1, before.shape), before + rng.normal(0, 1, before.shape)
    difference, low, high = difference_of_ratios(before, last, again[1], again[0])
    assert np.mean((low <= 0) & (high >= 0)) == pytest.approx(0.95, abs=0.015)
    assert np.isfinite(difference).all()


@pytest.mark.parametrize("left", [0, 1])
def test_one_draw_that_is_left_of_several_is_one_observation(left):
    """What remains of five draws once the others could not be read: no interval, however many facts it has."""
    rng = np.random.default_rng(2)
    traces = {"trace_before": 20 + rng.normal(size=30), "trace_after": 10 + rng.normal(size=30)}
    seed = np.repeat(np.arange(5), 6)
    result = xr.Dataset({name: ("fact", np.where(seed == left, of, np.nan)) for name, of in traces.items()})
    result = result.assign(shared_error=0.0, n_never=("fact", [12] * 30)).assign_coords(seed=("fact", seed))
    found = group_normalised(result)
    assert found.n == 6 and found.estimate == pytest.approx(0.5, abs=0.05) and np.isnan(found.low)
    assert np.isfinite(group_normalised(result.drop_vars("seed")).low)
    assert np.isnan(normalised_difference(result, result).low)


def test_a_difference_of_other_facts_or_of_no_traces_is_refused():
    traces = {name: ("fact", np.array([9.0, 8.0, 7.0])) for name in ("trace_before", "trace_after")}
    result = xr.Dataset(traces, {"fact": list("abc")})
    with pytest.raises(ReadingError, match="fact"):
        normalised_difference(result, result.isel(fact=[1, 0, 2]))
    with pytest.raises(ReadingError, match="trace_after"):
        normalised_difference(result, result.drop_vars("trace_after"))


def test_more_facts_do_not_shrink_what_they_share():
    """With every standing after at zero the error is that of the reference, whatever the number of facts."""
    widths = []
    for n in (10, 1000):
        before = 15 + np.random.default_rng(1).normal(0, 1e-6, n)
        _, low, high = ratio_of_means(before, np.zeros(n), 1.0, 10)
        widths.append(float(high - low))
    assert widths[0] == pytest.approx(widths[1], rel=1e-3)
    assert widths[0] > 2 * stats.t.ppf(0.975, 9) / 15


def test_where_nothing_changed_the_reference_does_not_matter():
    before = np.array([10.0, 12, 9, 15])
    np.testing.assert_allclose(np.array(ratio_of_means(before, before, 2.0, 8), dtype=float), [0, 0, 0], atol=1e-12)


def test_a_ratio_that_cannot_be_bounded_and_one_that_means_nothing():
    unsure = ratio_of_means(np.array([5.0, -4.0, 1.0]), np.array([1.0, 1.0, 2.0]), 2.0, 8)
    assert (float(unsure[1]), float(unsure[2])) == (-math.inf, math.inf)
    assert float(unsure[0]) == pytest.approx(1 - 4 / 2)
    assert np.isnan(np.array(ratio_of_means(np.full(4, -3.0), np.zeros(4), 0.1, 8), dtype=float)).all()
    alone = ratio_of_means(np.array([5.0]), np.array([1.0]), 1.0, 8)
    assert float(alone[0]) == pytest.approx(0.8) and np.isnan([float(alone[1]), float(alone[2])]).all()


def _traces(trace, error, freedom=9):
    values = {"trace": ("fact", np.atleast_1d(trace)), "error": ("fact", np.atleast_1d(error)), "freedom": freedom}
    return xr.Dataset(values, {"fact": [f"f{i}" for i in range(np.size(trace))]})


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_the_bounds_of_a_fact_are_where_a_t_test_turns(level):
    found = normalised(_traces([20.0, 12.0], [2.0, 3.0]), _traces([7.0, -2.0], [2.5, 1.0], 6), level)
    t = stats.t.ppf(0.5 + level / 2, 6)
    for i, (b, eb, a, ea) in enumerate([(20.0, 2.0, 7.0, 2.5), (12.0, 3.0, -2.0, 1.0)]):
        bounds = [float(found[f"normalised_{end}"][i]) for end in ("low", "high")]
        for bound in bounds:
            share = 1 - bound
            assert abs(a - share * b) == pytest.approx(t * math.hypot(ea, share * eb))
        assert float(found.normalised[i]) == pytest.approx(1 - a / b)
        assert bounds[0] < 1 - a / b < bounds[1]


def test_coverage_of_a_fact():
    """20,000 facts with known errors: Fieller's interval covers at its level, whatever is left."""
    rng = np.random.default_rng(0)
    for left in (-5.0, 0.0, 8.0, 20.0):
        before, after = 20 + rng.normal(0, 3, 20_000), left + rng.normal(0, 3, 20_000)
        found = normalised(
            _traces(before, np.full(20_000, 3.0), 10**6), _traces(after, np.full(20_000, 3.0), 10**6), 0.9
        )
        covered = (found.normalised_low <= 1 - left / 20) & (found.normalised_high >= 1 - left / 20)
        assert float(covered.mean()) == pytest.approx(0.9, abs=0.01)


def test_a_fact_that_was_not_known_has_no_ratio_and_one_that_hardly_was_no_bounds():
    found = normalised(_traces([-1.0, 2.0, 20.0], [1.0, 3.0, np.nan]), _traces([1.0, 1.0, 1.0], [1.0, 1.0, 1.0]), 0.9)
    assert np.isnan(found.normalised[0]) and np.isnan(found.normalised_low[0])
    assert float(found.normalised_low[1]) == -math.inf and float(found.normalised_high[1]) == math.inf
    assert float(found.normalised[2]) == pytest.approx(0.95) and np.isnan(found.normalised_low[2])
    assert np.isnan(normalised(_traces([9.0], [np.nan], 0), _traces([1.0], [np.nan], 0), 0.9).normalised_low).all()


def _result(before, after, *, seeds=None, **scalars):
    scalars = {"shared_error": 0.0, "n_never": 10, **scalars}
    coords = {"fact": [f"f{i}" for i in range(len(before))]}
    if seeds is not None:
        coords["seed"] = ("fact", seeds)
    return xr.Dataset(
        {"trace_before": ("fact", before), "trace_after": ("fact", after)}
        | {name: ("fact" if np.ndim(value) else (), value) for name, value in scalars.items()},
        coords,
        {"interval_level": 0.9},
    )


def test_a_result_gives_the_ratio_of_its_means():
    before, after, _ = _random(3)
    expected = np.array(ratio_of_means(before, after, 0.7, 10, 0.9), dtype=float)
    for scalars in ({"shared_error": 0.7}, {"shared_error": np.full(6, 0.7), "n_never": np.full(6, 10)}):
        np.testing.assert_allclose(group_normalised(_result(before, after, **scalars)), [*expected, 6], rtol=1e-9)


def test_a_draw_is_one_observation():
    before, after, _ = _random(3)
    found = group_normalised(_result(before, after, seeds=[0, 0, 1, 1, 2, 2]))
    by_draw = [values.reshape(3, 2).mean(1) for values in (before, after)]
    np.testing.assert_allclose(found[:3], np.array(ratio_of_means(*by_draw, 0.0, 10, 0.9), dtype=float), rtol=1e-9)
    assert found.n == 6
    alone = group_normalised(_result(before, after, seeds=[4] * 6))
    assert alone == group_normalised(_result(before, after))


def test_facts_without_a_trace_are_left_out():
    before, after, _ = _random(4)
    hole = np.where(np.arange(6) == 2, np.nan, before)
    some = _result(hole, after)
    rest = some.isel(fact=[0, 1, 3, 4, 5])
    assert group_normalised(some) == group_normalised(rest)
    assert group_normalised(some).n == 5
    assert group_normalised(some.isel(fact=[2])).n == 0


def test_without_a_reference_there_is_no_ratio():
    nothing = np.full(6, np.nan)
    assert np.isnan(group_normalised(_result(nothing, nothing, shared_error=np.nan, n_never=0))[:3]).all()
