import numpy as np
import pytest
import xarray as xr
from scipy import stats

from mechmask import draw
from mechmask.errors import ReadingError
from mechmask.measure.association import association


def entries(figure):
    return {line.get_label(): line for line in figure.axes[0].lines if not line.get_label().startswith("_")}


def test_every_fact_is_a_point_and_every_condition_has_its_line(reactance_table):
    figure = draw.association(reactance_table, "prior", "margin")
    points = [line for line in figure.axes[0].lines if line.get_label().startswith("_")]
    lines = entries(figure)
    for i, (name, cloud) in enumerate(zip(("weak", "strong"), points, strict=True)):
        x, y = (reactance_table[of].values[i] for of in ("prior", "margin"))
        there = np.isfinite(x) & np.isfinite(y)
        np.testing.assert_array_equal(cloud.get_xydata(), np.stack([x, y], 1)[there])
        (label,) = [label for label in lines if label.startswith(f"{name} (n = {there.sum()}): r = ")]
        assert f"r = {stats.pearsonr(x[there], y[there]).statistic:.2f} [" in label
        fit = stats.linregress(x[there], y[there])
        ends = lines[label].get_xydata()
        np.testing.assert_allclose(ends[:, 1], fit.intercept + fit.slope * ends[:, 0])


def test_axes_have_units_and_what_is_not_drawn_is_said(reactance_table, words):
    figure = draw.association(reactance_table, "prior", "margin")
    assert "(nats)" in figure.axes[0].get_xlabel() and "(nats)" in figure.axes[0].get_ylabel()
    assert "1 fact without a finite pair" in words(figure)
    named = reactance_table.assign(prior=reactance_table.prior.assign_attrs(long_name="strength (nats)"))
    assert draw.association(named, "prior", "margin").axes[0].get_xlabel() == "strength (nats)"


def test_one_condition_and_numbers_that_do_not_vary(reactance_table, words):
    one = reactance_table.isel(condition=0, drop=True)
    assert any(label.startswith("all facts (n = 12)") for label in entries(draw.association(one, "prior", "margin")))
    flat = one.assign(prior=xr.zeros_like(one.prior))
    assert "(no interval)" in words(draw.association(flat, "prior", "margin"))
    assert "too few" in words(draw.association(one.isel(fact=[0, 1]), "prior", "margin"))


def test_facts_of_several_draws_are_resampled_by_draw(reactance_table):
    one = reactance_table.isel(condition=1, drop=True)
    drawn = one.assign_coords(seed=("fact", np.arange(one.sizes["fact"]) // 3))
    expected = association(one.prior, one.margin.assign_coords(seed=drawn["seed"]), cluster=None)
    clustered = association(
        drawn.prior.reset_coords(drop=True).assign_coords(seed=drawn["seed"]),
        drawn.margin.reset_coords(drop=True),
        cluster="seed",
    ).sel(correlation="pearson")
    assert float(clustered.low) != pytest.approx(float(expected.sel(correlation="pearson").low))
    (label,) = [label for label in entries(draw.association(drawn, "prior", "margin")) if label.startswith("all facts")]
    assert f"[{float(clustered.low):.2f}, {float(clustered.high):.2f}]" in label


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda table: table.drop_vars("prior"), "needs prior"),
        (lambda table: table.expand_dims(seed=[0]), "Select one"),
        (lambda table: table.isel(fact=slice(0, 0)), "no fact"),
        (lambda table: xr.concat([table] * 4, "condition"), "Select some"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(reactance_table, spoil, said):
    with pytest.raises(ReadingError, match=said):
        draw.association(spoil(reactance_table), "prior", "margin")
