"""The calibration figure: its marks and bars are the tables, the best candidate stands first, cases are in words."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from mechmask import draw
from mechmask.errors import ReadingError


def drawn(tables, statistic="geometric_standing"):
    return draw.calibration(*tables, statistic)


def row_names(axes):
    return [tick.get_text() for tick in axes.get_yticklabels()]


def at(table, **labels):
    for name, value in labels.items():
        table = table[table[name] == value]
    return table


def test_the_marks_are_those_of_the_last_dose_and_the_best_stands_first(calibration_tables):
    by_fact, _ = calibration_tables
    last = at(by_fact, reference="never", dose=2)
    shown = {"geometric_standing": "all", "logprob": "all", "depth_score": "prompt"}  # the widest reading of each
    together = {name: at(last, statistic=name, phrasings=of, known="any")["auroc"].item() for name, of in shown.items()}
    names = sorted(together, key=together.get, reverse=True)
    first = drawn(calibration_tables).axes[0]
    assert row_names(first) == [name.replace("_", " ") for name in names]
    marks = {line.get_label(): line.get_xdata() for line in first.lines}
    for pool, label in (("verbatim", "told verbatim"), ("biography", "told in running text")):
        expected = [at(last, statistic=n, phrasings=shown[n], known=pool)["auroc"].item() for n in names]
        np.testing.assert_allclose(marks[label], expected)


def test_the_chosen_statistic_along_the_doses(calibration_tables, words):
    by_fact, _ = calibration_tables
    figure = drawn(calibration_tables, "logprob")
    second = figure.axes[1]
    expected = at(by_fact, statistic="logprob", reference="never", phrasings="all", known="paraphrased")["auroc"]
    np.testing.assert_allclose(second.lines[1].get_ydata(), expected)
    assert "b: logprob" in words(figure)


def test_the_bars_are_the_shares_and_their_names_say_what_is_true(calibration_tables):
    _, rates = calibration_tables
    panel = drawn(calibration_tables).axes[2]
    assert row_names(panel) == [
        "knows, left alone", "never knew", "running text", "verbatim, edited",
    ]  # fmt: skip
    masked = [patch.get_width() for patch in panel.patches[:4]]
    cases = ["left alone", "perfectly erased", "biography", "verbatim, edited"]
    last = rates.xs(2, level="dose").loc["fact"]
    np.testing.assert_allclose(masked, last.loc[cases, "masked"])
    ends = [patch.get_x() + patch.get_width() for patch in panel.patches[-4:]]
    np.testing.assert_allclose(ends, 1)
    assert {text.get_text() for text in panel.texts} >= {f"n={n}" for n in last["n"]}


def test_tables_that_were_written_and_read_again_are_drawn(calibration_tables, tmp_path):
    by_fact, rates = calibration_tables
    rates.to_csv(tmp_path / "rates.csv")
    again = drawn((by_fact, pd.read_csv(tmp_path / "rates.csv"))).axes[2]
    widths = [[patch.get_width() for patch in axes.patches] for axes in (again, drawn(calibration_tables).axes[2])]
    np.testing.assert_allclose(*widths)


def test_the_legend_is_clear(calibration_tables, words, legend_is_clear):
    figure = drawn(calibration_tables)
    assert legend_is_clear(figure)
    assert {"told in running text", "undecided", "suppressed"} <= set(words(figure).split("\n"))


def test_other_tables_are_refused(calibration_tables):
    by_fact, rates = calibration_tables
    with pytest.raises(ReadingError, match="lacks low"):
        draw.calibration(by_fact.drop(columns="low"), rates, "logprob")
    with pytest.raises(ReadingError, match="lacks masked"):
        draw.calibration(by_fact, rates.drop(columns="masked"), "logprob")
    with pytest.raises(ReadingError, match="lacks the statistic 'rank'"):
        draw.calibration(by_fact, rates, "rank")
    with pytest.raises(ReadingError, match="unit 'group'"):
        draw.calibration(by_fact, rates.loc[["fact"]], "logprob")
