"""Margin, standing, ceiling and rank against plain loops, and the ceiling against fifty-digit decimals."""

import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
import xarray as xr

from mechmask.measure.contest import ceiling, distractors_of, margin, rank, standing, with_standing

_ROUTES = ["old", "new", *(f"distractor_{i}" for i in range(5))]


def _logprob(seed):
    """``[step, fact, route, layer]`` with ties, facts with fewer distractors than five, and one with none."""
    rng = np.random.default_rng(seed)
    values = np.round(rng.normal(-8, 3, size=(2, 4, len(_ROUTES), 3)), 0 if seed % 2 else 6)
    values[:, 1, 5:] = np.nan
    values[:, 2, 3] = np.nan
    values[:, 3, 2:] = np.nan
    return xr.DataArray(
        values,
        dims=("step", "fact", "route", "layer"),
        coords={"step": [0, 100], "fact": list("abcd"), "route": _ROUTES, "layer": [0, 1, 2]},
    )


def _cells(logprob):
    """Every fact at every step and layer: where it stands and its log-probabilities by route."""
    for step in logprob.step.values:
        for fact in logprob.fact.values:
            for layer in logprob.layer.values:
                where = {"step": step, "fact": fact, "layer": layer}
                yield where, {str(r): float(logprob.sel(route=r, **where)) for r in logprob.route.values}


def _present(logps):
    return {r: v for r, v in logps.items() if r.startswith("distractor_") and not math.isnan(v)}


@pytest.mark.parametrize("seed", range(4))
def test_margin_is_new_less_old_and_keeps_the_other_dimensions(seed):
    logprob = _logprob(seed)
    found = margin(logprob)
    assert set(found.dims) == {"step", "fact", "layer"}
    assert found.name == "margin"
    for where, logps in _cells(logprob):
        assert float(found.sel(**where)) == logps["new"] - logps["old"]


@pytest.mark.parametrize("seed", range(4))
def test_standing_is_old_against_the_mean_probability_of_the_distractors(seed):
    logprob = _logprob(seed)
    found = standing(logprob)
    assert set(found.dims) == {"step", "fact", "layer"}
    for where, logps in _cells(logprob):
        others = [math.exp(v) for v in _present(logps).values()]
        if others:
            expected = logps["old"] - math.log(math.fsum(others) / len(others))
            assert float(found.sel(**where)) == pytest.approx(expected, rel=1e-12, abs=1e-12)
        else:
            assert np.isnan(found.sel(**where))


def test_standing_holds_where_probabilities_underflow():
    logprob = xr.DataArray([[-2000.0, -0.0, -1990.0, -1990.0 + math.log(3)]], dims=("fact", "route")).assign_coords(
        route=["old", "new", "distractor_0", "distractor_1"]
    )
    assert float(standing(logprob)[0]) == pytest.approx(-10 - math.log(2), rel=1e-12)


def test_standing_does_not_move_when_new_takes_from_all_alike():
    logits = np.array([[5.0, 1.0, 2.0, 0.5, 1.5]])
    raised = logits + np.array([[0, 30.0, 0, 0, 0]])
    routes = ["old", "new", "distractor_0", "distractor_1", "distractor_2"]
    before, after = (
        xr.DataArray(
            x - np.log(np.exp(x).sum(-1, keepdims=True)),
            dims=("fact", "route"),
            coords={"fact": ["a"], "route": routes},
        )
        for x in (logits, raised)
    )
    assert float(before.sel(route="old")[0] - after.sel(route="old")[0]) > 20
    np.testing.assert_allclose(standing(after), standing(before), atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_rank_counts_the_distractors_ahead(seed):
    logprob = _logprob(seed)
    found = rank(logprob)
    assert set(found.dims) == set(logprob.dims)
    for where, logps in _cells(logprob):
        others = _present(logps)
        for route, value in logps.items():
            if math.isnan(value) or not others:
                assert np.isnan(found.sel(route=route, **where))
            else:
                ahead = sum(1 for rival, v in others.items() if rival != route and v > value)
                assert float(found.sel(route=route, **where)) == ahead


def test_without_distractors_there_is_no_standing_and_no_rank():
    logprob = _logprob(0).sel(route=["old", "new"])
    assert np.isnan(standing(logprob)).all()
    assert np.isnan(rank(logprob)).all()
    assert distractors_of(logprob).sizes["route"] == 0


def _exact_ceiling(logp_new: float) -> float:
    with localcontext() as context:
        context.prec = 50
        return float((1 - Decimal(logp_new).exp()).ln())


# p(new) from 1e-12 to 1 - 1e-12, given as its logarithm, which near 1 is no rounding of 1 - p
_LOGPS = [
    *(math.log(10.0**-k) for k in range(1, 13)),
    *(-(10.0**-k) for k in range(1, 13)),
    -0.6931,
    -0.6932,
    -math.log(2),
]


@pytest.mark.parametrize("logp_new", _LOGPS)
def test_ceiling_agrees_with_fifty_digits(logp_new):
    logprob = xr.DataArray([-50.0, logp_new], dims="route", coords={"route": ["old", "new"]})
    assert float(ceiling(logprob)) == pytest.approx(_exact_ceiling(logp_new), rel=1e-14, abs=0)


def test_ceiling_at_the_ends():
    logprob = xr.DataArray(
        [[-1.0] * 4, [-np.inf, 0.0, 1e-9, np.nan]], dims=("route", "fact"), coords={"route": ["old", "new"]}
    )
    np.testing.assert_array_equal(ceiling(logprob), [0.0, -np.inf, -np.inf, np.nan])


def test_no_exclusive_route_stands_above_the_ceiling():
    logits = np.random.default_rng(0).normal(0, 10, size=(500, 6))
    logits -= logits.max(-1, keepdims=True)
    logprob = xr.DataArray(
        logits - np.log(np.exp(logits).sum(-1, keepdims=True)), dims=("fact", "route"), coords={"route": _ROUTES[:6]}
    )
    room = ceiling(logprob)
    for route in ("old", "distractor_0", "distractor_3"):
        assert (logprob.sel(route=route) <= room + 1e-9 * abs(room)).all()
    np.testing.assert_allclose(np.exp(room) + np.exp(logprob.sel(route="new")), 1.0, rtol=1e-12)


@pytest.mark.parametrize(("score", "has"), [("sequence", True), ("divergence", True), ("mean", False)])
def test_a_mean_score_has_no_ceiling(score, has):
    reading = with_standing(xr.Dataset({"logprob": _logprob(0)}, attrs={"score": score}))
    assert ("ceiling" in reading) is has
    assert {"logprob", "margin", "standing", "rank"} <= set(reading)
    assert reading.attrs["score"] == score


def test_what_is_measured_does_not_depend_on_the_order_of_routes():
    logprob = _logprob(0)
    turned = logprob.isel(route=[4, 1, 6, 0, 3, 2, 5])
    for measure in (margin, standing, ceiling):
        xr.testing.assert_allclose(measure(turned), measure(logprob))
    xr.testing.assert_equal(rank(turned).sel(route=_ROUTES), rank(logprob).sel(route=_ROUTES))
