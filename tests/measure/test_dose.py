"""Dose curves on arrays whose numbers are known, the dose at which the trace is gone, matched success."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.dose import at_margin, at_mean_margin, dose_curve, dose_erased
from mechmask.measure.normalised import group_normalised

BEFORE = 20.0


def ladder(left, n=12, spread=0.5, at=None, path="a", seed=0, by="step", draws=None):
    """One path whose group has so much of its trace left at each dose; facts spread around it."""
    rng = np.random.default_rng(seed)
    left = np.asarray(left, dtype=float)
    before = BEFORE + rng.normal(0, 2, n)
    after = left[:, None] * before + spread * rng.normal(size=(len(left), n))
    logprob_new = -5 + 5 * np.linspace(0, 1, len(left))[:, None] * np.linspace(0.5, 1, n)
    along = {
        "path": ("dose", [path] * len(left)),
        "course": ("dose", [path.partition(",")[0]] * len(left)),
        "by": ("dose", [by] * len(left)),
        "at": ("dose", list(map(float, at or range(len(left))))),
        "scale": ("dose", list(at) if by == "scale" else [1.0] * len(left)),
    }
    coords = along | {"fact": [f"f{i}" for i in range(n)], "control": ["c0", "c1", "c2"]}
    if draws is not None:
        coords["seed"] = ("fact", draws)
    values = {
        "trace_before": np.tile(before, (len(left), 1)),
        "trace_after": after,
        "index": (1 - left[:, None]) * 15 + rng.normal(size=after.shape),
        "margin": np.linspace(-4, 6, len(left))[:, None] + np.linspace(-1, 1, n),
        "probability_new": np.exp(logprob_new),
    }
    variables = {name: (("dose", "fact"), value) for name, value in values.items()}
    variables |= {
        "control_drop": (("dose", "control"), (1 - left[:, None]) * [1.0, 2.0, 3.0]),
        "text_cost": (("dose", "sequence"), (1 - left[:, None]) * [0.1, 0.2, 0.3, 0.4]),
        "norm": ("dose", np.linspace(0, 3, len(left))),
        "shared_error": ("dose", np.zeros(len(left))),
        "n_never": (("dose", "fact"), np.ones_like(after, dtype=int)),
    }
    attrs = {"margin_share": 0.25, "interval_level": 0.90, "cutoff_nats": 8.0}
    return xr.Dataset(variables, coords, attrs)


def test_means_and_intervals_are_students():
    doses = ladder([1, 0.5, 0.1])
    curve = dose_curve(doses, 0.9)
    for name, source in (("trace", "trace_after"), ("index", "index"), ("margin", "margin")):
        values = doses[source].values
        half = stats.t.ppf(0.95, 11) * stats.sem(values, axis=1)
        np.testing.assert_allclose(curve[name], values.mean(1))
        np.testing.assert_allclose(curve[f"{name}_low"], values.mean(1) - half)
    np.testing.assert_allclose(curve.control_drop, [0, 1.0, 1.8])
    np.testing.assert_allclose(curve.text_cost, [0, 0.125, 0.225])
    np.testing.assert_allclose(curve.norm, [0, 1.5, 3])
    for i in range(3):
        ratio = group_normalised(doses.isel(dose=i))
        assert float(curve.left_high[i]) == 1 - ratio.low and float(curve.left[i]) == 1 - ratio.estimate


def test_the_trace_is_gone_from_the_first_dose_on_after_which_it_never_comes_back():
    """At step 20 it dips below the margin and comes back; from 40 on it stays."""
    found = dose_erased(ladder([1, 0.6, 0.05, 0.5, 0.1, 0.0], at=[0, 10, 20, 30, 40, 50]))
    assert float(found.dose.item()) == 40 and int(found.row.item()) == 4
    assert float(found.low.item()) == 20 and float(found.high.item()) == 40, "at step 20 it may have been gone already"
    assert int(found.n.item()) == 12 and found.attrs["unit"] == "facts"


def test_suppression_is_gone_as_well():
    assert float(dose_erased(ladder([1, 0.3, 0.1, -0.8])).dose.item()) == 2


def test_not_reached_is_infinite():
    found = dose_erased(ladder([1, 0.8, 0.4]))
    assert np.isinf(found.dose.item()) and int(found.row.item()) == -1 and np.isinf(found.high.item())


def test_where_the_mean_is_within_and_its_bound_is_not_the_interval_has_no_end():
    noisy = dose_erased(ladder([1, 0.5, 0.15], spread=4.0, seed=2))
    assert (float(noisy.dose.item()), float(noisy.low.item()), float(noisy.high.item())) == (2, 2, np.inf)


def test_the_interval_lies_between_the_doses_at_which_it_may_be_gone_and_at_which_it_surely_is():
    """Independent of the routine: the curve's own interval of what is left, at the level of the verdict."""
    doses = ladder(np.linspace(0.5, 0.0, 26), spread=4.0, n=8)
    curve, found = dose_curve(doses), dose_erased(doses)
    low, dose, high = (int(found[name].item()) for name in ("low", "dose", "high"))
    assert low < dose < high
    assert (curve.left_low[:low] > 0.25).all() and curve.left_low[low] <= 0.25
    assert curve.left_high[high - 1] > 0.25 and (curve.left_high[high:] <= 0.25).all()
    assert curve.left[dose - 1] > 0.25 and (curve.left[dose:] <= 0.25).all()
    wider = dose_erased(doses, 0.99)
    assert wider.low <= found.low and wider.high >= found.high and wider.attrs["level"] == 0.99


