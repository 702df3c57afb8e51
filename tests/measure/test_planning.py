"""Planning: counts are the smallest that are enough, tables are the functions, sentences say the numbers."""

from __future__ import annotations

import numpy as np
import pytest

from mechmask.errors import ReadingError
from mechmask.measure.planning import counts_needed, facts_needed, power_conclusion, power_table, replicates_needed
from mechmask.measure.power import fact_power, group_power
from mechmask.measure.twin_design import Expected, TwinDesign


@pytest.mark.parametrize("share", [1.0, 0.6, 0.1, 0.0, -0.5])
def test_it_is_the_smallest_number_of_facts_that_is_enough(share):
    n = facts_needed(share, 0.9)
    assert n is not None
    assert group_power(share, TwinDesign(facts=n)).right >= 0.9
    assert n == 2 or group_power(share, TwinDesign(facts=n - 1)).right < 0.9


@pytest.mark.parametrize("share", [1.0, 0.0])
def test_it_is_the_smallest_number_of_replicates_that_is_enough(share):
    n = replicates_needed(share, 0.8)
    assert n is not None
    assert fact_power(share, TwinDesign(replicates=n)).right >= 0.8
    assert n == 1 or fact_power(share, TwinDesign(replicates=n - 1)).right < 0.8


def test_what_nothing_reaches_is_none():
    assert facts_needed(0.25) is None, "a share on the margin is wrong and right alike"
    assert replicates_needed(0.0, expected=Expected(trace_before=1.0, spread=20.0)) is None, "half have no trace"


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0, float("nan")])
def test_a_power_that_is_none_is_refused(power):
    with pytest.raises(ReadingError, match="between 0 and 1"):
        facts_needed(0.0, power)


def test_the_table_holds_what_the_functions_say():
    expected = Expected(noise_history=3.0)
    table = power_table({"facts": (6,), "twins": (2, 3)}, expected, shares=(1.0, 0.0))
    assert len(table) == 4 and list(table.columns[:3]) == ["facts", "twins", "share"]
    for row in table.to_dict("records"):
        design = TwinDesign(facts=row["facts"], twins=row["twins"])
        assert row["fact_erased"] == fact_power(row["share"], design, expected).erased
        assert row["group_wrong"] == group_power(row["share"], design, expected).wrong
        assert (row["error_nats"], row["freedom"]) == (expected.error(design), design.freedom)
        assert row["facts_needed"] == facts_needed(row["share"], 0.95, design, expected)
    assert np.isnan(power_table(shares=(0.25,)).facts_needed).all()


@pytest.mark.parametrize("of", ["facts", "twins", "replicates", "phrasings", "distractors"])
def test_the_fewest_of_each_are_enough_and_one_less_is_not(of):
    """With noise that phrasings and distractors average out, so that enough of either decide."""
    design = TwinDesign(facts=12, phrasings=4, distractors=8)
    noise = {"noise_phrasing": 1.0, "noise_distractor": 6.0} if of == "distractors" else {"noise_phrasing": 4.0}
    expected = Expected(**{"noise_history": 0.3, "noise_distractor": 1.0, "spread": 1.0, **noise})
    needed = counts_needed(design, expected).loc[of]
    assert needed.planned == getattr(design, of)
    for column, power_of, power in (("for_groups", group_power, 0.95), ("for_facts", fact_power, 0.80)):
        if np.isnan(needed[column]):
            continue
        n = int(needed[column])

        def worst(count, power_of=power_of):
            changed = design.model_copy(update={of: count})
            return min(power_of(share, changed, expected).right for share in (1.0, 0.0))

        assert worst(n) >= power and (n <= 2 or worst(n - 1) < power)
    both = counts_needed(design, expected)
    assert both.for_groups.loc["facts"] == max(facts_needed(share, 0.95, design, expected) for share in (1.0, 0.0))
    assert both.for_facts.notna().loc[["replicates", of if of in ("phrasings", "distractors") else "replicates"]].all()


def test_there_are_never_more_twins_than_facts():
    needed = counts_needed(TwinDesign(facts=3)).loc["twins"]
    assert needed.isna()[["for_groups", "for_facts"]].all()
    assert counts_needed().loc["twins", "for_groups"] <= 12


def test_a_grid_of_what_no_design_has_is_refused():
    with pytest.raises(ReadingError, match="'fact' is not known"):
        power_table({"fact": (6,)})


def test_the_sentence_says_the_numbers():
    design, expected = TwinDesign(facts=12), Expected()
    said = power_conclusion(design, expected)
    assert "With 12 facts in 2 twins and 1 replicate" in said
    assert f"masked in {fact_power(1.0).right:.0%} " in said and f"erased in {fact_power(0.0).right:.0%} " in said
    most = max(facts_needed(1.0) or 0, facts_needed(0.0) or 0)
    assert f"in 95% of groups {most} facts." in said
    assert "noise is not known" in power_conclusion(TwinDesign(never=0))
    assert "more than 10000 replicates" in power_conclusion(expected=Expected(trace_before=1.0, spread=20.0))
