"""The dose figure: its lines are the curve, its star the dose at which the trace is gone, its words say so."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from mechmask import draw
from mechmask.draw.dose import _entry
from mechmask.errors import ReadingError
from mechmask.measure.dose import dose_curve, dose_erased


def _lines(axes):
    return {line.get_label(): line for line in axes.lines}


def test_every_line_is_a_path_of_the_curve(dose_result):
    figure = draw.dose(dose_result)
    curve = dose_curve(dose_result)
    for row, name in enumerate(("trace", "index", "control_drop", "text_cost")):
        by_norm, by_new = figure.axes[2 * row : 2 * row + 2]
        for label, line in _lines(by_norm).items():
            path = label.partition(":")[0]
            if path not in curve.path.values:
                continue
            rows = np.flatnonzero(curve.path.values == path)
            np.testing.assert_allclose(line.get_ydata(), curve[name].values[rows])
            signs = np.where(curve["scale"].values[rows] < 0, -1, 1)
            np.testing.assert_allclose(line.get_xdata(), signs * curve.norm.values[rows])
            forward = rows[curve["scale"].values[rows] >= 0]
            np.testing.assert_allclose(_lines(by_new)[label].get_xdata(), curve.probability_new.values[forward])


def test_the_star_stands_where_the_trace_is_gone_and_the_legend_says_at_which_dose(dose_result, words):
    figure = draw.dose(dose_result)
    erased, curve = dose_erased(dose_result), dose_curve(dose_result)
    stars = [line for line in figure.axes[0].lines if line.get_marker() == "*"]
    there = [int(row) for row in erased.row.values if row >= 0]
    assert sorted(float(star.get_ydata()[0]) for star in stars) == sorted(curve.trace.values[there].tolist())
    said = " ".join(words(figure).split())
    assert "lr=0.001, by step: trace gone at step 20" in said
    assert "lr=0.0001, by step: trace gone at no dose (not reached)" in said
    assert "95% t interval (n = 12 facts, 6 controls, 32 sequences of text)" in said


def test_margin_and_cutoff_are_drawn_at_their_height(dose_result):
    figure = draw.dose(dose_result)
    margin = 0.25 * float(dose_result.trace_before.mean())
    heights = [[line.get_ydata()[0] for line in figure.axes[i].lines if len(line.get_ydata()) == 2] for i in (0, 2)]
    assert pytest.approx(margin) in heights[0] and 8.0 in heights[1]


def test_the_legend_is_clear_of_the_panels(dose_result, legend_is_clear):
    assert legend_is_clear(draw.dose(dose_result))


def test_too_many_courses_and_other_shapes_are_refused(dose_result):
    import xarray as xr

    many = [dose_result.assign_coords(course=("dose", [f"c{i}"] * dose_result.sizes["dose"])) for i in range(8)]
    with pytest.raises(ReadingError, match="courses apart"):
        draw.dose(xr.concat(many, "dose"))
    with pytest.raises(ReadingError, match="trace_after"):
        draw.dose(dose_result.drop_vars("trace_after"))
    with pytest.raises(ReadingError, match="confidence level"):
        draw.dose(dose_result, level=2)


def test_a_dose_that_may_have_been_reached_is_said_to_be_so():
    """The mean is above the margin at every dose, and at the last one its interval reaches into it."""
    found = xr.Dataset(
        {"dose": ("path", [np.inf]), "low": ("path", [12.0]), "high": ("path", [np.inf])}, {"path": ["a"]}
    )
    first = xr.Dataset({"by": "step"})
    assert _entry(found, "a", first) == "a: trace gone at no dose (not reached, perhaps from step 12 on)"
    assert _entry(found.assign(low=("path", [np.inf])), "a", first) == "a: trace gone at no dose (not reached)"
