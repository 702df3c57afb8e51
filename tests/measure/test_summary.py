"""The tables against numbers that are written down here."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.summary import conclusion, overview, summary

_INDEX = np.array([[1.0, 2.0, 3.0, 6.0], [9.0, 10.0, 8.0, 13.0]])  # [state, fact]
_NORMALISED = np.array([[0.1, 0.2, np.nan, 0.3], [0.9, 1.0, 1.1, 1.4]])
_VERDICT = np.array([["masked", "masked", "masked", "undecided"], ["erased", "erased", "suppressed", "erased"]])


@pytest.fixture
def result():
    dims = ("state", "fact")
    return xr.Dataset(
        {
            "verdict": (dims, _VERDICT),
            "commit_layer": (dims, [[4.0, np.nan, 7, 8], [1, 2, 3, 4]]),
            "index": (dims, _INDEX),
            "normalised": (dims, _NORMALISED),
            "paper_verdict": (dims, np.where(_INDEX > 8, "erased", "masked")),
            "never_low": ("state", [-2.0, -3.0]),
            "surprise": (dims, _INDEX),
            "n_never": ("state", [12, 12]),
        },
        coords={"state": ["finetune", "ft_l"], "fact": list("abcd"), "role": ("fact", ["contradicted"] * 4)},
        attrs={"cutoff_nats": 8.0},
    )


def test_the_summary_has_one_row_a_state_and_fact_and_its_columns_in_order(result):
    table = summary(result)
    assert list(table.columns) == ["index", "paper_verdict", "normalised", "never_low", "verdict", "commit_layer"]
    assert table.index.names == ["state", "fact"]
    assert list(table.index) == [(s, f) for s in ("finetune", "ft_l") for f in "abcd"]
    np.testing.assert_array_equal(table["index"], _INDEX.ravel())
    np.testing.assert_array_equal(table.normalised, _NORMALISED.ravel())
    assert list(table.verdict) == list(_VERDICT.ravel())
    np.testing.assert_array_equal(table.never_low, [-2.0] * 4 + [-3.0] * 4)
    np.testing.assert_array_equal(table.commit_layer, [4.0, np.nan, 7, 8, 1, 2, 3, 4])


def test_the_summary_of_one_change_has_one_row_a_fact(result):
    table = summary(result.isel(state=1, drop=True))
    assert table.index.name == "fact"
    assert list(table.index) == list("abcd")
    np.testing.assert_array_equal(table["index"], _INDEX[1])
    np.testing.assert_array_equal(table.never_low, [-3.0] * 4)


def test_the_summary_stands_the_index_beside_the_commit_layer(result):
    columns = list(summary(result).columns)
    assert {"index", "normalised", "verdict", "paper_verdict", "commit_layer"} <= set(columns)
    assert "surprise" not in columns


def test_the_overview_counts_verdicts_with_exact_bounds(result):
    table = overview(result)
    assert list(table.index) == ["finetune", "ft_l"]
    assert table.index.name == "state"
    assert list(table.n) == [4, 4]
    assert [list(table[v]) for v in ("masked", "erased", "suppressed", "undecided")] == [[3, 0], [0, 3], [0, 1], [1, 0]]
    three_of_four = (stats.beta.ppf(0.025, 3, 2), stats.beta.ppf(0.975, 4, 1))
    np.testing.assert_allclose(
        table.loc["finetune", ["masked_share_low", "masked_share_high"]].astype(float), three_of_four
    )
    assert table.loc["ft_l", "masked_share_low"] == 0
    assert table.loc["ft_l", "masked_share_high"] == pytest.approx(1 - 0.025**0.25)


def test_the_overview_means_carry_students_intervals(result):
    table = overview(result)
    for row, values in zip(("finetune", "ft_l"), _INDEX, strict=True):
        low, high = stats.t.interval(0.95, 3, loc=values.mean(), scale=stats.sem(values))
        found = table.loc[row, ["index", "index_low", "index_high"]].astype(float)
        np.testing.assert_allclose(found, [values.mean(), low, high])
    known = _NORMALISED[0, [0, 1, 3]]
    low, high = stats.t.interval(0.95, 2, loc=0.2, scale=stats.sem(known))
    found = table.loc["finetune", ["normalised", "normalised_low", "normalised_high"]].astype(float)
    np.testing.assert_allclose(found, [0.2, low, high])


def test_the_overview_of_one_change_is_one_row_called_change(result):
    table = overview(result.isel(state=0, drop=True))
    assert list(table.index) == ["change"]
    pd.testing.assert_series_equal(table.loc["change"], overview(result).loc["finetune"], check_names=False)


def test_the_conclusion_says_both_counts(result):
    text = conclusion(result)
    assert "cutoff 8 nats" in text
    assert "fine-tuning erases 0 of 4 old values (exact 95% interval 0% to 60%; mean index 3.0 nats)" in text
    assert "FT-L erases 3 of 4 old values (exact 95% interval 19% to 99%; mean index 10.0 nats)" in text
    assert "fine-tuning: 3 masked, 1 undecided (EI* 0.20 [" in text
    assert "FT-L: 3 erased, 1 suppressed (EI* 1.10 [" in text


@pytest.mark.parametrize("table", [summary, overview])
@pytest.mark.parametrize("missing", ["index", "verdict"])
def test_what_is_no_erase_result_is_refused(table, missing, result):
    with pytest.raises(ReadingError, match=f"needs {missing}, which this reading has not"):
        table(result.drop_vars(missing))


@pytest.mark.parametrize("table", [summary, overview])
def test_a_table_is_no_reading(table):
    with pytest.raises(ReadingError, match="takes a reading"):
        table(pd.DataFrame({"index": [1.0]}))


# BUG in mechmask/measure/summary.py (fails today): overview needs normalised and says so by AttributeError
def test_an_overview_without_the_normalised_index_is_refused(result):
    with pytest.raises(ReadingError, match="normalised"):
        overview(result.drop_vars("normalised"))
