"""The figures of editors: marks and bars are the results, words say who is missing."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_hex

from mechmask import draw
from mechmask.draw.style import VERDICT_LOOKS
from mechmask.errors import ReadingError

LABELS = {
    "efficacy_score": "ES: the new value leads after the prompt",
    "paraphrase_score": "PS: after paraphrases",
    "neighborhood_score": "NS: neighbors keep their values",
    "harmonic_score": "S: their harmonic mean",
}


def test_the_marks_are_the_scores_and_the_bars_their_intervals(editors_results):
    editing, verdicts = editors_results
    scores = draw.editors(editing, verdicts).axes[0]
    marks = {line.get_label(): line for line in scores.lines}
    for metric, label in LABELS.items():
        found = editing.sel(state=verdicts.state, metric=metric)
        np.testing.assert_allclose(marks[label].get_xdata(), found.estimate)
    bars = scores.collections[0].get_segments()
    wanted = editing.sel(state=verdicts.state, metric="efficacy_score")
    assert [(bar[0, 0], bar[1, 0]) for bar in bars] == list(zip(wanted.low.values, wanted.high.values, strict=True))
    assert [tick.get_text() for tick in scores.get_yticklabels()] == ["FT-L", "ROME", "MEMIT"]


def test_the_group_stands_in_the_colour_of_its_verdict_and_goes_on_beyond_the_panel(editors_results, words):
    figure = draw.editors(*editors_results)
    group = figure.axes[1]
    drawn = {
        (float(line.get_xdata()[0]), to_hex(line.get_color())) for line in group.lines if len(line.get_xdata()) == 1
    }
    for value, verdict in ((0.3, "masked"), (0.95, "erased"), (0.5, "undecided")):
        assert (value, to_hex(VERDICT_LOOKS[verdict].color)) in drawn
    said = " ".join(words(figure).split())
    assert "an arrow: the interval goes on" in said
    assert "of 10: ROME took on 9 and failed on 1, MEMIT took on 4" in said


def test_the_bars_count_verdicts_on_single_facts(editors_results):
    facts = draw.editors(*editors_results).axes[2]
    widths = [patch.get_width() for patch in facts.patches]
    assert widths == [10, 0, 0, 0, 7, 0, 0, 0, 0, 0, 3, 10]  # masked, erased, suppressed, undecided by editor


def test_every_piece_of_a_bar_has_its_verdict_s_marker_so_that_grey_print_tells_them_apart(editors_results):
    facts = draw.editors(*editors_results).axes[2]
    marked = {
        (float(x), float(y)): line.get_marker()
        for line in facts.lines
        if line.get_marker() != "None"
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)
    }
    assert marked == {(5.0, 0.0): "o", (3.5, 1.0): "s", (8.5, 1.0): "D", (5.0, 2.0): "D"}
    assert len({look.marker for look in VERDICT_LOOKS.values()}) == len(VERDICT_LOOKS)


def test_a_score_that_there_is_not_is_neither_drawn_nor_in_the_legend(editors_results, words):
    editing, verdicts = editors_results
    lacking = editing.where(~editing.metric.isin(["paraphrase_score", "harmonic_score"]))
    figure = draw.editors(lacking, verdicts)
    drawn = {line.get_label() for line in figure.axes[0].lines if np.isfinite(line.get_xdata()).any()}
    assert drawn & set(LABELS.values()) == {LABELS["efficacy_score"], LABELS["neighborhood_score"]}
    said = " ".join(words(figure).split())
    for metric, label in LABELS.items():
        assert (label in said) == (metric in ("efficacy_score", "neighborhood_score"))


def test_headings_of_editors_have_their_name_in_a_line_of_its_own(depth_reading):
    figure = draw.editors_depth(depth_reading)
    figure.draw_without_rendering()
    for panel in figure.axes[:2]:
        name, counted = panel.title.get_text().split("\n")
        assert name and " commit" in counted


def test_every_panel_has_the_margin_before_and_after(figures, depth_reading):
    figure = figures["editors_depth"]()
    contradicted = depth_reading.isel(fact=np.flatnonzero((depth_reading.role == "contradicted").values))
    for number, panel in enumerate(figure.axes[:2], 1):
        lines = {line.get_label(): line for line in panel.lines}
        for label, state in (("before any edit", 0), ("after the edit", number)):
            margin = contradicted.margin.isel(state=state)
            margin = margin.isel(phrasing=0) if "phrasing" in margin.dims else margin
            np.testing.assert_allclose(lines[label].get_ydata(), margin.mean("fact"))


def test_eight_editors_have_three_abreast(depth_reading):
    states = [depth_reading.isel(state=0)] + [depth_reading.isel(state=1)] * 8
    names = ["before", *(f"editor {i}" for i in range(8))]
    many = xr.concat(states, xr.DataArray(names, dims="state", name="state"))
    figure = draw.editors_depth(many)
    places = {(round(axes.get_position().x0, 2), round(axes.get_position().y0, 2)) for axes in figure.axes}
    assert len(figure.axes) == 8 and len({x for x, _ in places}) <= 6
    figure.draw_without_rendering()


def test_legends_are_clear(editors_results, legend_is_clear, figures):
    assert legend_is_clear(draw.editors(*editors_results))
    assert legend_is_clear(figures["editors_depth"]())


def test_other_results_are_refused(editors_results, depth_reading):
    editing, verdicts = editors_results
    with pytest.raises(ReadingError, match="estimate"):
        draw.editors(editing.drop_vars("estimate"), verdicts)
    with pytest.raises(ReadingError, match="harmonic_score"):
        draw.editors(editing.drop_sel(metric="harmonic_score"), verdicts)
    with pytest.raises(ReadingError, match="rome"):
        draw.editors(editing.drop_sel(state="rome"), verdicts)
    with pytest.raises(ReadingError, match="gone"):
        draw.editors(editing, verdicts.assign(group_verdict=("state", ["gone"] * 3)))
    with pytest.raises(ReadingError, match="state before"):
        draw.editors_depth(depth_reading.assign_coords(state=["a", "b", "c"]))


def test_a_sequence_has_a_line_for_each_editor_in_every_panel(editors_sequence, legend_is_clear, words):
    figure = draw.editors_sequence(editors_sequence)
    metrics = ("efficacy_score", "paraphrase_score", "neighborhood_score", "perplexity_ratio")
    for panel, metric in zip(figure.axes, metrics, strict=True):
        lines = {line.get_label(): line for line in panel.lines}
        for label, state in (("MEMIT", "memit"), ("AlphaEdit", "alphaedit")):
            found = editors_sequence.estimate.sel(state=state, metric=metric)
            np.testing.assert_array_equal(lines[label].get_ydata(), found)
            np.testing.assert_array_equal(lines[label].get_xdata(), editors_sequence.edits)
    assert legend_is_clear(figure) and "20 facts; 20 texts" in words(figure)


def test_a_sequence_without_a_text_has_three_panels_and_one_without_a_score_is_refused(editors_sequence):
    text = editors_sequence.metric == "perplexity_ratio"
    without = editors_sequence.assign(estimate=editors_sequence.estimate.where(~text))
    assert len(draw.editors_sequence(without).axes) == 3
    assert len(draw.editors_sequence(editors_sequence.sel(metric=~text)).axes) == 3
    with pytest.raises(ReadingError, match="needs efficacy_score, which this result lacks"):
        draw.editors_sequence(editors_sequence.drop_sel(metric="efficacy_score"))
    many = xr.concat([editors_sequence.isel(state=[0]).assign_coords(state=[f"e{i}"]) for i in range(20)], "state")
    with pytest.raises(ReadingError, match=r"tells .* apart"):
        draw.editors_sequence(many)


def test_a_sequence_that_was_read_once_is_drawn_from_none_to_all_edits(editors_sequence):
    once = editors_sequence.isel(edits=[0, -1])
    panels = draw.editors_sequence(once).axes
    assert len(panels) == 4
    for panel in panels:
        low, high = panel.get_xlim()
        assert low < 0 and high > float(once.edits.max())
