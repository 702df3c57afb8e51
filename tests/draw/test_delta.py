import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from scipy import stats

from mechmask import draw
from mechmask.errors import ReadingError
from mechmask.measure.multiplicity import max_t

LABELS = ["margin before", "margin after", "difference after \N{MINUS SIGN} before"]


def labelled(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def naive_commits(logprob):
    found = []
    for fact in logprob:
        leads = [fact[1, layer] > np.delete(fact[:, layer], 1).max() for layer in range(fact.shape[1])]
        start = next((k for k in range(len(leads)) if all(leads[k:])), None)
        found += [] if start is None else [start]
    return sorted(found)


def test_lines_are_the_margins_and_their_paired_difference(depth_reading):
    figure = draw.delta(depth_reading)
    grid = np.array(figure.axes[:4]).reshape(2, 2)
    margins = depth_reading.margin.values[:, depth_reading.role.values == "contradicted"]
    for column in range(2):
        upper, lower = labelled(grid[0, column]), labelled(grid[1, column])
        np.testing.assert_allclose(upper[LABELS[0]].get_ydata(), margins[0].mean(0))
        np.testing.assert_allclose(upper[LABELS[1]].get_ydata(), margins[1 + column].mean(0))
        np.testing.assert_allclose(lower[LABELS[2]].get_ydata(), (margins[1 + column] - margins[0]).mean(0))
    assert [axes.get_title() for axes in grid[0]] == ["fine-tuning", "FT-L"]


def test_the_band_of_the_difference_is_over_paired_differences(depth_reading):
    axes = draw.delta(depth_reading, level=0.9).axes[2]
    margins = depth_reading.margin.values[:, depth_reading.role.values == "contradicted"]
    d = margins[1] - margins[0]
    band = next(c for c in axes.collections if isinstance(c, PolyCollection)).get_paths()[0].vertices
    low, high = stats.t.interval(0.9, len(d) - 1, d.mean(0), stats.sem(d))
    at = depth_reading.layer.values
    np.testing.assert_allclose([band[band[:, 0] == x, 1].min() for x in at], low)
    np.testing.assert_allclose([band[band[:, 0] == x, 1].max() for x in at], high)


def test_with_several_draws_of_facts_the_interval_is_over_draws(depth_reading):
    reading = depth_reading.isel(state=[0, 1], fact=slice(10))
    draws = np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, 2])
    figure = draw.delta(reading.assign_coords(seed=("fact", draws)))
    d = reading.margin.values[1] - reading.margin.values[0]
    means = np.stack([d[draws == i].mean(0) for i in range(3)])
    lower = figure.axes[1]
    np.testing.assert_allclose(labelled(lower)[LABELS[2]].get_ydata(), means.mean(0))
    band = next(c for c in lower.collections if isinstance(c, PolyCollection)).get_paths()[0].vertices
    low, _ = stats.t.interval(0.95, 2, means.mean(0), stats.sem(means))
    np.testing.assert_allclose([band[band[:, 0] == x, 1].min() for x in reading.layer.values], low)
    assert "line: mean over n draws of facts" in figure.legends[0].get_title().get_text()
    assert f"{LABELS[2]} (n = 3)" in {text.get_text() for text in figure.legends[0].get_texts()}


def test_two_readings_meet_by_label(two_readings):
    before, after = two_readings
    shuffled = after.isel(fact=np.random.default_rng(0).permutation(after.sizes["fact"]))
    figure = draw.delta(before, shuffled.drop_sel(fact=before.fact.values[0]))
    expected = (after.margin - before.margin).values[1:10].mean(0)
    np.testing.assert_allclose(labelled(figure.axes[1])[LABELS[2]].get_ydata(), expected)
    said = figure.legends[0].get_title().get_text()
    assert "1 fact in one reading only left out" in said and "95% t interval" in said
    assert f"{LABELS[2]} (n = 9)" in {text.get_text() for text in figure.legends[0].get_texts()}


