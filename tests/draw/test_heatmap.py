from itertools import pairwise

import numpy as np
import pytest
import xarray as xr

from mechmask import draw
from mechmask.errors import ReadingError


def commit_of(fact):
    """First layer from which new leads all others at every later one: ``fact[route, layer]``; infinity for none."""
    found = np.inf
    for layer in reversed(range(fact.shape[1])):
        if not fact[1, layer] > np.delete(fact[:, layer], 1).max():
            break
        found = layer
    return found


def naive(reading, state, order_state):
    """Names, margins, standings and commit layers of the contradicted facts, in the order they should have."""
    facts = np.flatnonzero(reading.role.values == "contradicted")
    last = reading.logprob.values[order_state]
    order = sorted(facts, key=lambda i: (commit_of(last[i]), last[i, 0, -1] - last[i, 1, -1]))
    logprob = reading.logprob.values[state, order]
    standing = logprob[:, 0] - np.log(np.exp(logprob[:, 2:]).mean(1))
    commits = [commit_of(fact) for fact in logprob]
    return reading.fact.values[order], logprob[:, 1] - logprob[:, 0], standing, commits


def marks(axes):
    return {
        tuple(segment.mean(0)) for c in axes.collections if hasattr(c, "get_segments") for segment in c.get_segments()
    }


@pytest.mark.parametrize("value", ["margin", "standing"])
def test_cells_are_the_values_in_order_of_commit(depth_reading, value):
    figure = draw.heatmap(depth_reading, value)
    for state, axes in enumerate(figure.axes[:3]):
        names, margins, standings, commits = naive(depth_reading, state, 2)
        np.testing.assert_allclose(axes.images[0].get_array(), margins if value == "margin" else standings)
        expected = {(layer - 0.5, row) for row, layer in enumerate(commits) if np.isfinite(layer)}
        assert marks(axes) == expected
        assert axes.get_title().endswith(f"{len(expected)} of 10 commit")
        low, high = axes.images[0].get_clim()
        assert low == -high
    labels = [label.get_text().replace("\\$", "$") for label in figure.axes[0].get_yticklabels()]
    assert labels == list(names)
    assert "(nats)" in figure.axes[3].get_ylabel() and value.split()[0] in figure.axes[3].get_ylabel()
    assert "(FT-L)" in figure.legends[0].get_title().get_text()


def test_cells_stand_over_their_layers(two_readings):
    axes = draw.heatmap(two_readings[1]).axes[0]
    assert axes.images[0].get_extent() == [-0.5, 30.5, 9.5, -0.5]
    assert axes.get_title() == "10 of 10 commit"


def test_values_cut_are_said_by_arrow_and_note(two_readings):
    reading = two_readings[1].copy(deep=True)
    assert "colours end" not in draw.heatmap(reading).legends[0].get_title().get_text()
    reading["logprob"][:3, 0, 0] += 90
    reading["logprob"][3, 1, 5] = np.nan
    reading["logprob"][4, 1, 6] = -np.inf
    figure = draw.heatmap(reading)
    said = figure.legends[0].get_title().get_text()
    assert "4 of 309 values lie beyond, 1 of them infinite" in said
    image = figure.axes[0].images[0]
    assert image.colorbar.extend == "min"
    shown = image.get_array()
    assert shown.mask.sum() == 1 and (shown < -image.get_clim()[1]).sum() == 4
    assert "no value" in {text.get_text() for text in figure.legends[0].get_texts()}


def many(reading, n):
    copies = [reading.assign_coords(fact=[f"{name} {k}" for name in reading.fact.values]) for k in range(n)]
    return xr.concat(copies, "fact")


@pytest.mark.parametrize(("copies", "every"), [(4, 1), (5, 2), (13, 4)])
def test_names_are_thinned_where_they_would_not_be_legible(two_readings, copies, every):
    reading = many(two_readings[1].isel(fact=slice(0, 10)), copies)
    figure = draw.heatmap(reading)
    figure.draw_without_rendering()
    boxes = sorted((label.get_window_extent() for label in figure.axes[0].get_yticklabels()), key=lambda box: box.y0)
    assert len(boxes) == -(-10 * copies // every) <= 40
    assert all(below.y1 <= above.y0 + 1 for below, above in pairwise(boxes))
    assert (f"one fact in {every} is named" in figure.legends[0].get_title().get_text()) == (every > 1)


def test_the_legend_is_clear_of_every_panel(depth_reading, legend_is_clear):
    for n_states in (1, 2, 3):
        assert legend_is_clear(draw.heatmap(depth_reading.isel(state=slice(0, n_states))))


@pytest.mark.parametrize(
    ("spoil", "value", "said"),
    [
        (lambda reading: reading, "rank", "margin or standing"),
        (lambda reading: reading.drop_vars("logprob"), "margin", "needs logprob"),
        (lambda reading: reading.isel(layer=[0, 2, 4]), "margin", "every layer"),
        (lambda reading: reading.sel(route=["old", "new"]), "standing", "needs distractors"),
        (lambda reading: reading.drop_sel(route="new"), "margin", "needs the route new"),
        (lambda reading: reading.expand_dims(seed=[0]), "margin", "Select one seed"),
        (lambda reading: reading * np.nan, "margin", "no finite value"),
        (lambda reading: reading.logprob, "margin", "takes a reading"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(depth_reading, spoil, value, said):
    with pytest.raises(ReadingError, match=said):
        draw.heatmap(spoil(depth_reading), value)
