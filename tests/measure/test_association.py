"""Both correlations against scipy's, with what cannot be correlated left out or refused."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.association import association, centred, pooled_association
from mechmask.measure.correlation import pearson

RNG = np.random.default_rng(0)
FACTS = [f"f{i}" for i in range(12)]
X = xr.DataArray(RNG.normal(size=12), {"fact": FACTS, "seed": ("fact", np.repeat([0, 1, 2, 3], 3))}, "fact")
Y = xr.DataArray(X.values + RNG.normal(size=12), {"fact": FACTS}, "fact")


def test_it_is_scipys():
    found = association(X, Y)
    for name, of in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr)):
        one = found.sel(correlation=name)
        np.testing.assert_allclose(one.estimate, of(X, Y).statistic)
        assert one.low < one.estimate < one.high and one.n == 12 and one.n_clusters == 12


def test_facts_are_paired_by_label_and_those_without_a_number_left_out():
    turned = Y.isel(fact=slice(None, None, -1)).where(Y.fact != "f3")
    found = association(X, turned).sel(correlation="pearson")
    kept = np.arange(12) != 3
    np.testing.assert_allclose(found.estimate, stats.pearsonr(X[kept], Y[kept]).statistic)
    assert found.n == 11


def test_facts_of_one_draw_are_a_cluster():
    assert association(X, Y, cluster="seed").n_clusters.values.tolist() == [4, 4]
    with pytest.raises(ReadingError, match="no coordinate 'draw'"):
        association(X, Y, cluster="draw")


def test_what_is_not_over_the_same_facts_is_refused():
    with pytest.raises(ReadingError, match="of different facts"):
        association(X, Y.assign_coords(fact=[f"g{i}" for i in range(12)]))
    with pytest.raises(ReadingError, match="is over facts"):
        association(X.mean("fact"), Y)
    with pytest.raises(ReadingError, match="state, step beside"):
        association(X.expand_dims(state=[0], step=[0]), Y)


def test_a_further_dimension_stays():
    both = xr.concat([X, -X], xr.DataArray(["a", "b"], dims="state", name="state"))
    for found in (association(both, Y), association(Y, both)):
        assert found.estimate.dims == ("state", "correlation")
        np.testing.assert_allclose(found.estimate.sel(state="b"), -association(X, Y).estimate)


def test_draws_are_pooled_with_the_draw_as_cluster():
    draws = {str(i): xr.Dataset({"x": X + i, "y": Y * (i + 1)}) for i in range(5)}
    found = pooled_association(draws, "x", "y")
    every = [np.concatenate([draw[name].values for draw in draws.values()]) for name in ("x", "y")]
    dummies = np.kron(np.eye(5), np.ones((12, 1)))  # partial correlation given the draw, by least squares
    rest = [values - dummies @ np.linalg.lstsq(dummies, values, rcond=None)[0] for values in every]
    np.testing.assert_allclose(found.estimate.sel(correlation="pearson"), stats.pearsonr(*rest).statistic)
    np.testing.assert_allclose(found.estimate.sel(correlation="spearman"), stats.spearmanr(*rest).statistic, atol=0.02)
    assert found.n_clusters.values.tolist() == [5, 5] and found.n.values.tolist() == [60, 60]
    alone = association(draws["3"].x, draws["3"].y)
    for name in ("estimate", "low", "high", "p_value", "n"):
        np.testing.assert_allclose(found[f"draw_{name}"].sel(draw="3"), alone[name])
    assert len(set(found.fact.values)) == 60 and found.seed.sel(fact="3/f1") == "3"


def test_what_draws_have_in_common_is_no_association_of_facts():
    """Within each draw the two go against each other; draws that are higher in one are higher in both (Simpson)."""
    rng = np.random.default_rng(3)
    draws = {}
    for i, shift in enumerate(rng.normal(0, 8, 12)):
        x = rng.normal(size=8)
        parts = {"x": ("fact", x + shift), "y": ("fact", -x + shift + 0.2 * rng.normal(size=8))}
        draws[str(i)] = xr.Dataset(parts, {"fact": [f"f{j}" for j in range(8)]})
    every = [np.concatenate([draw[name].values for draw in draws.values()]) for name in ("x", "y")]
    assert stats.pearsonr(*every).statistic > 0.9
    found = pooled_association(draws, "x", "y")
    assert (found.high < -0.8).all() and (found.draw_estimate < -0.5).all()


@pytest.mark.parametrize("rho", [0.0, 0.8])
def test_coverage_within_draws(rho):
    """Five draws of six facts, whose draws go the other way; 300 samples, three standard errors of 0.013."""
    rng, seed, hits = np.random.default_rng(7), np.repeat(np.arange(5), 6), 0
    for _ in range(300):
        x, shift = rng.normal(size=30), rng.normal(0, 3, 5)[seed]
        y = rho * x + np.sqrt(1 - rho**2) * rng.normal(size=30)
        found = pearson(centred(x + shift, seed), centred(y - 2 * shift, seed), cluster=seed, n_resamples=499)
        hits += found.low <= rho <= found.high
    assert hits / 300 >= 0.95 - 3 * 0.0126


def test_facts_are_the_unit_of_a_single_draw():
    table = xr.Dataset({"x": X, "y": Y})
    alone, pooled = association(X, Y), pooled_association({"0": table}, "x", "y")
    for name in ("estimate", "low", "high", "p_value", "n"):
        np.testing.assert_allclose(pooled[name], alone[name])


def test_what_cannot_be_pooled_is_refused():
    with pytest.raises(ReadingError, match="no draw to pool"):
        pooled_association({}, "x", "y")
    table = xr.Dataset({"x": X, "y": Y})
    with pytest.raises(ReadingError, match="needs y"):
        pooled_association({"0": table.drop_vars("y")}, "x", "y")
    with pytest.raises(ReadingError, match="has state beside"):
        pooled_association({"0": table.expand_dims(state=["a"])}, "x", "y")