@pytest.mark.parametrize(("n", "draws"), [(8, None), (24, None), (30, [d for d in range(5) for _ in range(6)])])
def test_coverage_of_the_dose(n, draws):
    """The step at which endless facts would cross the margin, of ladders whose facts differ and are read with error."""
    left = np.linspace(0.6, 0.0, 13)
    truth = float(np.flatnonzero(left <= 0.25)[0])
    found = [dose_erased(ladder(left, spread=2.0, n=n, seed=seed, draws=draws)) for seed in range(60)]
    hits = sum(float(one.low.item()) <= truth <= float(one.high.item()) for one in found)
    assert hits >= 51, "85% where 90% is claimed"
    assert abs(np.median([float(one.dose.item()) for one in found]) - truth) <= 1


def test_paths_are_judged_each_by_itself_in_the_order_of_their_places():
    first = ladder([0.0, 1.0, 0.1], at=[2.0, -1.0, 1.0], path="a, by scale", by="scale")
    both = xr.concat([first, ladder([1.0, 0.9], path="b")], "dose", combine_attrs="override")
    found = dose_erased(both)
    assert found.path.values.tolist() == ["a, by scale", "b"]
    assert found.dose.values.tolist() == [1.0, np.inf] and found.row.values.tolist() == [2, -1]


def test_draws_of_facts_are_drawn_whole():
    left = [1, 0.4, 0.1]
    several = dose_erased(ladder(left, draws=[0] * 4 + [1] * 4 + [2] * 4))
    assert int(several.n.item()) == 3 and several.attrs["unit"] == "draws"
    assert int(dose_erased(ladder(left, draws=[0] * 12)).n.item()) == 12


def test_one_fact_reaches_nothing_and_has_no_interval():
    found = dose_erased(ladder([1.0, 0.0], n=1))
    assert np.isinf(found.dose.item()) and np.isnan(found.low.item())


def course():
    margin = xr.DataArray([[-4.0, -4, -4], [2, -1, -3], [5, 3, -2], [1, 6, 0]], dims=("step", "fact"))
    trace = xr.DataArray([[9.0, 8, 7], [6, 5, 4], [3, 2, 1], [0, -1, -2]], dims=("step", "fact"))
    text = xr.DataArray([["a", "b", "c"]] * 4, dims=("step", "fact"))
    parts = {"margin": margin, "trace_after": trace, "norm": ("step", [0.0, 1, 2, 3]), "verdict": text}
    return xr.Dataset(parts, {"step": [0, 5, 10, 15], "fact": ["x", "y", "z"]}, {"statistic": "logprob"})


def test_every_fact_where_it_first_has_the_margin():
    found = at_margin(course(), 1.0)
    np.testing.assert_array_equal(found["first"], [5, 10, np.nan])
    np.testing.assert_array_equal(found.trace_after, [6, 2, np.nan])
    np.testing.assert_array_equal(found.norm, [1, 2, np.nan])
    assert "verdict" not in found and found.fact.values.tolist() == ["x", "y", "z"]
    assert found.attrs["statistic"] == "logprob"


def test_all_facts_where_their_mean_first_has_it():
    found = at_mean_margin(course(), 2.0)
    assert float(found["first"]) == 10
    np.testing.assert_array_equal(found.trace_after, [3, 2, 1])
    assert np.isnan(at_mean_margin(course(), 3.0)["first"]) and np.isnan(at_mean_margin(course(), 3.0).margin).all()


def test_the_margin_may_be_two_routes_and_steps_in_any_order():
    given = course()
    routes = given.drop_vars("margin").assign(logprob_new=given.margin - 2, logprob_old=xr.full_like(given.margin, -2))
    shuffled = routes.isel(step=[2, 0, 3, 1])
    np.testing.assert_array_equal(at_margin(shuffled, 1.0).trace_after, at_margin(given, 1.0).trace_after)


@pytest.mark.parametrize("of", [at_margin, at_mean_margin])
def test_what_has_no_margin_is_refused(of):
    with pytest.raises(ReadingError, match="margin"):
        of(course().drop_vars("margin"), 1.0)
    with pytest.raises(ReadingError, match="finite number"):
        of(course(), float("nan"))
    with pytest.raises(ReadingError, match="dose"):
        of(course(), 1.0, along="dose")


@pytest.mark.parametrize("of", [dose_curve, dose_erased])
def test_what_is_no_dose_is_refused(of):
    with pytest.raises(ReadingError, match="trace_after"):
        of(ladder([1, 0]).drop_vars("trace_after"))
    with pytest.raises(ReadingError, match="no level"):
        of(ladder([1, 0]), level=1.5)
