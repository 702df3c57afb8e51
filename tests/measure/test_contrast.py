"""Edited against fine-tuned: AUROC by counting pairs, paired differences, who is left out, first choices."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.contrast import ANY, auroc_of_ways, first_choice, share_led_by_old

EDITED = ["ft", "ft_l"]


@pytest.fixture
def values():
    rng = np.random.default_rng(0)
    array = xr.DataArray(
        rng.normal(size=(4, 2, 9)),
        dims=("way", "statistic", "fact"),
        coords={"way": ["lora", "ft", "full", "ft_l"], "statistic": ["logprob", "trace"]},
    )
    array.loc[{"way": ["lora", "full"], "statistic": "trace"}] += 1.0
    return array


def by_counting(tuned, edited):
    pairs = [(a > b) + 0.5 * (a == b) for a in np.ravel(tuned) for b in np.ravel(edited)]
    return float(np.mean(pairs))


def test_the_auroc_counts_pairs_and_the_difference_is_paired(values):
    found = auroc_of_ways(values, EDITED)
    for statistic in values.statistic.values:
        of = values.sel(statistic=statistic)
        for row, edits in {ANY: EDITED, "ft": ["ft"], "ft_l": ["ft_l"]}.items():
            for column, tunings in {ANY: ["lora", "full"], "lora": ["lora"], "full": ["full"]}.items():
                pair = found.sel(edited=row, tuned=column, statistic=statistic)
                tuned, edited = of.sel(way=tunings), of.sel(way=edits)
                assert float(pair.auroc) == pytest.approx(by_counting(tuned, edited))
                each = (tuned.mean("way") - edited.mean("way")).values
                test = stats.ttest_1samp(each, 0).confidence_interval(0.95)
                ends = (float(pair.difference_low), float(pair.difference_high))
                assert ends == pytest.approx((test.low, test.high)) and int(pair.n) == 9
                assert pair.auroc_low <= pair.auroc <= pair.auroc_high


def test_a_fact_that_a_way_did_not_reach_is_left_out_of_its_pairs_and_of_all(values):
    values.loc[{"way": "full"}][:, 2:5] = np.nan
    found = auroc_of_ways(values, EDITED)
    assert (found.n.sel(edited="ft", tuned="lora") == 9).all() and (found.n.sel(edited="ft", tuned="full") == 6).all()
    assert (found.n.sel(edited=ANY, tuned=ANY) == 6).all()
    kept = values.isel(fact=[0, 1, 5, 6, 7, 8])
    expected = by_counting(kept.sel(way=["lora", "full"], statistic="trace"), kept.sel(way=EDITED, statistic="trace"))
    assert float(found.auroc.sel(edited=ANY, tuned=ANY, statistic="trace")) == pytest.approx(expected)


def test_without_a_pair_there_is_no_number(values):
    found = auroc_of_ways(values.where(values.way != "full"), EDITED).sel(tuned="full")
    assert found.auroc.isnull().all() and found.difference.isnull().all() and (found.n == 0).all()


def test_wholly_apart_has_the_bound_of_as_many_facts(values):
    values.loc[{"way": ["lora", "full"]}] += 100
    pair = auroc_of_ways(values, EDITED).sel(edited="ft", tuned="lora", statistic="trace")
    assert pair.auroc == 1 and float(pair.auroc_low) == pytest.approx(0.025 ** (1 / 9))


@pytest.mark.parametrize("edited", [[], ["lora", "ft", "full", "ft_l"]])
def test_one_kind_alone_is_no_contrast(values, edited):
    with pytest.raises(ReadingError, match="Give one of each"):
        auroc_of_ways(values, edited)


def test_where_old_leads_is_counted_by_probe_and_by_fact():
    led = xr.DataArray(
        [[1, 0, np.nan], [0, 0, 0], [1, 1, 1], [np.nan] * 3],
        dims=("fact", "probe"),
        coords={"fact": ["a", "b", "c", "d"]},
    )
    found = share_led_by_old(led)
    assert float(found.share) == 4 / 8 and int(found.n_probes) == 8
    assert int(found.facts) == 2 and int(found.n) == 3


def test_the_first_choice_leads_all_options_that_there_are():
    score = xr.DataArray(
        [[-1.0, -2.0, np.nan], [-3.0, -2.0, -1.0], [np.nan] * 3],
        dims=("fact", "option"),
        coords={"option": ["old", "new", "distractor_0"]},
    )
    assert first_choice(score).values.tolist() == ["old", "distractor_0", ""]
