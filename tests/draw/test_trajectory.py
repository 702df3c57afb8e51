import re

import numpy as np
import pytest
from matplotlib.collections import PolyCollection
from scipy import stats

from mechmask import draw
from mechmask.errors import ReadingError


def labelled(axes):
    return {
        re.sub(r" \(n = .*", "", line.get_label()): line for line in axes.lines if not line.get_label().startswith("_")
    }


def edges(axes, line):
    """Lower and upper edge of the band in a line's colour, at every x."""
    band = next(
        c
        for c in axes.collections
        if isinstance(c, PolyCollection) and np.allclose(c.get_facecolor()[0, :3], rgb(line))
    )
    return extent(band, line.get_xdata())


def extent(band, at):
    points = np.concatenate([path.vertices for path in band.get_paths()])
    return np.array([(points[points[:, 0] == x, 1].min(), points[points[:, 0] == x, 1].max()) for x in at]).T


def rgb(line):
    from matplotlib.colors import to_rgb

    return to_rgb(line.get_color())


def test_lines_are_the_means_of_their_role(trajectory_reading):
    left, right = draw.trajectory(trajectory_reading).axes
    logprob, role = trajectory_reading.logprob.values, trajectory_reading.role.values
    contest, standing = labelled(left), labelled(right)
    contradicted, control, never = (np.flatnonzero(role == name) for name in ("contradicted", "control", "never"))
    minus = "\N{MINUS SIGN}"
    expected = {
        "old": logprob[:, contradicted, 0].mean(1),
        "new": logprob[:, contradicted, 1].mean(1),
        "mean of distractors": logprob[:, contradicted, 2:].mean((1, 2)),
        f"ceiling log(1 {minus} p(new))": np.log(1 - np.exp(logprob[:, contradicted, 1])).mean(1),
        "old of controls": logprob[:, control, 0].mean(1),
    }
    for label, values in expected.items():
        np.testing.assert_allclose(contest[label].get_ydata(), values, rtol=1e-6, atol=1e-8)
        np.testing.assert_array_equal(contest[label].get_xdata(), trajectory_reading.step)
    s = logprob[:, :, 0] - np.log(np.exp(logprob[:, :, 2:]).mean(2))
    for label, facts in (("contradicted", contradicted), ("control", control), ("never known", never)):
        np.testing.assert_allclose(standing[label].get_ydata(), s[:, facts].mean(1))


def test_bands_are_t_intervals_and_the_grey_region_a_prediction_interval(trajectory_reading):
    left, right = draw.trajectory(trajectory_reading, level=0.9).axes
    old = trajectory_reading.logprob.values[:, trajectory_reading.role.values == "contradicted", 0]
    line = labelled(left)["old"]
    low, high = stats.t.interval(0.9, old.shape[1] - 1, old.mean(1), stats.sem(old, axis=1))
    np.testing.assert_allclose(edges(left, line), [low, high])
    never = trajectory_reading.standing.values[:, trajectory_reading.role.values == "never"]
    n = never.shape[1]
    half = stats.t.ppf(0.95, n - 1) * never.std(1, ddof=1) * np.sqrt(1 + 1 / n)
    region = next(c for c in right.collections if c.get_label().startswith("one never-known fact (90%"))
    np.testing.assert_allclose(extent(region, line.get_xdata()), [never.mean(1) - half, never.mean(1) + half])


def test_the_legend_says_n_and_the_onset_is_marked(trajectory_reading, words):
    figure = draw.trajectory(trajectory_reading)
    said = words(figure)
    assert "n = 10: old, new, distractors, ceiling, contradicted; n = 7: controls, control; n = 9: never known" in said
    assert "95% t interval" in said and "contradiction begins (step 50)" in said
    for axes in figure.axes:
        onset = labelled(axes)["contradiction begins (step 50)"]
        assert list(onset.get_xdata()) == [50, 50]
        assert axes.get_xlabel() == "optimizer step" and "(nats)" in axes.get_ylabel()


def test_infinite_and_missing_values_are_left_out_and_said(trajectory_reading, tmp_path, words):
    reading = trajectory_reading.copy(deep=True)
    reading["ceiling"][-1, :3] = -np.inf
    reading["ceiling"][-2, :] = -np.inf
    reading["logprob"][4, 0, 0] = np.nan
    reading["logprob"][:, 1, 5:] = np.nan
    reading["standing"][:, 12] = np.nan
    figure = draw.trajectory(reading)
    lines = labelled(figure.axes[0])
    ceiling = lines["ceiling log(1 \N{MINUS SIGN} p(new))"]
    assert np.isclose(ceiling.get_ydata()[-1], reading.ceiling[-1, 3:10].mean())
    assert np.isnan(ceiling.get_ydata()[-2])
    assert np.isclose(lines["old"].get_ydata()[4], reading.logprob[4, 1:10, 0].mean())
    said = words(figure)
    assert "n = 9 to 10: old" in said and "n = 0 to 10: ceiling" in said and "n = 6: control" in said
    assert "13 infinite values left out" in said
    draw.save_figure(figure, tmp_path / "figure.png")


def test_what_a_reading_may_lack_is_not_drawn(trajectory_reading, tmp_path):
    reading = trajectory_reading.drop_vars("ceiling").isel(fact=slice(0, 10), step=[5])
    del reading.attrs["onset_step"]
    figure = draw.trajectory(reading)
    assert set(labelled(figure.axes[0])) == {"old", "new", "mean of distractors"}
    assert set(labelled(figure.axes[1])) == {"contradicted"}
    bars = [segment for c in figure.axes[1].collections if hasattr(c, "get_segments") for segment in c.get_segments()]
    assert len(bars) == 1 and bars[0][1, 1] > bars[0][0, 1]
    draw.save_figure(figure, tmp_path / "figure.pdf")


def test_steps_are_drawn_in_order(trajectory_reading):
    line = labelled(draw.trajectory(trajectory_reading.isel(step=slice(None, None, -1))).axes[0])["old"]
    assert (np.diff(line.get_xdata()) > 0).all()


def test_the_legend_is_clear_of_every_panel(trajectory_reading, legend_is_clear):
    assert legend_is_clear(draw.trajectory(trajectory_reading))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda reading: reading.logprob, "takes a reading"),
        (lambda reading: reading.drop_vars("standing"), "needs standing"),
        (lambda reading: reading.drop_vars("role"), "needs role"),
        (lambda reading: reading.isel(step=0), "Keep the dimension step"),
        (lambda reading: reading.isel(step=slice(0, 0)), "no step"),
        (lambda reading: reading.expand_dims(seed=[0]), "Select one"),
        (lambda reading: reading.drop_sel(route="old"), "needs the route old"),
        (lambda reading: reading.isel(fact=slice(10, None)), "at least one contradicted"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(trajectory_reading, spoil, said):
    with pytest.raises(ReadingError, match=said):
        draw.trajectory(spoil(trajectory_reading))


@pytest.mark.parametrize("level", [0, 1, 95, float("nan")])
def test_a_level_is_between_zero_and_one(trajectory_reading, level):
    with pytest.raises(ReadingError, match="confidence level"):
        draw.trajectory(trajectory_reading, level=level)
