"""Claims of the paper: when a run agrees, what is counted, and that a part that was not run says so."""

from __future__ import annotations

import math

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from mechmask.measure.increment import increment
from mechmask.measure.precision import CONTROL, FINEST_FIRST
from mechmask.measure.statistics import Interval
from mechmask.study.findings import CLAIMS, comeback, correlations, edits, limits, masking
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
        ({"below": 3}, (2, 1, 3), "agrees"),
        ({"below": 1}, (2, 1, 3), "undecided"),
        ({"below": 0.9}, (2, 1, 3), "disagrees"),
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


def test_a_correlation_is_within_draws_over_the_facts_of_all():
    """Draws that differ in both numbers at once, the other way round than their facts do."""
    rng = np.random.default_rng(0)
    draws = {}
    for draw in range(5):
        surprise = rng.normal(size=6) - 5 * draw
        table = {"surprise": surprise, "margin": surprise + 20 * draw + rng.normal(size=6)}
        draws[str(draw)] = xr.Dataset(
            {name: ("fact", value) for name, value in table.items()}, {"fact": list("abcdef")}
        )
    found = correlations.correlated(Drawn(surprise=draws), "results/surprise", "surprise", "margin", lambda t: t)
    both = [
        np.concatenate([one[name].values - one[name].values.mean() for one in draws.values()])
        for name in ("surprise", "margin")
    ]
    assert found.interval.estimate == pytest.approx(stats.pearsonr(*both).statistic) and found.interval.estimate > 0.5
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
    found = comeback._sooner(Drawn(recall={"0": table, "1": table}), "novel")
    assert (found.interval.estimate, found.interval.n, found.of) == (
        float(increment_of(table)["shift"]),
        8,
        "facts in 2 draws",
    )
    assert found.note == "4 earlier, 2 later, 2 tied"
    alone = comeback._sooner(Drawn(recall={"0": table}), "novel")
    assert "exact Wilcoxon" in alone.note and alone.of == "facts of one draw"
    assert alone.interval.low == float(increment_of(table).shift_low)


def increment_of(table):
    return increment(table.sel(arm="old_masked", drop=True), table.sel(arm="novel", drop=True))


def test_the_shift_is_over_draws():
    shifts = [4.0, 2.0, 3.0, 1.0, 2.5]
    tables = {str(i): recall_of([1.0] * 8, [1.0 + shift] * 8) for i, shift in enumerate(shifts)}
    found = comeback._sooner(Drawn(recall=tables), "novel").interval
    assert found[:3] == pytest.approx((2.5, *stats.t.interval(0.95, 4, 2.5, stats.sem(shifts))))


def recall_of(first, second):
    steps = np.array([first, second])
    parts = {"steps": (("arm", "fact"), steps), "reached": (("arm", "fact"), steps >= 0)}
    labels = {"arm": ["old_masked", "novel"], "fact": [f"f{i}" for i in range(steps.shape[1])]}
    return xr.Dataset(parts, labels, {"budget_steps": 9})


def ways(margin, chosen="old"):
    """A rebound table of three facts and four probes, with one margin at each of two doses."""
    doses = {"matched": margin, "driven_on": abs(margin)}
    values = np.array([[np.full((3, 4), -1.0), np.full((3, 4), m)] for m in doses.values()])
    first = [["old"], ["old"], ["new"]]
    choice = np.array([[first, [[chosen if m < 0 else "new"]] * 3] for m in doses.values()])
    parts = {"margin": (("dose", "way", "fact", "probe"), values), "choice": (("dose", "way", "fact", "form"), choice)}
    labels = {
        "dose": list(doses),
        "way": ["before", "ft_l"],
        "fact": list("abc"),
        "probe": list("wxyz"),
        "form": ["text"],
    }
    return xr.Dataset(parts, labels)


def test_probes_and_choices_are_counted_at_the_dose_that_the_claim_names_with_draws_as_clusters():
    drawn = Drawn(rebound=dict.fromkeys("012", ways(-1.0)))
    for measure, n in ((edits._rebound, 36), (edits._chosen, 6)):
        matched, driven_on = (measure(drawn, dose=dose).interval for dose in ("matched", "driven_on"))
        assert (matched.estimate, matched.n, driven_on.estimate) == (1, n, 0)
        assert matched.low == pytest.approx(stats.beta.ppf(0.025, 3, 1)), "three draws, not nine facts"
    assert edits._rebound(drawn, dose="matched").note == "old leads at least once on 9 of 9 facts"


def test_the_index_of_edits_and_trainings_is_told_apart_by_draw():
    rng = np.random.default_rng(1)

    def table():
        held = rng.normal(size=(1, 2, 1, 6)) + np.array([0.0, 4.0])[None, :, None, None]
        labels = {"dose": ["matched"], "way": ["ft_l", "lora"], "statistic": ["index"], "fact": list("abcdef")}
        return xr.Dataset({"value": (("dose", "way", "statistic", "fact"), held)}, labels)

    tables = {str(draw): table() for draw in range(5)}
    found = edits._told_apart(Drawn(statistics=tables))
    both = np.concatenate([one.value.values[0, :, 0] for one in tables.values()], axis=1)
    assert found.interval.estimate == pytest.approx(np.mean(both[1][:, None] > both[0]))
    assert found.interval.n == 30 and found.of == "facts in 5 draws"


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_condition_is_chosen_by_how_firmly_values_were_held_and_not_by_its_place(order):
    rng = np.random.default_rng(2)
    prior, slope = np.array([[-6.0], [-1.0]]) + rng.normal(size=(2, 8)), np.array([[1.0], [-1.0]])
    parts = {"prior": (("condition", "fact"), prior), "margin": (("condition", "fact"), slope * prior)}
    table = xr.Dataset(parts, {"condition": ["weak", "firm"], "fact": list("abcdefgh")}).isel(condition=list(order))
    drawn = Drawn(reactance=dict.fromkeys("01234", table))
    least, most = (correlations._resisted(drawn, strongest=strongest) for strongest in (False, True))
    assert least.interval.estimate > 0.99 and least.note.startswith("weak")
    assert most.interval.estimate < -0.99 and most.note.startswith("firm")
    one = correlations._resisted(Drawn(reactance={"0": table.sel(condition=["firm"])}), strongest=False)
    assert one.interval.n == 0 and one.note == "one condition only"


def test_the_strongest_training_and_the_coarsest_type_are_chosen_by_what_they_are():
    drop = xr.DataArray([[10.0] * 3, [25.0] * 3], {"state": ["weak", "strong"], "fact": list("abc")}, ("state", "fact"))
    controls = xr.DataArray([0.0, 20.0], dims="state")
    assert limits._strongest(xr.Dataset({"drop": drop, "index": drop - controls})) == 1
    assert limits._coarsest(xr.Dataset(coords={"state": ["float32", "nf4", "bfloat16"]})) == 1


def test_the_order_of_precisions_is_that_of_their_roundings():
    from mechmask.write.rounding import PRECISIONS

    assert (CONTROL, *PRECISIONS) == FINEST_FIRST


@pytest.mark.parametrize(("n_draws", "said"), [(1, ""), (5, "even none in 5 draws would reach up to 0.52"), (20, "")])
def test_too_few_draws_to_agree_with_none_are_said_to_be(n_draws, said):
    one = erased(["masked"] * 40, [1.0] * 40).assign_coords(
        seed=("fact", np.resize(np.arange(n_draws), 40).astype(str))
    )
    drawn = Drawn(erase=one)
    drawn.studies = dict.fromkeys(range(n_draws))
    assert masking._share_erased("won", drawn).note == said
