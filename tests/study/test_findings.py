"""Claims of the paper: when a run agrees, what is counted, and that a part that was not run says so."""

from __future__ import annotations

import math

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from mechmask.measure.statistics import Interval
from mechmask.study.findings import CLAIMS, comeback, correlations, edits, masking
from mechmask.study.findings.finding import Claim, Finding, Measured, findings_of, findings_table


def claim(**region):
    return Claim(
        *(1, "twins", "taught", "it is so", "4 of 5", "a number", "nats"), lambda _: Measured(NUMBER, "facts"), **region
    )


NUMBER = Interval(2.0, 1.0, 3.0, 6)


@pytest.mark.parametrize(
    ("region", "interval", "verdict"),
    [
        ({"above": 0}, (2, 1, 3), "agrees"),
        ({"above": 1}, (2, 1, 3), "undecided"),
        ({"above": 3}, (2, 1, 3), "disagrees"),
        ({"below": 3.5}, (2, 1, 3), "agrees"),
        ({"below": 2}, (2, 1, 3), "undecided"),
        ({"below": 1}, (2, 1, 3), "disagrees"),
        ({"above": 0.5, "below": 2.5}, (2, 1, 3), "undecided"),
        ({"above": 0.5, "below": 4}, (2, 1, 3), "agrees"),
        ({"above": 0}, (2, math.nan, math.nan), "undecided"),
        ({"below": 3}, (2, -math.inf, math.inf), "undecided"),
        ({"above": 0}, (0, 0, 0), "disagrees"),
    ],
)
def test_an_interval_agrees_disagrees_or_does_neither(region, interval, verdict):
    assert Finding(claim(**region), Measured(Interval(*map(float, interval), 6), "facts")).verdict == verdict


def test_a_part_that_was_not_run_is_not_judged():
    (found,) = findings_of([claim(above=0)], {})
    assert (found.measured, found.verdict) == (None, "not run")
    row = findings_table([found]).iloc[0]
    assert (row["n"], row["verdict"], row["agrees if"]) == (0, "not run", "above 0")
    assert math.isnan(row["estimate"])


def test_each_claim_has_a_region_and_all_findings_have_claims():
    assert {one.finding for one in CLAIMS} == {1, 2, 3, 4, 5, 6}
    assert all(one.region for one in CLAIMS)
    assert len({(one.part, one.facts, one.says, one.quantity) for one in CLAIMS}) == len(CLAIMS)


class Drawn:
    """The results of draws, as a dictionary has them."""

    def __init__(self, **tables):
        self._tables = tables

    def each(self, name):
        return self._tables[name.removeprefix("results/")]

    @property
    def erase(self):
        return self._tables["erase"]


def erased(verdicts, index, took=True):
    n = len(index)
    values = {"index": index, "paper_verdict": verdicts, "took": [took] * n}
    facts = xr.Dataset({name: (("state", "fact"), [value]) for name, value in values.items()})
    return facts.assign_coords(state=["won"], seed=("fact", ["0"] * (n // 2) + ["1"] * (n - n // 2)))


def test_none_of_many_carries_its_exact_bound_and_the_mean_index_is_over_draws():
    drawn = Drawn(erase=erased(["masked"] * 12, [1.0] * 6 + [2.0] * 6))
    of_one = Drawn(erase=drawn.erase.assign_coords(seed=("fact", ["0"] * 12)))
    for results, units, of in ((of_one, 12, "facts of one draw"), (drawn, 2, "facts in 2 draws")):
        share = masking.at_state(masking._erased, "won", results)
        assert (share.interval.estimate, share.interval.n, share.of) == (0, 12, of)
        assert share.interval.high == pytest.approx(stats.beta.ppf(0.975, 1, units)), "draws are the units, not facts"
    mean = masking.at_state(masking.mean_index, "won", drawn).interval
    expected = stats.t.interval(0.95, 1, loc=1.5, scale=stats.sem([1.0, 2.0]))
    assert (mean.low, mean.high) == pytest.approx(expected)
    untaken = Drawn(erase=erased(["masked"] * 12, [1.0] * 12, took=False))
    found = masking.at_state(masking.mean_index, "won", untaken)
    assert math.isnan(found.interval.low) and found.note == "new leads on 0 of 12 facts only"


def test_a_correlation_is_over_the_facts_of_all_draws():
    rng = np.random.default_rng(0)
    draws = {}
    for draw in range(5):
        surprise = rng.normal(size=6)
        table = {"surprise": surprise, "margin": surprise + rng.normal(size=6)}
        draws[str(draw)] = xr.Dataset(
            {name: ("fact", value) for name, value in table.items()}, {"fact": list("abcdef")}
        )
    found = correlations.correlated(Drawn(surprise=draws), "results/surprise", "surprise", "margin", lambda t: t)
    both = [np.concatenate([one[name].values for one in draws.values()]) for name in ("surprise", "margin")]
    assert found.interval.estimate == pytest.approx(stats.pearsonr(*both).statistic)
    assert found.interval.n == 30 and found.interval.low < found.interval.estimate < found.interval.high


def test_who_recalls_first_is_counted_by_fact_and_ties_say_nothing():
    budget = {"budget_steps": 9}
    table = xr.Dataset(
        {
            "steps": (("arm", "fact"), [[1.0, 2, 3, 8], [4.0, 2, 2, 9]]),
            "reached": (("arm", "fact"), [[True, True, True, True], [True, True, True, False]]),
        },
        {"arm": ["old_masked", "novel"], "fact": list("abcd")},
        budget,
    )
    found = comeback._earlier(Drawn(recall={"0": table, "1": table}), "novel")
    assert ("exact Wilcoxon" in found.note and "4 earlier, 2 later, 2 tied" in found.note) or "2 earlier" in found.note
    assert found.interval.estimate == pytest.approx(found.interval.n and found.interval.estimate)
    assert found.of == "facts in 2 draws"


def test_probes_on_which_old_is_back_are_counted_over_all_draws():
    margin = np.full((1, 1, 3, 4), 1.0)
    margin[0, 0, 0, :2] = -1
    table = xr.Dataset(
        {"margin": (("dose", "way", "fact", "probe"), margin)},
        {"dose": ["matched"], "way": ["ft_l"], "fact": list("abc"), "probe": list("wxyz")},
    )
    found = edits._rebound(Drawn(rebound={"0": table, "1": table}), "ft_l")
    assert (found.interval.estimate, found.interval.n) == (pytest.approx(2 / 12), 24)
    assert found.note == "old leads at least once on 2 of 6 facts"
