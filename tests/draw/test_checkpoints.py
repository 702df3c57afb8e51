import numpy as np
import pytest
from scipy import stats

from mechmask import draw
from mechmask.draw.checkpoints import onset_column
from mechmask.errors import ReadingError


def contradicted(reading):
    return reading.isel(fact=np.flatnonzero(reading.role.values == "contradicted"))


def test_cells_are_mean_margins_by_layer_and_step(checkpoint_reading):
    axes = draw.checkpoints(checkpoint_reading).axes[0]
    expected = contradicted(checkpoint_reading).margin.values.mean(1).T
    np.testing.assert_allclose(axes.images[0].get_array(), expected)
    assert axes.images[0].get_extent() == [-0.5, 5.5, -0.5, 30.5] and axes.images[0].origin == "lower"
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "1", "4", "16", "64", "256"]
    assert "step" in axes.get_xlabel() and axes.get_ylabel() == "layer"


def test_steps_are_drawn_in_order(checkpoint_reading):
    expected = draw.checkpoints(checkpoint_reading).axes[0].images[0].get_array()
    moved = draw.checkpoints(checkpoint_reading.isel(step=[3, 0, 5, 1, 4, 2]))
    np.testing.assert_array_equal(moved.axes[0].images[0].get_array(), expected)


def test_dots_stand_where_the_interval_holds_zero(checkpoint_reading):
    axes = draw.checkpoints(checkpoint_reading, level=0.99).axes[0]
    margins = contradicted(checkpoint_reading).margin.values
    low, high = stats.t.interval(0.99, margins.shape[1] - 1, margins.mean(1), stats.sem(margins, axis=1))
    expected = {tuple(place) for place in np.argwhere((low <= 0) & (high >= 0))}
    dots = [line for line in axes.lines if line.get_marker() == "."]
    assert {point for line in dots for point in zip(*line.get_data(), strict=True)} == expected
    assert 0 < len(expected) < margins.shape[0] * margins.shape[2]


def test_bars_stand_where_half_of_all_facts_have_committed(checkpoint_reading):
    axes = draw.checkpoints(checkpoint_reading).axes[0]
    logprob = contradicted(checkpoint_reading).logprob.transpose("step", "fact", "route", "layer").values
    leads = logprob[:, :, 1] > np.delete(logprob, 1, axis=2).max(2)
    expected = {}
    for step, facts in enumerate(leads):
        for layer in range(facts.shape[1]):
            if facts[:, layer:].all(1).mean() >= 0.5:
                expected[step] = layer - 0.5
                break
    drawn = {
        (float(segment[:, 0].mean()), float(segment[0, 1]))
        for c in axes.collections
        if hasattr(c, "get_segments")
        for segment in c.get_segments()
    }
    assert drawn == set(expected.items()) and 0 < len(expected) < 6


def test_the_onset_stands_between_its_checkpoints(checkpoint_reading):
    figure = draw.checkpoints(checkpoint_reading)
    onset = {line.get_xdata()[0] for line in figure.axes[0].lines if line.get_linestyle() == "--"}
    assert onset == {2.5}
    said = {text.get_text() for text in figure.legends[0].get_texts()}
    assert "contradiction begins (step 10)" in said
    assert "n = 10" in figure.legends[0].get_title().get_text()


@pytest.mark.parametrize(
    ("onset", "column"), [(-1, -0.5), (0, 0.5), (3, 1.5), (4, 2.5), (5, 2.5), (256, 5.5), (999, 5.5)]
)
def test_the_onset_is_never_within_a_column_where_it_would_cover_the_dots(checkpoint_reading, onset, column):
    assert onset_column(checkpoint_reading.step.values, onset) == column


def test_values_that_are_not_finite_are_left_out_and_said(checkpoint_reading):
    reading = checkpoint_reading.copy(deep=True)
    reading["margin"].loc[{"step": 4, "layer": 3}] = np.nan
    reading["margin"][2, 0, 5] = np.inf
    figure = draw.checkpoints(reading)
    shown = figure.axes[0].images[0].get_array()
    assert shown.mask.sum() == 1 and shown.mask[3, 2]
    axis = {"fact": slice(1, 10)}
    assert np.isclose(shown[5, 2], reading.margin.transpose("step", "fact", "layer").isel(axis)[2, :, 5].mean())
    assert "1 infinite value left out" in figure.legends[0].get_title().get_text()


def test_the_legend_is_clear_of_every_panel(checkpoint_reading, legend_is_clear):
    assert legend_is_clear(draw.checkpoints(checkpoint_reading))
    assert legend_is_clear(draw.checkpoints(checkpoint_reading.isel(step=[0, 5])))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda reading: reading.drop_vars("margin"), "needs margin"),
        (lambda reading: reading.isel(step=0), "Keep the dimension step"),
        (lambda reading: reading.isel(step=0, drop=True), "needs step"),
        (lambda reading: reading.isel(layer=[0, 2, 4]), "every layer"),
        (lambda reading: reading.expand_dims(seed=[0]), "Select one seed"),
        (lambda reading: reading.isel(step=slice(0, 0)), "no step"),
        (lambda reading: reading * np.nan, "no finite value"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(checkpoint_reading, spoil, said):
    with pytest.raises(ReadingError, match=said):
        draw.checkpoints(spoil(checkpoint_reading))
