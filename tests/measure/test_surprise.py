"""Surprise and reactance by hand and against scipy."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.reactance import prior_and_margin
from mechmask.measure.surprise import onset_surprise, surprise_and_margin, surprise_by_magnitude

N = 24
MAGNITUDES = ["mild", "format", "strong", ""] * (N // 4)
ROLES = ["contradicted"] * 20 + ["control"] * 4


def reading(seed, draws=False):
    rng = np.random.default_rng(seed)
    coords = {"fact": [f"f{i}" for i in range(N)], "route": ["old", "new"], "role": ("fact", ROLES)}
    coords |= {"magnitude": ("fact", MAGNITUDES)} | ({"seed": ("fact", np.arange(N) % 5)} if draws else {})
    parts = {"logprob": (("fact", "route"), rng.normal(-5, 2, (N, 2)))}
    parts["recalled"] = (("fact", "route"), rng.random((N, 2)) < 0.5)
    return xr.Dataset(parts, coords, {"score": "sequence"})


def test_surprise_is_how_unlikely_new_was():
    before = reading(0)
    surprise = onset_surprise(before)
    np.testing.assert_array_equal(surprise, -before.logprob.sel(route="new").values[:20])
    phrased = xr.concat([before, reading(1)], xr.DataArray([0, 1], dims="phrasing", name="phrasing"), data_vars="all")
    np.testing.assert_array_equal(onset_surprise(phrased), surprise)


def test_means_by_magnitude():
    surprise = onset_surprise(reading(0))
    means = surprise_by_magnitude(surprise)
    assert means.magnitude.values.tolist() == ["mild", "strong", "format"] and (means.n == 5).all()
    of_mild = surprise.values[0::4]
    expected = stats.t.interval(0.95, 4, of_mild.mean(), stats.sem(of_mild))
    np.testing.assert_allclose([means.low[0], means.high[0]], expected)
    with pytest.raises(ReadingError, match="has a magnitude"):
        surprise_by_magnitude(surprise.assign_coords(magnitude=("fact", [""] * 20)))


def test_it_goes_along_with_the_final_margin():
    before, after = reading(0), reading(1)
    found = surprise_and_margin(before, after)
    x = -before.logprob.sel(route="new").values[:20]
    y = (after.logprob.sel(route="new") - after.logprob.sel(route="old")).values[:20]
    np.testing.assert_allclose(found.estimate.sel(correlation="pearson"), stats.pearsonr(x, y).statistic)
    np.testing.assert_allclose(found.estimate.sel(correlation="spearman"), stats.spearmanr(x, y).statistic)
    np.testing.assert_allclose(found.margin, y)
    assert found.n_clusters[0] == 20


def test_draws_are_clusters_and_have_correlations_of_their_own():
    found = surprise_and_margin(reading(0, draws=True), reading(1, draws=True))
    assert found.n_clusters.values.tolist() == [5, 5] and found.draw_n.values.tolist() == [[4, 4]] * 5
    of_draw = np.arange(20) % 5 == 3
    expected = stats.pearsonr(found.surprise.values[of_draw], found.margin.values[of_draw]).statistic
    np.testing.assert_allclose(found.draw_estimate.sel(draw=3, correlation="pearson"), expected)


def test_readings_that_do_not_fit_are_refused():
    with pytest.raises(ReadingError, match="differ in score"):
        surprise_and_margin(reading(0), reading(1).assign_attrs(score="mean"))
    with pytest.raises(ReadingError, match="there is none"):
        onset_surprise(reading(0).isel(fact=slice(20, None)))
    with pytest.raises(ReadingError, match="route new"):
        onset_surprise(reading(0).sel(route=["old"]))


def test_reactance_by_condition():
    before, after = ({"weak": reading(i), "strong": reading(i + 1)} for i in (0, 2))
    found = prior_and_margin(before, after)
    for name in ("weak", "strong"):
        prior = before[name].logprob.sel(route="old").values[:20]
        final = (after[name].logprob.sel(route="new") - after[name].logprob.sel(route="old")).values[:20]
        one = found.sel(condition=name)
        np.testing.assert_allclose(one.estimate.sel(correlation="pearson"), stats.pearsonr(prior, final).statistic)
        np.testing.assert_allclose([one.prior_spread, one.mean_margin], [prior.std(ddof=1), final.mean()])
        assert one.recalled == before[name].recalled.sel(route="old").values[:20].mean()
    with pytest.raises(ReadingError, match="same conditions"):
        prior_and_margin(before, {"weak": reading(2)})
    with pytest.raises(ReadingError, match="not of the same facts"):
        prior_and_margin({"weak": reading(0)}, {"weak": reading(2).isel(fact=slice(0, 9))})
