"""Surprise and reactance by hand and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.reactance import prior_and_margin
from mechmask.measure.surprise import magnitude_overview, surprise_and_margin

N = 24
MAGNITUDES = ["mild", "format", "strong", ""] * (N // 4)
ROLES = ["contradicted"] * 20 + ["control"] * 4


def reading(seed):
    rng = np.random.default_rng(seed)
    coords = {"fact": [f"f{i}" for i in range(N)], "route": ["old", "new"], "role": ("fact", ROLES)}
    coords |= {"magnitude": ("fact", MAGNITUDES)}
    parts = {"logprob": (("fact", "route"), rng.normal(-5, 2, (N, 2)))}
    parts["recalled"] = (("fact", "route"), rng.random((N, 2)) < 0.5)
    return xr.Dataset(parts, coords, {"score": "sequence"})


def erased(seed, states=()):
    """What the surprise of an erase index is made from."""
    rng = np.random.default_rng(seed)
    parts = {"surprise": -rng.normal(-9, 2, 20), "logprob_old": rng.normal(-4, 1, 20)}
    parts["logprob_new"] = parts["surprise"] / 4 - 4 + rng.normal(0, 0.5, 20)
    coords = {"fact": [f"f{i}" for i in range(20)], "magnitude": ("fact", MAGNITUDES[:20])}
    one = xr.Dataset({name: ("fact", values) for name, values in parts.items()}, coords, {"score": "sequence"})
    return xr.concat([one, -one], xr.DataArray(list(states), dims="state", name="state")) if states else one


def test_it_goes_along_with_the_final_margin():
    table = erased(0)
    found = surprise_and_margin(table)
    x, y = table.surprise.values, (table.logprob_new - table.logprob_old).values
    np.testing.assert_allclose(found.estimate.sel(correlation="pearson"), stats.pearsonr(x, y).statistic)
    np.testing.assert_allclose(found.estimate.sel(correlation="spearman"), stats.spearmanr(x, y).statistic)
    np.testing.assert_allclose(found.margin, y)
    assert found.n_clusters[0] == 20 and found.attrs["score"] == "sequence"


def test_means_by_magnitude_are_mildest_first():
    table = erased(0)
    found = surprise_and_margin(table)
    assert found.grade.values.tolist() == ["mild", "strong", "format"] and (found.n_graded == 5).all()
    of_mild = table.surprise.values[0::4]
    expected = stats.t.interval(0.95, 4, of_mild.mean(), stats.sem(of_mild))
    np.testing.assert_allclose([found.mean_surprise_low[0], found.mean_surprise_high[0]], expected)
    table_of_means = magnitude_overview(found)
    assert table_of_means.index.tolist() == ["mild", "strong", "format"]
    assert table_of_means.mean_surprise["mild"] == pytest.approx(of_mild.mean())
    ungraded = surprise_and_margin(table.assign_coords(magnitude=("fact", [""] * 20)))
    assert magnitude_overview(ungraded).empty
    assert "mean_surprise" not in ungraded and "mean_surprise" not in surprise_and_margin(table.drop_vars("magnitude"))


def test_every_state_has_a_correlation_of_its_own():
    table = erased(0, states=("won", "driven_on"))
    found = surprise_and_margin(table)
    for state in found.state.values:
        alone = surprise_and_margin(table.sel(state=state, drop=True))
        xr.testing.assert_allclose(found.sel(state=state, drop=True).drop_attrs(), alone.drop_attrs())


def test_draws_are_clusters_here_too():
    found = surprise_and_margin(erased(0).assign_coords(seed=("fact", np.arange(20) % 5)))
    assert found.n_clusters.values.tolist() == [5, 5]


def test_what_is_no_erase_index_is_refused():
    with pytest.raises(ReadingError, match="needs surprise"):
        surprise_and_margin(erased(0).drop_vars("surprise"))


def test_reactance_by_condition():
    before, after = ({"weak": reading(i), "strong": reading(i + 1)} for i in (0, 2))
    found = prior_and_margin(before, after)
    for name in ("weak", "strong"):
        prior = before[name].logprob.sel(route="old").values[:20]
        final = (after[name].logprob.sel(route="new") - after[name].logprob.sel(route="old")).values[:20]
        one = found.sel(condition=name)
        np.testing.assert_allclose(one.estimate.sel(correlation="pearson"), stats.pearsonr(prior, final).statistic)
        np.testing.assert_allclose([one.prior_spread, one.mean_margin], [prior.std(ddof=1), final.mean()])
        np.testing.assert_array_equal(one.surprise, -before[name].logprob.sel(route="new").values[:20])
        assert one.recalled == before[name].recalled.sel(route="old").values[:20].mean()
    with pytest.raises(ReadingError, match="same conditions"):
        prior_and_margin(before, {"weak": reading(2)})
    with pytest.raises(ReadingError, match="not of the same facts"):
        prior_and_margin({"weak": reading(0)}, {"weak": reading(2).isel(fact=slice(0, 9))})
