"""The precision figure: what its points and bars are, what it marks, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from mechmask import draw
from mechmask.errors import ReadingError


def points(axes, marker, face=None):
    """Places of the points of one marker, in both coordinates ``[point, 2]``."""
    lines = [line for line in axes.lines if line.get_marker() == marker and line.get_linestyle() == "None"]
    return np.concatenate([np.stack(line.get_data(), 1) for line in lines if face is None or face == line.get_mfc()])


def test_every_fact_stands_in_every_row(precisions):
    traces, changes, _ = draw.precision(precisions).axes
    for axes, values in ((traces, precisions.trace_after), (changes, precisions.trace_change)):
        found = np.concatenate([points(axes, marker) for marker in "sDv"] + [_filled(axes)])
        np.testing.assert_allclose(np.sort(found[:, 0]), np.sort(values.values.ravel()))
        assert set(np.round(found[:, 1]).astype(int)) == set(range(4))


def _filled(axes):
    """Masked facts: circles that are not rings."""
    lines = [line for line in axes.lines if line.get_marker() == "o" and line.get_mfc() != "none"]
    return np.concatenate([np.stack(line.get_data(), 1) for line in lines])


def test_a_ring_is_where_the_verdict_is_another(precisions, words):
    figure = draw.precision(precisions)
    changed = precisions.verdict_changed.values
    rings = points(figure.axes[0], "o", "none")
    np.testing.assert_allclose(np.sort(rings[:, 0]), np.sort(precisions.trace_after.values[changed]))
    assert changed.sum() == 1 and f"NF4 1 of {precisions.sizes['fact']}" in words(figure)


def test_bars_are_the_intervals_of_the_table(precisions):
    _, changes, group = draw.precision(precisions).axes
    for axes, name in ((changes, "mean_trace_change"), (group, "group_normalised")):
        bars = np.array([path.vertices[:, 0] for path in axes.collections[-1].get_paths()])
        for i, end in enumerate(("low", "high")):
            np.testing.assert_allclose(bars[:, i], precisions[f"{name}_{end}"])


def test_an_interval_without_end_stops_at_the_panel(precisions):
    table = precisions.assign(group_normalised_high=precisions.group_normalised_high * np.inf)
    group = draw.precision(table).axes[2]
    assert np.isfinite(group.get_xlim()).all()


def test_one_fact_and_one_precision_are_drawn(precisions):
    draw.precision(precisions.isel(fact=[0], precision=[0])).draw_without_rendering()


@pytest.mark.parametrize("missing", ["trace_change", "group_normalised_low", "verdict"])
def test_a_table_without_what_is_drawn_is_refused(precisions, missing):
    with pytest.raises(ReadingError, match=f"needs {missing}"):
        draw.precision(precisions.drop_vars(missing))


def test_another_shape_and_an_unknown_verdict_are_refused(precisions):
    with pytest.raises(ReadingError, match="precision figure"):
        draw.precision(precisions.expand_dims(step=[1]))
    with pytest.raises(ReadingError, match="does not know the verdict gone"):
        draw.precision(precisions.assign(verdict=precisions.verdict.where(precisions.verdict == "no", "gone")))
