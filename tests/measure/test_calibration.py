"""Discrimination of pools on constructed readings, whose truth and separation are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from mechmask.errors import ReadingError
from mechmask.measure.calibration import (
    PREFERENCE,
    chosen_statistic,
    discrimination,
    inner_scores,
    pool_scores,
    rows_with,
    savings_agreement,
    savings_scores,
    steps_until_said,
)
from mechmask.measure.old_value import IN_NATS

POOLS = ["verbatim", "biography", "never", "other_values"]
ROUTES = ["old", "new", *(f"distractor_{i}" for i in range(4))]


def doses(seed=0, gain=(8.0, 4.0, 0.0, 0.0), n=6, noise=1.0):
    """Old stands ``gain`` nats higher in each pool, whatever the dose; a fact has a level of its own."""
    rng = np.random.default_rng(seed)
    logprob = rng.normal(-12, noise, (4, 3, n + 2, 4, len(ROUTES)))
    logprob[..., 0] += np.array(gain)[:, None, None, None] + rng.normal(0, 5, n + 2)[:, None]
    coords = {
        "pool": POOLS,
        "step": [0, 7, 14],
        "fact": [f"f{i}" for i in range(n + 2)],
        "route": ROUTES,
        "role": ("fact", ["contradicted"] * n + ["control"] * 2),
    }
    return xr.Dataset({"logprob": (("pool", "step", "fact", "phrasing", "route"), logprob)}, coords)


def scores(n_draws=4, **options):
    draws = [
        pool_scores(doses(seed, **options), seed=seed, knowing=POOLS[:2], taught_phrasings=2) for seed in range(n_draws)
    ]
    return pd.concat(draws)


@pytest.fixture(scope="module")
def table():
    return scores()


def row(frame, **labels):
    for name, value in labels.items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1
    return frame.iloc[0]


def test_scores_by_hand(table):
    reading = doses(1).logprob.sel(pool="biography", step=14, fact="f3").values
    never = doses(1).logprob.sel(pool="never", step=14, fact="f3").values

    def geometric(values):
        return np.mean([r[0] - np.mean(r[2:]) for r in values])

    labels = {"seed": 1, "pool": "biography", "dose": 2, "fact": "f3", "statistic": "geometric_standing"}
    assert row(table, **labels, phrasings="all", reference="none")["value"] == pytest.approx(geometric(reading))
    untaught = geometric(reading[2:]) - geometric(never[2:])
    assert row(table, **labels, phrasings="untaught", reference="never")["value"] == pytest.approx(untaught)
    assert bool(row(table, **labels, phrasings="all", reference="none")["knows"])


def test_controls_do_not_count_and_the_reference_is_not_held_against_itself(table):
    assert set(table["fact"]) == {f"f{i}" for i in range(6)}
    assert "never" not in set(table.loc[table["reference"] == "never", "pool"])
    assert not table.loc[table["pool"].isin(POOLS[2:]), "knows"].any()


def test_auroc_is_the_share_of_pairs_in_order(table):
    found = discrimination(table)
    labels = {"statistic": "log_odds", "reference": "none", "phrasings": "prompt", "dose": 1}
    some = table
    for name, value in labels.items():
        some = some[some[name] == value]
    known = some.loc[some["pool"] == "biography", "value"].to_numpy()
    never = some.loc[~some["knows"], "value"].to_numpy()
    pairs = np.mean(known[:, None] > never[None])
    assert row(found, **labels, known="biography")["auroc"] == pytest.approx(pairs)
    assert row(found, **labels, known="biography")["n"] == len(known) + len(never)


def test_pairing_takes_away_what_facts_differ_in(table):
    labels = {"statistic": "geometric_standing", "phrasings": "all", "dose": 1, "known": "biography"}
    found = discrimination(table)
    assert row(found, reference="never", **labels)["auroc"] > 0.99
    assert row(found, reference="none", **labels)["auroc"] < 0.9


def test_by_model_facts_are_averaged(table):
    found = discrimination(table, unit="model")
    labels = {"statistic": "geometric_standing", "reference": "never", "phrasings": "all", "dose": 1, "known": "any"}
    assert row(found, **labels)["n"] == 4 * 3
    assert row(found, **labels)["auroc"] == 1


def test_without_a_difference_the_interval_holds_a_half():
    found = discrimination(scores(n_draws=6, gain=(0.0, 0.0, 0.0, 0.0)))
    known = row(found, statistic="geometric_standing", reference="never", phrasings="all", dose=1, known="any")
    assert known["low"] < 0.5 < known["high"]


def _frame(**overlaps):
    """Scores at dose 1 of which so many pairs in a hundred are out of order; dose 0 and unpaired ones say otherwise."""
    rows = []
    for name in PREFERENCE:
        wrong = overlaps.get(name, 50)
        for i in range(100):
            labels = ("never", "all", name)
            rows += [
                (*labels, 1, "biography", True, i),
                (*labels, 1, "other_values", False, -1 if i >= wrong else 1000),
            ]
            rows += [(*labels, 0, "biography", True, wrong), (*labels, 0, "other_values", False, 50)]
            rows += [("none", "all", name, 1, "biography", True, wrong), ("none", "all", name, 1, "never", False, 50)]
    columns = ["reference", "phrasings", "statistic", "dose", "pool", "knows", "value"]
    return pd.DataFrame(rows, columns=columns).assign(treatment="contradicted")


def test_the_rule_takes_the_best_and_of_equals_the_first():
    assert chosen_statistic(_frame(log_odds=10, geometric_standing=15)) == "log_odds"
    assert chosen_statistic(_frame(log_odds=10, geometric_standing=10)) == "geometric_standing"
    assert chosen_statistic(_frame(log_odds=10, geometric_standing=15), tolerance=0.06) == "geometric_standing"
    assert set(PREFERENCE) == set(IN_NATS)


def test_the_rule_looks_at_contradicted_models_and_at_the_reference_that_it_is_asked_for():
    edited = _frame(logprob=0).assign(treatment="edited")
    assert chosen_statistic(pd.concat([_frame(log_odds=10, geometric_standing=15), edited])) == "log_odds"
    swapped = _frame(standing=0).replace({"reference": {"never": "none", "none": "never"}})
    assert chosen_statistic(swapped, reference="none") == "standing"


def test_the_index_by_hand(table):
    reading = doses(2).logprob.sel(pool="verbatim", route="old").isel(phrasing=slice(0, 2)).mean("phrasing")
    fall = reading.sel(step=0) - reading.sel(step=14)
    expected = fall.isel(fact=slice(6, 8)).mean() - fall.sel(fact="f4")
    labels = {"seed": 2, "pool": "verbatim", "dose": 2, "fact": "f4", "statistic": "erase_index"}
    assert row(table, **labels, phrasings="taught", reference="none")["value"] == pytest.approx(float(expected))
    alone = pool_scores(doses(2).isel(fact=slice(6)), seed=2, knowing=POOLS[:2], taught_phrasings=2)
    assert "erase_index" not in set(alone["statistic"])  # without a control there is none


def relearned(n_facts=6, **first):
    """Old is said again at the given step in each pool, and never by the facts of the others."""
    recalled = np.zeros((4, 5, n_facts, 2), dtype=bool)
    for pool, step in first.items():
        recalled[POOLS.index(pool), step // 2 :, :, 0] = True
    coords = {
        "pool": POOLS,
        "step": [0, 2, 4, 6, 8],
        "fact": [f"f{i}" for i in range(n_facts)],
        "route": ["old", "new"],
    }
    return xr.Dataset({"recalled": (("pool", "step", "fact", "route"), recalled)}, coords)


def test_savings_are_a_candidate_and_agree_with_what_is_left():
    about = {"knowing": POOLS[:2]}
    saved = [savings_scores(relearned(verbatim=2, biography=6), seed=seed, dose=2, **about) for seed in range(4)]
    one = saved[0]
    assert row(one, pool="biography", fact="f0", reference="none")["value"] == -6
    assert row(one, pool="other_values", fact="f0", reference="none")["value"] == -9  # not said: behind all that are
    assert row(one, pool="verbatim", fact="f0", reference="never")["value"] == 7
    found = savings_agreement(pd.concat([scores(4, gain=(24.0, 12.0, 0.0, 0.0)), *saved]))
    assert found["geometric_standing"].estimate > 0.7
    assert found["geometric_standing"].n == 4 * 4 * 6 and found["geometric_standing"].n_clusters == 4
    assert "savings" not in found


def test_candidates_below_the_output():
    values = np.arange(2 * 4 * 3, dtype=float).reshape(2, 4, 3)
    probe = np.where(np.arange(2)[:, None, None] == 1, np.nan, values)
    depth = xr.Dataset(
        {
            "depth_score": (("treatment", "pool", "fact"), values),
            "linear_probe": (("treatment", "pool", "fact"), probe),
        },
        {"treatment": ["contradicted", "edited"], "pool": POOLS, "fact": ["a", "b", "c"]},
    )
    found = inner_scores(depth, seed=3, knowing=POOLS[:2], dose=2)
    labels = {"pool": "biography", "fact": "b", "phrasings": "prompt"}
    first = row(found, treatment="contradicted", statistic="depth_score", reference="none", **labels)
    assert (first["value"], first["dose"], first["seed"], bool(first["knows"])) == (4, 2, 3, True)
    paired = row(found, treatment="edited", statistic="depth_score", reference="never", **labels)
    assert (paired["value"], paired["dose"]) == (-3, 1)
    assert not len(rows_with(found, treatment="edited", statistic="linear_probe"))


def test_savings():
    recalled = np.zeros((2, 3, 2, 2), dtype=bool)
    recalled[0, 1:, 0, 0] = True
    recalled[1, 2, 1, 0] = True
    recalled[1, :, 0, 1] = True  # of new, which does not count
    reading = xr.Dataset(
        {"recalled": (("pool", "step", "fact", "route"), recalled)}, {"step": [0, 2, 4], "route": ["old", "new"]}
    )
    assert steps_until_said(reading).values.tolist() == [[2, np.inf], [np.inf, 4]]
    assert steps_until_said(reading.where(reading.step < 3)).values.tolist() == [[2, np.inf], [np.inf, np.inf]]


def test_what_is_no_calibration_is_refused():
    with pytest.raises(ReadingError, match="needs the pool 'never'"):
        pool_scores(doses().sel(pool=["verbatim"]), seed=0, knowing=["verbatim"], taught_phrasings=2)
    with pytest.raises(ReadingError, match="No unit"):
        discrimination(scores(1), unit="facts")
