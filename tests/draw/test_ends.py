import numpy as np
import pytest
from matplotlib.image import imread
from scipy.optimize import minimize

from mechmask import draw
from mechmask.draw.ends import spread


@pytest.mark.parametrize("wanted", [[0, 0, 0], [0, 10, 20], [5, 4.5, 0, 4.8], [1, 1.2, 1.1, 8, 8.1], [3], []])
def test_names_are_moved_apart_by_as_little_as_possible(wanted):
    wanted = np.array(wanted, dtype=float)
    heights = spread(wanted, 1.0)
    order = np.argsort(wanted, kind="stable")
    assert (np.diff(heights[order]) >= 1 - 1e-9).all()
    if len(wanted) > 1:
        apart = {"type": "ineq", "fun": lambda y: np.diff(y[order]) - 1}
        best = minimize(lambda y: ((y - wanted) ** 2).sum(), wanted, constraints=[apart], method="SLSQP")
        np.testing.assert_allclose(heights, best.x, atol=1e-3)
    else:
        np.testing.assert_array_equal(heights, wanted)


def names(figure):
    return {text.get_text() for axes in figure.axes for text in axes.texts if str(text.get_gid()).startswith("end of")}


def test_lines_are_named_where_there_is_room_and_else_in_the_legend(trajectory_reading, words):
    figure = draw.trajectory(trajectory_reading)
    assert {"old", "new", "distractors", "contradicted"} <= names(figure) and "old (n = 10)" not in words(figure)
    figure.set_size_inches(3, 4)
    figure.draw_without_rendering()
    assert "distractors" not in names(figure) and "mean of distractors" in words(figure).replace("\n", " ")
    figure.set_size_inches(7, 4)
    figure.draw_without_rendering()
    assert "distractors" in names(figure) and "mean of distractors" not in words(figure)


def test_a_name_stands_at_the_height_where_its_line_ends(depth_reading):
    figure = draw.depth(depth_reading.isel(state=1))
    figure.draw_without_rendering()
    axes = figure.axes[0]
    for text in axes.texts:
        if str(text.get_gid()).startswith("end of"):
            label = "mean of distractors" if text.get_text() == "distractors" else text.get_text()
            line = next(line for line in axes.lines if line.get_label() == label)
            end = axes.transData.transform((0, line.get_ydata()[-1]))[1]
            box = text.get_window_extent()
            assert abs((box.y0 + box.y1) / 2 - end) < 2 * box.height and box.x0 >= axes.bbox.x1


def test_a_legend_that_the_user_took_away_stays_away(trajectory_reading):
    figure = draw.trajectory(trajectory_reading)
    figure.legends[0].remove()
    figure.set_size_inches(4, 4)
    figure.draw_without_rendering()
    assert not figure.legends


@pytest.mark.parametrize("dpi", [70, 300])
def test_a_saved_figure_has_room_for_its_names(trajectory_reading, dpi, tmp_path):
    figure = draw.trajectory(trajectory_reading)
    assert len(names(figure)) == 8
    figure.savefig(tmp_path / "figure.png", dpi=dpi)
    ink = imread(tmp_path / "figure.png")[..., :3].min(2) < 0.95
    assert not ink[:, -2:].any() and not ink[:, :2].any()
    axes = figure.axes[1].get_position()
    beside = ink[:, int(axes.x1 * ink.shape[1]) + 2 :]
    assert beside.any(0).sum() > 0.4 * dpi  # the names: "contradicted" alone is half an inch
