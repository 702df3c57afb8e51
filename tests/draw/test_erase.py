import re

import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_hex
from scipy import stats

from mechmask import draw
from mechmask.draw.style import VERDICT_LOOKS
from mechmask.errors import ReadingError


def is_filled(line):
    """Whether a line is points of facts: neither a caret, nor a rule, nor a mean."""
    return line.get_linestyle() == "None" and line.get_marker() not in ("<", ">", "|")


def points(axes, verdict):
    """``(x, y)`` of the markers of a verdict, whatever the reason, in order of x."""
    look = VERDICT_LOOKS[verdict]
    lines = [line for line in axes.lines if is_filled(line) and to_hex(line.get_color()) == look.color.lower()]
    if verdict != "undecided":
        assert {line.get_marker() for line in lines} == {look.marker}
    return np.array(sorted(zip(*np.concatenate([line.get_data() for line in lines], axis=1), strict=True))).reshape(
        -1, 2
    )


def test_every_fact_is_a_point_at_its_index(erase_result):
    left, right = draw.erase(erase_result).axes
    for verdict in VERDICT_LOOKS:
        chosen = erase_result.verdict.values == verdict
        np.testing.assert_allclose(points(left, verdict)[:, 0], np.sort(erase_result["index"].values[chosen]))
        np.testing.assert_allclose(points(right, verdict)[:, 0], np.sort(erase_result.normalised.values[chosen]))
    rows = np.round(np.concatenate([points(left, verdict) for verdict in VERDICT_LOOKS])[:, 1])
    assert sorted(rows) == [0] * 10 + [1] * 10


def test_points_do_not_lie_on_one_another(erase_result):
    figure = draw.erase(erase_result)
    figure.draw_without_rendering()
    for axes in figure.axes:
        places = np.concatenate(
            [axes.transData.transform(points(axes, verdict)) for verdict in VERDICT_LOOKS if len(points(axes, verdict))]
        )
        apart = np.hypot(*(places[:, None] - places[None]).T) + np.eye(len(places)) * 1e9
        assert apart.min() > 2 * figure.dpi / 72


def test_every_reason_has_a_marker_of_its_own(erase_result):
    figure = draw.erase(erase_result)
    undecided = {"undecided"} & set(erase_result.verdict.values.flat)
    reasons = set(erase_result.reason.values[erase_result.verdict.values == "undecided"])
    assert undecided and len(reasons) > 1
    for axes in figure.axes[:2]:
        color = VERDICT_LOOKS["undecided"].color.lower()
        lines = [line for line in axes.lines if is_filled(line) and to_hex(line.get_color()) == color]
        with_points = [line for line in lines if len(line.get_xdata())]
        assert len({line.get_marker() for line in with_points}) == len(reasons)


def test_means_carry_t_intervals(erase_result):
    left = draw.erase(erase_result, level=0.9).axes[0]
    for container, values in zip(left.containers, erase_result["index"].values, strict=True):
        data, _, (bar,) = container
        assert np.isclose(data.get_xdata()[0], values.mean())
        expected = stats.t.interval(0.9, len(values) - 1, values.mean(), stats.sem(values))
        np.testing.assert_allclose(bar.get_segments()[0][:, 0], expected)


def test_intervals_of_facts_are_drawn_from_low_to_high(erase_result):
    right = draw.erase(erase_result).axes[1]
    drawn = [segment[:, 0] for c in right.collections for segment in c.get_segments()]
    expected = np.stack([erase_result.normalised_low.values.ravel(), erase_result.normalised_high.values.ravel()], 1)
    np.testing.assert_allclose(sorted(map(tuple, drawn)), sorted(map(tuple, expected)))


def test_the_legend_counts_verdicts_by_state(erase_result):
    entries = "\n".join(text.get_text() for text in draw.erase(erase_result).legends[0].get_texts())
    for verdict in VERDICT_LOOKS:  # undecided facts have an entry for each reason
        counts = re.findall(rf"^{verdict}(?:: .+)? \(fine-tuning (\d+), FT-L (\d+)\)$", entries, re.MULTILINE)
        totals = [sum(map(int, column)) for column in zip(*counts, strict=True)]
        assert totals == [int((row == verdict).sum()) for row in erase_result.verdict.values]
    one = erase_result.sel(state="finetune")
    assert f"masked ({int((one.verdict == 'masked').sum())})" in {
        text.get_text() for text in draw.erase(one).legends[0].get_texts()
    }


