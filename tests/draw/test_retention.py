"""Figures of retention: marks and areas are the numbers of the results."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.text import Text

from mechmask import draw
from mechmask.errors import ReadingError


def test_marks_are_the_shares_and_the_ratios(retention_rates):
    shares, left = draw.retention(retention_rates).axes
    for name, line in zip(("edited", "intrinsic"), shares.lines[:2], strict=True):
        wanted = retention_rates.estimate.sel(quantity=name).values.reshape(-1)
        np.testing.assert_allclose(line.get_xdata(), wanted)
    marks = sorted(float(line.get_xdata()[0]) for line in left.lines if line.get_marker() in "osDv^")
    np.testing.assert_allclose(marks, np.sort(retention_rates.normalised.values.reshape(-1)))
    names = [label.get_text() for label in shares.get_yticklabels()]
    assert names[0] == "ROME, text" and names[1].startswith("ROME, instructions of a l")


def test_areas_are_the_mean_shares_and_fill_the_panel(retention_course):
    edited, intrinsic = draw.categories(retention_course).axes
    for panel, facts in ((edited, ["a", "b"]), (intrinsic, ["c"])):
        means = retention_course.share.sel(editor="rome", task="text", fact=facts).mean("fact").values
        tops = np.cumsum(means, axis=1)
        for number, area in enumerate(panel.collections):
            ends = area.get_paths()[0].vertices
            assert ends[:, 1].max() == pytest.approx(tops[:, number].max())
        assert panel.get_ylim() == (0, 1)


def test_a_fact_without_related_values_is_left_out_unless_all_are(retention_course):
    bare = retention_course.copy(deep=True)
    bare.share.loc[{"fact": "a", "category": ["related", "other"]}] = np.nan
    edited, _ = draw.categories(bare).axes
    (first, *_) = edited.collections
    assert first.get_paths()[0].vertices[:, 1].max() == pytest.approx(0.02)
    notes = [text.get_text() for text in draw.categories(bare).findobj(Text)]
    assert any(note.startswith("n = 1 edited and 1 intrinsic") for note in notes)


def test_what_cannot_be_shown_is_refused(retention_rates, retention_course):
    with pytest.raises(ReadingError, match="shows one task, and there are 2"):
        both = retention_course.isel(task=[0, 0]).assign_coords(task=["x", "y"])
        draw.categories(both)
    with pytest.raises(ReadingError, match="1 to 6 editors, and there are 0"):
        draw.categories(retention_course.sel(editor=["unedited"]))
    with pytest.raises(ReadingError, match="can show 60 rows, and there are 122"):
        draw.retention(retention_rates.isel(task=[0] * 61).assign_coords(task=range(61)))
