import numpy as np
import pytest

from mechmask import draw
from mechmask.errors import ReadingError


def labelled(axes):
    return {line.get_label(): line for line in axes.lines if not line.get_label().startswith("_")}


def naive_commits(logprob):
    """First layer from which new leads at every later one, fact by fact: ``logprob[fact, route, layer]``."""
    found = []
    for fact in logprob:
        leads = [fact[1, layer] > np.delete(fact[:, layer], 1).max() for layer in range(fact.shape[1])]
        start = next((k for k in range(len(leads)) if all(leads[k:])), None)
        found += [] if start is None else [start]
    return sorted(found)


def test_lines_are_means_over_contradicted_facts(depth_reading):
    figure = draw.depth(depth_reading)
    grid = np.array(figure.axes[:6]).reshape(2, 3)
    facts = np.flatnonzero(depth_reading.role.values == "contradicted")
    for column in range(3):
        logprob = depth_reading.logprob.values[column, facts]
        upper, lower = labelled(grid[0, column]), labelled(grid[1, column])
        np.testing.assert_allclose(upper["old"].get_ydata(), logprob[:, 0].mean(0))
        np.testing.assert_allclose(upper["new"].get_ydata(), logprob[:, 1].mean(0))
        np.testing.assert_allclose(upper["mean of distractors"].get_ydata(), logprob[:, 2:].mean((0, 1)))
        np.testing.assert_allclose(lower["margin"].get_ydata(), (logprob[:, 1] - logprob[:, 0]).mean(0))
    assert [axes.get_title() for axes in grid[0]] == ["before", "fine-tuning", "FT-L"]


def test_commit_layers_stand_where_a_naive_count_finds_them(depth_reading):
    grid = np.array(draw.depth(depth_reading).axes[:6]).reshape(2, 3)
    facts = np.flatnonzero(depth_reading.role.values == "contradicted")
    for column in range(3):
        expected = naive_commits(depth_reading.logprob.values[column, facts])
        lines = labelled(grid[1, column])
        assert grid[1, column].get_title().startswith(f"{len(expected)} of {len(facts)} commit")
        if not expected:
            assert "commit layer of a fact" not in lines
            continue
        rug = lines["commit layer of a fact"]
        assert rug.get_xdata().tolist() == expected
        assert len(set(zip(rug.get_xdata(), rug.get_ydata(), strict=True))) == len(expected)
        for axes in grid[:, column]:
            assert labelled(axes)["median commit layer"].get_xdata() == [np.median(expected)] * 2
        assert grid[1, column].get_title().endswith(f"median {np.median(expected):g}")


def test_data_keeps_clear_of_the_rug(depth_reading):
    figure = draw.depth(depth_reading)
    for axes in figure.axes[3:6]:
        low, high = axes.get_ylim()
        band = min(path.vertices[:, 1].min() for c in axes.collections for path in c.get_paths() if len(path.vertices))
        rug = max([0, *(y for label, line in labelled(axes).items() if "a fact" in label for y in line.get_ydata())])
        assert low + rug * (high - low) < band


def test_an_embedding_far_off_is_outside_the_frame_and_the_legend_says_how_far(depth_reading):
    inside = draw.depth(depth_reading)
    assert "leaves the frame" not in inside.legends[0].get_title().get_text()
    far = depth_reading.copy(deep=True)
    far["logprob"][..., 0] -= 150
    far["margin"][..., 0] += 80
    figure = draw.depth(far)
    said = figure.legends[0].get_title().get_text()
    assert (
        "log-probability at layer 0 leaves the frame: \N{MINUS SIGN}1" in said
        and "margin at layer 0 leaves the frame: " in said
    )
    for axes, known in zip(figure.axes[:6], inside.axes[:6], strict=True):
        low, high = axes.get_ylim()
        assert high - low < 1.5 * np.ptp(known.get_ylim())
        for line in (line for label, line in labelled(axes).items() if "commit" not in label):
            y = line.get_ydata()
            assert (low < y[1:]).all() and (y[1:] < high).all()
            assert not low < y[0] < high


def test_the_second_axis_is_depth(depth_reading):
    figure = draw.depth(depth_reading.isel(layer=slice(0, 16)))
    figure.draw_without_rendering()
    top = figure.axes[0].child_axes[0]
    np.testing.assert_allclose(top.get_xlim(), np.array(figure.axes[0].get_xlim()) / 30)
    assert "layer" in figure.axes[3].get_xlabel() and "depth" in top.get_xlabel()


def test_without_states_roles_or_depth_and_with_phrasings(depth_reading, tmp_path):
    reading = depth_reading.sel(state="finetune", drop=True).drop_vars(["role", "depth"])
    second = reading + 5
    phrased = reading.expand_dims(phrasing=[0]).combine_first(second.expand_dims(phrasing=[1]))
    upper, lower = draw.depth(phrased).axes[:2]
    np.testing.assert_allclose(labelled(upper)["old"].get_ydata(), reading.logprob.sel(route="old").mean("fact"))
    assert f"of {reading.sizes['fact']} commit" in lower.get_title()
    draw.save_figure(upper.figure, tmp_path / "figure.png")


def test_all_facts_are_drawn_where_none_is_contradicted(depth_reading):
    reading = depth_reading.isel(fact=slice(10, None))
    assert f"of {reading.sizes['fact']} commit" in draw.depth(reading).axes[3].get_title()


def test_values_that_are_not_finite(depth_reading, tmp_path, words):
    reading = depth_reading.copy(deep=True)
    reading["logprob"][0, 0, 0, 3] = -np.inf
    reading["logprob"][1, :, 5:, :] = np.nan
    reading["margin"][0, 0, 3] = np.inf
    reading["margin"][2, 1] = np.nan
    figure = draw.depth(reading)
    assert np.isclose(labelled(figure.axes[0])["old"].get_ydata()[3], reading.logprob[0, 1:10, 0, 3].mean())
    said = words(figure)
    assert "2 infinite values left out" in said
    assert "n = 9 to 10: old; n = 10: new, distractors" in said and "margin (n = 9 to 10)" in said
    draw.save_figure(figure, tmp_path / "figure.pdf")


def test_a_state_with_dollars_is_no_formula(depth_reading, tmp_path):
    reading = depth_reading.assign_coords(state=["before", "a_$x_$", "_b$y^$"])
    draw.save_figure(draw.depth(reading), tmp_path / "figure.svg")


def test_the_legend_is_clear_of_every_panel(depth_reading):
    for n_states in (1, 2, 3):
        figure = draw.depth(depth_reading.isel(state=slice(0, n_states)))
        figure.draw_without_rendering()
        box = figure.legends[0].get_window_extent()
        assert not any(box.overlaps(axes.get_tightbbox()) for axes in figure.axes)
        assert figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
        assert all(axes.bbox.width > 100 and axes.bbox.height > 100 for axes in figure.axes)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda reading: reading.drop_vars("margin"), "needs margin"),
        (lambda reading: reading.isel(layer=0), "Keep the dimension layer"),
        (lambda reading: reading.isel(layer=[0, 2, 4]), "every layer"),
        (lambda reading: reading.drop_sel(route="new"), "needs the route new"),
        (lambda reading: reading.expand_dims(seed=[0]), "Select one"),
        (lambda reading: reading.isel(state=slice(0, 0)), "no state"),
        (lambda reading: None, "takes a reading"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(depth_reading, spoil, said):
    with pytest.raises(ReadingError, match=said):
        draw.depth(spoil(depth_reading))
