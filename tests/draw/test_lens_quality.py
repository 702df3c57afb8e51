import numpy as np
import pytest
import xarray as xr
from matplotlib.collections import PolyCollection

from mechmask import draw
from mechmask.errors import ReadingError


def lines(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def test_lines_are_the_divergences_on_a_logarithmic_axis(lens_report):
    figure = draw.lens_quality(lens_report.isel(layer=slice(None, None, -1)))
    axes = figure.axes[0]
    assert axes.get_yscale() == "log" and "(nats)" in axes.get_ylabel()
    for name, kl in zip(("logit", "tuned"), lens_report.kl.values, strict=True):
        np.testing.assert_array_equal(lines(axes)[name].get_xdata(), lens_report.layer)
        np.testing.assert_array_equal(lines(axes)[name].get_ydata()[:-1], kl[:-1])
        assert np.isnan(lines(axes)[name].get_ydata()[-1])
    assert "2 values under 0.0001 nats not drawn" in figure.legends[0].get_title().get_text()
    low, high = axes.get_ylim()
    drawn = lens_report.kl.values[:, :-1]
    assert low < drawn.min() and drawn.max() < high < 2 * drawn.max()


def test_intervals_tokens_and_missing_values_are_said(lens_report):
    report = lens_report.assign(kl_low=lens_report.kl * 0.8, kl_high=lens_report.kl * 1.2)
    report["kl"][0, 3] = np.nan
    report["kl"][1, 4] = np.inf
    report.attrs = {"n_tokens": 16384, "level": 0.9, "n_sequences": 40}
    figure = draw.lens_quality(report)
    said = figure.legends[0].get_title().get_text()
    assert "n = 16,384 tokens" in said and "90% interval over 40 sequences" in said and "2 values not finite" in said
    bands = [c for c in figure.axes[0].collections if isinstance(c, PolyCollection)]
    points = np.concatenate([path.vertices for path in bands[0].get_paths()])
    at_five = points[points[:, 0] == 5, 1]
    np.testing.assert_allclose([at_five.min(), at_five.max()], lens_report.kl.values[0, 5] * np.array([0.8, 1.2]))


def test_the_legend_is_clear_of_every_panel(lens_report, legend_is_clear):
    names = [f"a lens of name {i}" for i in range(7)]
    seven = xr.concat([lens_report.isel(lens=0, drop=True) * (i + 1) for i in range(7)], "lens")
    for report in (lens_report, seven.assign_coords(lens=names)):
        assert legend_is_clear(draw.lens_quality(report))


def test_one_value_has_an_axis(lens_report, tmp_path):
    draw.save_figure(draw.lens_quality(lens_report.isel(lens=[0], layer=[4])), tmp_path / "figure.png")
    draw.save_figure(draw.lens_quality(lens_report.isel(layer=[12])), tmp_path / "figure.png")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda report: report.kl, "takes a reading"),
        (lambda report: report.rename(kl="divergence"), "needs kl"),
        (lambda report: report.isel(lens=0), "Keep the dimension lens"),
        (lambda report: report - 1, "negative KL"),
        (lambda report: report.isel(lens=[0] * 8), "tells 7 lenses apart, this report has 8"),
        (lambda report: report.isel(layer=slice(0, 0)), "no layer"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(lens_report, spoil, said):
    with pytest.raises(ReadingError, match=said):
        draw.lens_quality(spoil(lens_report))