def test_cutoff_band_and_borders_stand_where_they_should(erase_result):
    left, right = draw.erase(erase_result).axes
    cutoff = next(line for line in left.lines if "8 nats" in line.get_label())
    assert list(cutoff.get_xdata()) == [8, 8]
    assert [patch.get_extents().width for patch in left.patches] and left.patches[0].get_xy()[0] == 3
    assert left.patches[0].get_width() == 10
    borders = {
        line.get_xdata()[0]
        for line in right.lines
        if len(line.get_xdata()) == 2 and line.get_xdata()[0] == line.get_xdata()[1]
    }
    assert borders >= {0, 1}
    assert [label.get_text() for label in left.get_yticklabels()] == ["fine-tuning\nn = 10", "FT-L\nn = 10"]


def test_what_is_not_drawn_is_said(erase_result, tmp_path):
    result = erase_result.copy(deep=True)
    for name in ("normalised", "normalised_low", "normalised_high"):
        result[name][0, :3] = np.nan
    result["index"][1, 0] = np.inf
    result["normalised_high"][1, 1] = 500.0
    result["normalised_low"][1, 1] = -500.0
    figure = draw.erase(result)
    legend = figure.legends[0]
    assert "3 without EI*" in legend.get_title().get_text() and "1 without a finite EI" in legend.get_title().get_text()
    assert "interval goes on beyond the panel" in {text.get_text() for text in legend.get_texts()}
    left, right = figure.axes[1].get_xlim()
    assert left < 0 and 1 < right < 10
    carets = {
        line.get_marker(): line.get_xdata().tolist()
        for line in figure.axes[1].lines
        if line.get_marker() in "<>" and len(line.get_xdata())
    }
    assert carets == {"<": [left], ">": [right]}
    draw.save_figure(figure, tmp_path / "figure.pdf")


def test_undecided_facts_say_why_and_what_would_decide_them(erase_result, words):
    undecided = erase_result.verdict == "undecided"
    assert undecided.sum() >= 3
    number = xr.DataArray(np.cumsum(undecided.values.ravel()).reshape(undecided.shape), dims=undecided.dims)
    first = undecided & (number == 1)
    result = erase_result.assign(
        reason=xr.where(first, "not_known_before", xr.where(undecided, "interval_too_wide", "")),
        remedy=xr.where(first, "more distractors", xr.where(undecided, "more never facts.", "")),
    )
    said = words(draw.erase(result))
    rest = [int(n) for n in (undecided & ~first).sum("fact")]
    assert f"undecided: interval too wide (fine-tuning {rest[0]}, FT-L {rest[1]})" in said
    assert "undecided: not known before (fine-tuning 1, FT-L 0)" in said and "undecided (" not in said
    assert f"would decide {sum(rest)} facts: more never facts\n" in said
    assert "would decide 1 fact: more distractors" in said


def test_edits_that_did_not_take_are_counted(erase_result, words):
    took = xr.ones_like(erase_result["index"], dtype=bool)
    took[0, :2] = False
    assert "2 facts on which the edit did not take" in words(draw.erase(erase_result.assign(took=took)))


def test_every_fact_has_its_name_beside_its_interval(erase_result):
    (beside,) = draw.erase(erase_result).axes[1].child_axes
    names = [label.get_text().replace("\\$", "$") for label in beside.get_yticklabels()]
    order = [erase_result.fact.values[np.argsort(row, kind="stable")] for row in erase_result.normalised.values]
    assert names == [*order[0], *order[1]]
    assert (np.diff(beside.get_yticks()) > 0).all()


def test_nothing_to_normalise_and_no_never_facts(erase_result, tmp_path):
    result = erase_result.copy(deep=True)
    for name in ("normalised", "normalised_low", "normalised_high"):
        result[name][:] = np.nan
    result["verdict"][:] = "undecided"
    result.attrs.clear()
    draw.save_figure(draw.erase(result.isel(fact=[0])), tmp_path / "figure.png")


def test_the_panels_fill_the_figure_and_the_legend_is_clear_of_them(erase_result):
    for result in (
        erase_result,
        erase_result.isel(state=0),
        erase_result.isel(state=[0, 1, 0, 1]).assign_coords(state=list("wxyz")),
    ):
        figure = draw.erase(result)
        figure.draw_without_rendering()
        box = figure.legends[0].get_window_extent()
        assert not any(box.overlaps(axes.get_tightbbox()) for axes in figure.axes)
        assert all(axes.bbox.width > figure.bbox.width / 3 for axes in figure.axes)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda result: result["index"], "takes a reading"),
        (lambda result: result.drop_vars("normalised_low"), "needs normalised_low"),
        (lambda result: result.isel(fact=slice(0, 0)), "no fact"),
        (lambda result: result.expand_dims(seed=[0]), "Select one"),
        (lambda result: result.assign(verdict=result.verdict.str.replace("masked", "hidden")), "verdict hidden"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(erase_result, spoil, said):
    with pytest.raises(ReadingError, match=said):
        draw.erase(spoil(erase_result))
