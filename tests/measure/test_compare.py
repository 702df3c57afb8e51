"""Readings of models of different height on one depth axis."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.compare import compare
from mechmask.measure.contest import margin


def reading(n_layers, n_facts=5, seed=0, **attrs):
    rng = np.random.default_rng(seed)
    logprob = xr.DataArray(
        rng.normal(-5, 1, size=(n_facts, 3, n_layers + 1)),
        {
            "fact": [f"f{i}" for i in range(n_facts)],
            "role": ("fact", ["contradicted"] * (n_facts - 1) + ["control"]),
            "route": ["old", "new", "distractor_0"],
            "layer": np.arange(n_layers + 1),
        },
        ("fact", "route", "layer"),
    )
    return xr.Dataset({"logprob": logprob, "margin": margin(logprob)}, attrs={"lens": "logit", **attrs})


def test_at_its_own_layers_a_model_is_what_it_was():
    readings = {"low": reading(4, seed=1), "high": reading(10, seed=2)}
    compared = compare(readings, n_depths=21)
    for name, n_layers in (("low", 4), ("high", 10)):
        own = readings[name].margin.isel(fact=slice(0, 4)).values
        for layer in range(n_layers + 1):
            at = compared.sel(model=name).sel(depth=layer / n_layers, method="nearest")
            assert at.depth == pytest.approx(layer / n_layers)
            low, high = stats.t.interval(0.95, 3, own[:, layer].mean(), stats.sem(own[:, layer]))
            assert [at.margin, at.margin_low, at.margin_high] == pytest.approx([own[:, layer].mean(), low, high])
    assert compared.n_layers.values.tolist() == [4, 10]
    assert compared.n_facts.values.tolist() == [4, 4]


def test_between_layers_values_lie_on_the_line():
    compared = compare({"m": reading(2)}, n_depths=9)
    values = compared.margin.sel(model="m").values
    np.testing.assert_allclose(values[2], (values[0] + values[4]) / 2)
    np.testing.assert_allclose(values[5], 0.75 * values[4] + 0.25 * values[8])


def test_between_layers_values_are_numpy_s_linear_interpolation():
    read, grid = reading(7, n_facts=6), np.linspace(0, 1, 50)
    read.logprob[0, 0, 3] = np.nan
    compared = compare({"m": read}, n_depths=50)
    share = np.arange(8) / 7
    margins = [np.interp(grid, share, row) for row in read.margin.values[:5]]
    np.testing.assert_allclose(compared.margin[0], np.mean(margins, 0), rtol=0, atol=1e-12)
    for i, route in enumerate(("old", "new")):
        mean = np.nanmean(read.logprob.values[:5, i], axis=0)
        np.testing.assert_allclose(
            compared.logprob.sel(route=route)[0], np.interp(grid, share, mean), rtol=0, atol=1e-12
        )


def test_commit_depth_is_a_share_of_the_height():
    read = reading(8)
    read["logprob"][:, 1] = -9.0
    read["logprob"][0, 1, 6:] = 0.0
    read["logprob"][1, 1, 4:] = 0.0
    compared = compare({"m": read.assign(margin=margin(read.logprob))})
    assert compared.commit_depth.item() == pytest.approx((6 / 8 + 4 / 8) / 2)
    assert compared.n_committed.item() == 2


@pytest.mark.parametrize(
    ("readings", "said"),
    [
        ({}, "at least one reading"),
        ({"a": reading(3), "b": reading(3, lens="tuned")}, r"a and b differ in lens \(logit and tuned\)"),
        ({"a": reading(3, score="mean"), "b": reading(4, score="divergence")}, "differ in score"),
        ({"a": reading(3).isel(layer=[0, 1, 3])}, "needs every layer from 0 to L"),
        ({"a": reading(3).drop_vars("margin")}, "needs margin"),
        ({"a": reading(3).expand_dims(state=["before"])}, "Select one"),
    ],
)
def test_bad_input_is_refused(readings, said):
    with pytest.raises(ReadingError, match=said):
        compare(readings)


def test_an_axis_needs_two_points():
    with pytest.raises(ReadingError, match="n_depths"):
        compare({"a": reading(3)}, n_depths=1)
