"""Error rates on constructed pools, where a perfect eraser and a model that was left alone are what they are called."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from mechmask.measure.error_rates import error_rates, verdicts_of_draw

POOLS = ["verbatim", "paraphrased", "biography", "never", "other_values", "other_entities"]
GAIN = dict(zip(POOLS, (20.0, 20.0, 20.0, 0.0, 0.0, 0.0), strict=True))


def draw(seed, kept=0.5, noise=1.0, n=8):
    """What is told stands 20 nats higher, and ``kept`` of that after the contradiction."""
    rng = np.random.default_rng(seed)
    level = rng.normal(0, 5, n)

    def reading(shares):
        gain = np.array([[GAIN[pool] * share for share in shares] for pool in POOLS])[..., None]
        old = gain + level + rng.normal(0, noise, (len(POOLS), len(shares), n))
        logprob = np.full((*old.shape, 2, 4), -30.0)
        logprob[..., 0] += old[..., None]
        logprob[..., 1] = np.where(np.arange(len(shares)) > 0, 0.0, -30.0)[:, None, None]  # a contradiction takes
        coords = {
            "pool": POOLS,
            "step": np.arange(len(shares)),
            "fact": [f"f{i}" for i in range(n)],
            "route": ["old", "new", "distractor_0", "distractor_1"],
            "role": ("fact", ["contradicted"] * n),
        }
        return xr.Dataset({"logprob": (("pool", "step", "fact", "phrasing", "route"), logprob)}, coords)

    return reading([1.0, (1 + kept) / 2, kept]), reading([1.0]).isel(step=0, drop=True)


def at(table, unit, case, dose=2):
    return table.loc[(unit, case, dose)]


def rates(kept, n_draws=10, **options):
    verdicts = [verdicts_of_draw(*draw(seed, kept), knowing=POOLS[:3], **options) for seed in range(n_draws)]
    return error_rates(pd.concat(verdicts))


def test_the_truth_is_found_where_it_is_known():
    table = rates(kept=0.9)
    assert at(table, "fact", "left alone")["masked"] > 0.99
    assert at(table, "fact", "left alone")["erased"] == 0
    assert at(table, "fact", "perfectly erased")["erased"] > 0.95
    assert at(table, "fact", "perfectly erased")["masked"] == 0
    assert at(table, "group", "perfectly erased")["erased"] == 1
    assert (table.loc[[("fact", pool, 2) for pool in POOLS[:3]], "masked"] > 0.99).all()
    assert {n for n in table.loc["fact", "n"]} == {80}  # facts, each once at each dose


def test_facts_that_were_edited_are_judged_beside():
    """Here the edit took all of it, so that every pool is judged as what never knew."""
    for seed in range(3):
        doses, alone = draw(seed, kept=0.9)
        gone = draw(seed, kept=0.0)[0].isel(step=-1, drop=True)
        verdicts = verdicts_of_draw(doses, alone, gone, knowing=POOLS[:3])
        edited = verdicts[verdicts["case"].str.endswith(", edited") & (verdicts["unit"] == "group")]
        assert dict(zip(edited["case"], edited["verdict"], strict=True)) == dict.fromkeys(
            ("perfectly erased, edited", *(f"{pool}, edited" for pool in POOLS[:3])), "erased"
        )
        without = verdicts_of_draw(doses, alone, knowing=POOLS[:3])
        pd.testing.assert_frame_equal(verdicts.iloc[: len(without)], without)


def test_what_did_not_take_is_not_judged():
    doses, alone = draw(0, kept=0.9)
    doses.logprob.loc[{"pool": "verbatim", "step": 2, "fact": "f1", "route": "new"}] = -40.0
    verdicts = verdicts_of_draw(doses, alone, knowing=POOLS[:3]).set_index(["case", "dose", "unit"])
    assert verdicts.loc[("verbatim", 2, "f1"), "reason"] == "did_not_take"
    assert verdicts.loc[("verbatim", 2, "group"), "reason"] == "did_not_take"
    assert verdicts.loc[("verbatim", 1, "group"), "verdict"] == "masked"
    assert verdicts.loc[("verbatim", 2, "f2"), "verdict"] == "masked"
    assert verdicts.loc[("left alone", 2, "f1"), "verdict"] == "masked"  # nothing was to take


def test_on_the_margin_each_verdict_is_wrong_as_often_as_it_may_be():
    """A quarter is left, which is the margin: masked and erased are both wrong and fall in at most 5% each."""
    verdicts = pd.concat([verdicts_of_draw(*draw(s, 0.25), knowing=POOLS[:3]) for s in range(30)])
    there = verdicts[(verdicts["dose"] == 2) & (verdicts["case"].isin(POOLS[:3])) & (verdicts["unit"] != "group")]
    for verdict in ("masked", "erased"):
        share = (there["verdict"] == verdict).mean()
        assert 0.01 < share < 0.09, verdict


def test_every_share_has_its_exact_interval():
    table = rates(kept=0.5, n_draws=3)
    shares = table[["masked", "erased", "suppressed", "undecided"]]
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert (table["masked_low"] <= table["masked"]).all() and (table["masked"] <= table["masked_high"]).all()
    assert at(table, "group", "left alone")["n"] == 3


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_a_looser_rate_decides_more(alpha):
    decided = 1 - rates(kept=0.3, alpha=alpha, n_draws=6).loc[("fact", "verbatim", 2), "undecided"]
    strict = 1 - rates(kept=0.3, alpha=0.01, n_draws=6).loc[("fact", "verbatim", 2), "undecided"]
    assert decided > strict
