"""The tables against numbers that are written down here."""

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.discrimination import auroc, clustered_auroc
from mechmask.measure.normalised import ratio_of_means
from mechmask.measure.summary import conclusion, overview, plainly, summary

_INDEX = np.array([[1.0, 2.0, 3.0, 6.0], [9.0, 10.0, 8.0, 13.0]])  # [state, fact]
_NORMALISED = np.array([[0.1, 0.2, np.nan, 0.3], [0.9, 1.0, 1.1, 1.4]])
_VERDICT = np.array([["masked", "masked", "masked", "undecided"], ["erased", "erased", "suppressed", "erased"]])
_REASON = np.array(
    [["above_margin"] * 3 + ["across_upper_margin"], ["within_margin"] * 2 + ["below_margin", "within_margin"]]
)
_BEFORE = np.array([[10.0, 12, 9, 15], [11, 12, 9, 15]])
_AFTER = np.array([[9.0, 10, 9, 11], [0, -1, -1.5, 0.5]])


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
            "trace_before": (dims, _BEFORE),
            "trace_after": (dims, _AFTER),
            "shared_error": ("state", [0.6, 0.9]),
            "took": (dims, [[True] * 4, [True, True, False, True]]),
            "reason": (dims, _REASON),
            "remedy": (dims, np.where(_VERDICT == "undecided", "More.", "none needed")),
            "surprise": (dims, _INDEX),
            "n_never": ("state", [12, 12]),
        },
        coords={"state": ["finetune", "ft_l"], "fact": list("abcd"), "role": ("fact", ["contradicted"] * 4)},
        attrs={"cutoff_nats": 8.0, "interval_level": 0.9, "margin_share": 0.25, "reference": "twins"},
    )


def test_the_summary_has_one_row_a_state_and_fact_and_its_columns_in_order(result):
    table = summary(result)
    assert list(table.columns) == [
        *("index", "paper_verdict", "normalised", "trace_before", "trace_after", "took", "verdict", "reason"),
        *("commit_layer", "remedy"),
    ]
    assert table.index.names == ["state", "fact"]
    assert list(table.index) == [(s, f) for s in ("finetune", "ft_l") for f in "abcd"]
    np.testing.assert_array_equal(table["index"], _INDEX.ravel())
    np.testing.assert_array_equal(table.normalised, _NORMALISED.ravel())
    assert list(table.verdict) == list(_VERDICT.ravel())
    np.testing.assert_array_equal(table.commit_layer, [4.0, np.nan, 7, 8, 1, 2, 3, 4])


def test_the_summary_of_one_change_has_one_row_a_fact(result):
    table = summary(result.isel(state=1, drop=True))
    assert table.index.name == "fact"
    assert list(table.index) == list("abcd")
    np.testing.assert_array_equal(table["index"], _INDEX[1])


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


@pytest.mark.parametrize(("column", "values"), [("index", _INDEX), ("trace_before", _BEFORE), ("trace_after", _AFTER)])
def test_the_overview_means_carry_students_intervals(result, column, values):
    table = overview(result)
    for row, each in zip(("finetune", "ft_l"), values, strict=True):
        low, high = stats.t.interval(0.95, 3, loc=each.mean(), scale=stats.sem(each))
        found = table.loc[row, [column, f"{column}_low", f"{column}_high"]].astype(float)
        np.testing.assert_allclose(found, [each.mean(), low, high])


def test_the_overview_has_the_ratio_of_means_of_the_group_and_its_verdict(result):
    table = overview(result)
    for i, state in enumerate(("finetune", "ft_l")):
        interval = ratio_of_means(_BEFORE[i], _AFTER[i], (0.6, 0.9)[i], 12, 0.9)
        row = table.loc[state, ["normalised", "normalised_low", "normalised_high"]].astype(float)
        np.testing.assert_allclose(row, np.array(interval, dtype=float))
    assert list(table.verdict) == ["masked", "undecided"]
    assert list(table.reason) == ["above_margin", "did_not_take"]
    assert overview(result.assign(took=result.took | True)).loc["ft_l", "verdict"] == "erased"
    wide = result.assign_attrs(margin_share=0.01)
    assert overview(wide.assign(took=wide.took | True)).loc["ft_l", "reason"] == "across_both_margins"


def _with_readings(result):
    """Old values and their references after the change: all above, and one of four above half of them."""
    old = np.array([[5.0, 6, 7, 8], [0.5, -3, -4, -5]])
    never = np.array([[1.0, 2, 3, 4], [0.0, 1, 2, -1]])
    return result.assign(old_after=(("state", "fact"), old), never_after=(("state", "fact"), never))


def test_the_overview_has_the_auroc_of_old_values_against_their_references(result):
    read = _with_readings(result)
    table = overview(read)
    pairs = zip(read.old_after.values, read.never_after.values, strict=True)
    by_pairs = [np.mean(old[:, None] > never) for old, never in pairs]
    np.testing.assert_allclose(table.auroc.astype(float), [1, 0.125])
    np.testing.assert_allclose(table.auroc.astype(float), by_pairs)
    expected = auroc(read.old_after[1], read.never_after[1])
    np.testing.assert_allclose(table.loc["ft_l", ["auroc_low", "auroc_high"]].astype(float), expected[1:3])
    drawn = read.assign_coords(seed=("fact", [0, 0, 1, 1]))
    old, never = read.old_after[1].values, read.never_after[1].values
    clustered = clustered_auroc([*old, *never], [True] * 4 + [False] * 4, [0, 0, 1, 1] * 2)
    row = overview(drawn).loc["ft_l", ["auroc", "auroc_low", "auroc_high"]].astype(float)
    np.testing.assert_allclose(row, clustered[:3])
    missing = read.assign(never_after=read.never_after.where(read.fact != "b"))
    assert overview(missing).loc["ft_l", "auroc"] == pytest.approx(np.mean(old[[0, 2, 3], None] > never[[0, 2, 3]]))


