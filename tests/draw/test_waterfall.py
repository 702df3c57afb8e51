import numpy as np
import pytest
from matplotlib.colors import to_hex
from scipy import stats

from mechmask import draw
from mechmask.draw.style import BLUE, VERMILION
from mechmask.errors import ReadingError


def bars(figure):
    """``name: (start, width)`` from above to below."""
    axes = figure.axes[0]
    names = [label.get_text() for label in axes.get_yticklabels()]
    patches = sorted(axes.patches, key=lambda patch: patch.get_y())
    return {name: (patch.get_x(), patch.get_width()) for name, patch in zip(names, patches, strict=True)}


def test_bars_are_means_that_add_up_from_embedding_to_bias(attribution):
    drawn = bars(draw.waterfall(attribution, top=26))
    means = dict(zip(attribution.component.values, attribution.attribution.values.mean(0), strict=True))
    order = ["embedding", *(name for name in means if name[0] in "am"), "bias"]
    assert list(drawn) == [*order, "margin"]
    np.testing.assert_allclose([drawn[name][1] for name in order], [means[name] for name in order])
    ends = np.cumsum([means[name] for name in order])
    np.testing.assert_allclose([drawn[name][0] for name in order[1:]], ends[:-1], atol=1e-12)
    assert drawn["embedding"][0] == drawn["margin"][0] == 0
    np.testing.assert_allclose([ends[-1], drawn["margin"][1]], attribution.margin.values.mean())


@pytest.mark.parametrize("top", [1, 5, 24])
def test_the_largest_are_drawn_and_the_others_share_a_bar(attribution, top):
    drawn = bars(draw.waterfall(attribution, top=top))
    means = dict(zip(attribution.component.values, attribution.attribution.values.mean(0), strict=True))
    largest = sorted(means, key=lambda name: -abs(means[name]))[:top]
    assert set(drawn) == {*largest, f"{26 - top} others", "margin"}
    np.testing.assert_allclose(sum(width for name, (_, width) in drawn.items() if name != "margin"), drawn["margin"][1])
    rest = sum(means[name] for name in means if name not in largest)
    np.testing.assert_allclose(drawn[f"{26 - top} others"][1], rest)


def test_no_bar_is_shared_by_one(attribution):
    assert len(bars(draw.waterfall(attribution, top=25))) == 27


def test_whiskers_are_t_intervals_at_the_end_of_a_bar(attribution):
    figure = draw.waterfall(attribution, top=26, level=0.9)
    drawn = bars(figure)
    whiskers = {line.get_ydata()[0]: line.get_xdata() for line in figure.axes[0].lines if line.get_marker() == "|"}
    for row, (name, (start, _)) in enumerate(drawn.items()):
        values = (attribution.margin if name == "margin" else attribution.attribution.sel(component=name)).values
        expected = stats.t.interval(0.9, len(values) - 1, values.mean(), stats.sem(values))
        np.testing.assert_allclose(whiskers[row], start + np.array(expected))
    assert "n = 12" in figure.legends[0].get_title().get_text() and "90%" in figure.legends[0].get_title().get_text()


def test_the_sign_has_a_colour_and_a_hatch(attribution):
    for patch in draw.waterfall(attribution, top=26).axes[0].patches[:-1]:
        assert to_hex(patch.get_facecolor()) == (VERMILION if patch.get_width() >= 0 else BLUE).lower()
        assert bool(patch.get_hatch()) == (patch.get_width() < 0)


def test_a_fact_that_is_not_finite_is_left_out_whole(attribution):
    broken = attribution.copy(deep=True)
    broken["attribution"][2, 4] = np.nan
    figure = draw.waterfall(broken, top=26)
    kept = np.delete(attribution.margin.values, 2)
    assert np.isclose(bars(figure)["margin"][1], kept.mean())
    assert "1 fact with a value that is not finite left out" in figure.legends[0].get_title().get_text()


def test_a_reading_may_be_off_by_its_own_measured_error(attribution):
    rough = attribution.assign(margin=attribution.margin + 0.2)
    with pytest.raises(ReadingError, match=r"miss its margin by 0\.2 nats"):
        draw.waterfall(rough)
    draw.waterfall(rough.assign_attrs(check_error_nats=0.25))


def test_the_legend_is_clear_of_every_panel(attribution, legend_is_clear):
    for top in (3, 26):
        assert legend_is_clear(draw.waterfall(attribution, top=top))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: data.drop_vars("margin"), "needs margin"),
        (lambda data: data.drop_vars("kind"), "needs kind"),
        (lambda data: data.isel(component=slice(1, None)), "miss its margin by .* with embedding and bias"),
        (lambda data: data.expand_dims(state=["a"]), "Select one state"),
        (lambda data: data * np.nan, "all finite"),
        (lambda data: data.isel(fact=slice(0, 0)), "no fact"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(attribution, spoil, said):
    with pytest.raises(ReadingError, match=said):
        draw.waterfall(spoil(attribution))


def test_no_component_at_all_is_refused(attribution):
    with pytest.raises(ReadingError, match="top=0"):
        draw.waterfall(attribution, top=0)