def test_commit_layers_before_and_after_stand_in_lanes_clear_of_the_data(depth_reading):
    figure = draw.delta(depth_reading.isel(state=[2, 1]))
    upper = figure.axes[0]
    logprob = depth_reading.logprob.values[:, depth_reading.role.values == "contradicted"]
    lines = labelled(upper)
    heights = []
    for when, state in (("before", 2), ("after", 1)):
        expected = naive_commits(logprob[state])
        rug = lines[f"commit layer of a fact, {when}"]
        assert rug.get_xdata().tolist() == expected and expected
        assert lines[f"median commit layer, {when}"].get_xdata() == [np.median(expected)] * 2
        heights.append(rug.get_ydata())
    assert max(heights[0]) < min(heights[1])
    low, high = upper.get_ylim()
    bands = [path.vertices[:, 1].min() for c in upper.collections for path in c.get_paths() if len(path.vertices)]
    assert low + max(heights[1]) * (high - low) < min(bands)
    n = [len(naive_commits(logprob[state])) for state in (2, 1)]
    assert figure.axes[1].get_title() == f"commit: {n[0]}, then {n[1]} of {logprob.shape[1]}"


def test_the_state_called_before_is_the_one_compared_with(depth_reading):
    there = draw.delta(depth_reading).axes[:2]
    moved = draw.delta(depth_reading.isel(state=[1, 0, 2])).axes[:2]
    for axes, other in zip(there, moved, strict=True):
        for label, line in labelled(axes).items():
            np.testing.assert_array_equal(line.get_ydata(), labelled(other)[label].get_ydata())


def test_the_legend_is_clear_of_every_panel(depth_reading, two_readings, legend_is_clear):
    assert legend_is_clear(draw.delta(*two_readings))
    assert legend_is_clear(draw.delta(depth_reading))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda before, after: (before, None), "needs two readings"),
        (lambda before, after: (None, after), "takes a reading"),
        (lambda before, after: (before.drop_vars("margin"), after), "needs margin"),
        (lambda before, after: (before, after.isel(layer=slice(0, 9))), "has 0 to 30, after has 0 to 8"),
        (lambda before, after: (before, after.assign_coords(fact=range(after.sizes["fact"]))), "no fact in both"),
        (lambda before, after: (before, after.assign_coords(fact=["a"] * after.sizes["fact"])), "have the same one"),
        (lambda before, after: (before.drop_sel(route="old"), after), "needs the route old"),
        (lambda before, after: (before.expand_dims(state=["a"]), after), "Select one state"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(two_readings, spoil, said):
    with pytest.raises(ReadingError, match=said):
        draw.delta(*spoil(*two_readings))


def test_a_simultaneous_band_is_that_of_the_largest_t(depth_reading):
    reading = depth_reading.isel(state=[0, 1], fact=np.flatnonzero(depth_reading.role == "contradicted"))
    d = reading.margin.isel(state=1, drop=True) - reading.margin.isel(state=0, drop=True)
    expected = max_t(d.reset_coords(drop=True), 0.9)
    figure = draw.delta(reading, level=0.9, simultaneous=True)
    band = next(c for c in figure.axes[1].collections if isinstance(c, PolyCollection)).get_paths()[0].vertices
    at = reading.layer.values
    np.testing.assert_allclose([band[band[:, 0] == x, 1].min() for x in at], expected.low)
    np.testing.assert_allclose([band[band[:, 0] == x, 1].max() for x in at], expected.high)
    assert "band of the difference: 90% for all layers at once" in figure.legends[0].get_title().get_text()
    pointwise = stats.t.interval(0.9, len(d) - 1, d.mean("fact"), stats.sem(d.transpose("fact", "layer")))
    assert (expected.low < pointwise[0]).all()


def test_too_few_facts_have_no_simultaneous_band(depth_reading):
    few = depth_reading.isel(fact=np.flatnonzero(depth_reading.role == "contradicted")[:4])
    with pytest.raises(ReadingError, match="4 facts are too few"):
        draw.delta(few, simultaneous=True)
