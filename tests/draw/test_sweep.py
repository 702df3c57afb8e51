"""The figure of a sweep: a row for each cell that there is, its verdict, its interval and its counts."""

from __future__ import annotations

import numpy as np
import pytest

from mechmask import draw
from mechmask.errors import ReadingError


def test_rows_are_the_cells_that_there_are_in_their_order(sweep_gathered):
    figure = draw.sweep(sweep_gathered)
    names = [label.get_text().replace("\n", " ") for label in figure.axes[0].get_yticklabels()]
    assert len(names) == 6
    assert names[:2] == ["model smollm2-135m, lr 0.0001: fine-tuning", "model smollm2-135m, lr 0.0001: FT-L"]


def test_marks_are_the_ratios_and_bars_the_counts(sweep_gathered):
    ratios, counts = draw.sweep(sweep_gathered).axes
    lines = [line.get_xydata() for line in ratios.lines if line.get_marker() in "osD"]
    marks = {(float(x), int(y)) for line in lines for x, y in line}
    there = sweep_gathered.normalised.values.reshape(-1)[:6]
    assert {(round(x, 9), y) for x, y in marks} == {(round(float(x), 9), row) for row, x in enumerate(there)}
    widths = np.array([patch.get_width() for patch in counts.patches]).reshape(-1, 6)
    assert widths.sum(0).tolist() == [12] * 6
    assert widths[0].tolist() == sweep_gathered.masked.values.reshape(-1)[:6].tolist()


def test_one_axis_and_none(sweep_gathered):
    cell = sweep_gathered.isel(model=0, lr=0)
    names = [label.get_text() for label in draw.sweep(cell).axes[0].get_yticklabels()]
    assert names == ["fine-tuning", "FT-L"]


def test_what_cannot_be_shown_is_refused(sweep_gathered):
    with pytest.raises(ReadingError, match="has no cell to draw"):
        draw.sweep(sweep_gathered.where(sweep_gathered.lr < 0))
    with pytest.raises(ReadingError, match="can show 60 rows, and there are 61"):
        draw.sweep(sweep_gathered.isel(model=0, lr=0, state=[0]).expand_dims(seed=61))
    with pytest.raises(ReadingError, match="normalised"):
        draw.sweep(sweep_gathered.drop_vars("normalised"))
