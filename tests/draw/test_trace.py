"""The trace figure: what its lines are, what it marks, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from mechmask import draw
from mechmask.draw.band import lines_of
from mechmask.errors import ReadingError


def test_lines_are_means_over_facts(course):
    figure = draw.trace(course)
    for label, name in (("old (n = 6)", "logprob_old"), ("the same facts, never known (n = 6)", "never_after")):
        (line,) = lines_of(figure.axes, label)
        np.testing.assert_allclose(line.get_ydata(), course[name].mean("fact"))


def test_every_fact_that_was_won_has_its_tick(course):
    ticks = lines_of(draw.trace(course).axes, "new has just won on a fact (5 of 6)")
    assert len(ticks) == 2
    assert sorted(ticks[0].get_xdata()) == [4, 4, 8, 8, 12]
    assert not lines_of(draw.trace(course.drop_vars("won_step")).axes, "new has just won on a fact (5 of 6)")


def test_panel_b_names_its_statistic(course):
    assert "geometric standing of old (nats)" in [axes.get_ylabel() for axes in draw.trace(course).axes]


@pytest.mark.parametrize("missing", ["logprob_old", "never_after", "ceiling"])
def test_a_course_without_a_line_is_refused(course, missing):
    with pytest.raises(ReadingError, match=f"needs {missing}"):
        draw.trace(course.drop_vars(missing))


def test_another_shape_is_refused(course):
    with pytest.raises(ReadingError):
        draw.trace(course.expand_dims(state=["won"]))