def test_against_one_reference_of_all_facts_there_is_no_auroc(result):
    shared = _with_readings(result).assign_attrs(reference="never facts")
    assert overview(shared)[["auroc", "auroc_low", "auroc_high"]].isna().all(axis=None)
    assert overview(result)["auroc"].isna().all()  # a table of before it was kept


def test_the_overview_counts_what_took_and_why_facts_are_undecided(result):
    table = overview(result)
    assert list(table.took) == [4, 3]
    assert list(table.undecided_reasons) == ["across_upper_margin: 1", "none"]
    undecided = result.assign(
        verdict=xr.full_like(result.verdict, "undecided"),
        reason=(("state", "fact"), [["noise_unknown", "did_not_take", "noise_unknown", "noise_unknown"]] * 2),
    )
    assert list(overview(undecided).undecided_reasons) == ["did_not_take: 1, noise_unknown: 3"] * 2


def test_the_overview_of_one_change_is_one_row_called_change(result):
    table = overview(result.isel(state=0, drop=True))
    assert list(table.index) == ["change"]
    pd.testing.assert_series_equal(table.loc["change"], overview(result).loc["finetune"], check_names=False)


def test_the_conclusion_says_both_counts(result):
    text = conclusion(result)
    assert "cutoff 8 nats" in text
    assert "fine-tuning erases 0 of 4 old values (exact 95% interval 0% to 60%; mean index 3.0 nats)" in text
    assert "FT-L erases 3 of 4 old values (exact 95% interval 19% to 99%; mean index 10.0 nats)" in text
    assert "Held against facts that were never known (the same facts in models that were not taught them), " in text
    assert "fine-tuning leaves 9.8 of 11.5 nats of trace: as a group the old values are masked (EI* 0.15 [" in text
    assert "one by one 3 masked, 1 undecided" in text
    assert "FT-L leaves -0.5 of 11.8 nats of trace" in text
    assert "as a group the old values are undecided (new does not lead on 1 of 4) (EI* " in text
    assert text.endswith(
        " Undecided, fine-tuning: 1 (the interval crosses the margin above never known). What would decide them: Add "
        "phrasings, distractors or replicates of the reference, or judge the group of facts."
    )


def test_a_conclusion_names_a_state_that_it_does_not_know_and_one_change_alone(result):
    text = conclusion(result.assign_coords(state=["finetune", "my_edit"]))
    assert "my_edit erases 3 of 4" in text and "my_edit leaves -0.5" in text
    assert "By the raw erase index (cutoff 8 nats) the change erases 3 of 4" in conclusion(
        result.isel(state=1, drop=True)
    )


def test_a_conclusion_where_all_is_decided_is_two_sentences(result):
    text = conclusion(result.sel(state=["ft_l"]))
    assert "Undecided" not in text and text.endswith("one by one 3 erased, 1 suppressed.")


def test_a_plain_sentence_says_what_is_left_and_where(result):
    text = plainly(result.assign_coords(state=["won", "ft_l"]).assign_attrs(model="small + lora"), "that it knows")
    left = [_AFTER[i].sum() / _BEFORE[i].sum() for i in (0, 1)]
    assert text.startswith("Corrected on 4 facts that it knows, small still holds of the old values ")
    assert f"old values {left[0]:.0%} [" in text and "] where the new one has just won (masked), " in text
    assert f"{left[1]:.0%} [" in text and text.endswith("] after FT-L (undecided: new does not lead on 1 of 4).")
    unsure = result.assign(trace_before=result.trace_before - [[30.0, 30, -30, -15], [40.0, 40, 40, 40]])
    text = plainly(unsure.assign(took=unsure.took | True), "that it knows")
    assert "[any share] " in text and "an unknown share after FT-L (undecided: not shown to be known before)" in text
    assert "nan" not in text and "inf" not in text
    crossing = result.assign(trace_after=result.trace_before * [[0.0, 0.9, 0.1, 0.8], [0.4, -1.4, 0.2, -0.9]])
    text = plainly(crossing.assign(took=crossing.took | True).assign_attrs(margin_share=0.25), "that it knows")
    assert "(undecided: possibly less than 25%)" in text


@pytest.mark.parametrize("table", [summary, overview])
@pytest.mark.parametrize("missing", ["index", "verdict"])
def test_what_is_no_erase_result_is_refused(table, missing, result):
    with pytest.raises(ReadingError, match=f"needs {missing}, which this reading lacks"):
        table(result.drop_vars(missing))


@pytest.mark.parametrize("table", [summary, overview])
def test_a_table_is_no_reading(table):
    with pytest.raises(ReadingError, match="takes a reading"):
        table(pd.DataFrame({"index": [1.0]}))


@pytest.mark.parametrize("missing", ["trace_before", "shared_error", "n_never", "took", "reason"])
def test_an_overview_without_what_it_is_made_of_is_refused(missing, result):
    with pytest.raises(ReadingError, match=f"The overview needs {missing}, which this reading lacks"):
        overview(result.drop_vars(missing))
