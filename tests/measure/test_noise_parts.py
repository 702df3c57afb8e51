"""The parts of the noise on simulated readings, whose parts are known, and what they say of a mean."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from mechmask.errors import ReadingError
from mechmask.measure.noise_parts import expected_of, noise_parts
from mechmask.measure.old_value import geometric_standing
from mechmask.measure.twin_design import TwinDesign

PARTS = {"history": 2.0, "phrasing": 3.0, "distractor": 1.5}
POOLS = ["verbatim", "never", "other_entities"]


def readings(seed=0, n_facts=400, n_phrasings=4, n_distractors=8, pools=POOLS, parts=None, rest=0.7):
    """``[pool, fact, phrasing, route]``: levels of facts, phrasings and distractors that histories share, and noise."""
    parts = parts or PARTS
    rng = np.random.default_rng(seed)
    shape = (len(pools), n_facts, n_phrasings, n_distractors)
    apart = (
        parts["history"] * rng.normal(size=(*shape[:2], 1, 1))
        + parts["phrasing"] * rng.normal(size=(*shape[:3], 1))
        + parts["distractor"] * rng.normal(size=(*shape[:2], 1, n_distractors))
        + rest * rng.normal(size=shape)
        + 5 * rng.normal(size=(1, n_facts, n_phrasings, n_distractors))
    )
    old = rng.normal(size=(*shape[:3], 1)) - 10
    logprob = np.concatenate([old, rng.normal(size=(*shape[:3], 1)), old - apart], axis=-1)
    routes = ["old", "new", *(f"distractor_{i}" for i in range(n_distractors))]
    return xr.DataArray(logprob, {"pool": pools, "route": routes}, ("pool", "fact", "phrasing", "route"))


def test_the_parts_come_out():
    found = noise_parts(readings())
    for name, deviation in PARTS.items():
        assert found[name] == pytest.approx(deviation, abs=0.2)


def test_they_say_how_far_apart_two_histories_read_a_fact():
    """By the other way: the standard deviation of the mean itself, for three designs of phrasings and distractors."""
    found = noise_parts(readings(seed=1))
    for n_phrasings, n_distractors in ((4, 8), (2, 8), (8, 2)):
        new = readings(seed=2, n_phrasings=n_phrasings, n_distractors=n_distractors, n_facts=3000)
        measured = float(np.sqrt(geometric_standing(new).mean("phrasing").var("pool", ddof=1).mean()))
        squares = found["history"] ** 2, found["phrasing"] ** 2 / n_phrasings, found["distractor"] ** 2 / n_distractors
        assert np.sqrt(sum(squares)) == pytest.approx(measured, rel=0.08)


def test_a_phrasing_or_a_distractor_that_a_fact_lacks_is_left_out():
    whole = readings(n_facts=20)
    lacking = whole.copy()
    lacking[:, 3, 3, :] = np.nan
    lacking[:, 5, :, -1] = np.nan
    expected = noise_parts(whole.isel(phrasing=slice(3), route=slice(-1)))
    assert noise_parts(lacking) == pytest.approx(expected)


def test_what_chance_makes_negative_is_none():
    quiet = noise_parts(readings(parts={"history": 0.0, "phrasing": 0.0, "distractor": 0.0}, n_facts=3, seed=4))
    assert min(quiet.values()) >= 0
    assert max(quiet.values()) < 0.6


def draw(seed, trace=20.0, spread=8.0, n=60):
    logprob = readings(seed, n_facts=n + 2)
    before = readings(seed + 100, n_facts=n + 2)
    known = np.random.default_rng(seed).normal(trace, spread, n + 2)[:, None]
    before.loc["verbatim", :, :, "old"] += known
    both = xr.concat([before, logprob], xr.DataArray([0, 10], dims="step", name="step"))
    both = both.assign_coords(
        fact=[f"f{i}" for i in range(n + 2)], role=("fact", ["contradicted"] * n + ["control"] * 2)
    )
    return both.transpose("pool", "step", "fact", "phrasing", "route").to_dataset(name="logprob")


def test_what_is_expected_of_twins():
    found = expected_of([draw(seed) for seed in range(6)])
    assert found.trace_before == pytest.approx(20, abs=1.5)
    assert found.spread == pytest.approx(8, abs=1)
    for name, deviation in PARTS.items():
        assert getattr(found, f"noise_{name}") == pytest.approx(deviation, abs=0.3)
    noise = np.sqrt(4 + 9 / 4 + 2.25 / 8 + 0.49 / 32)
    assert found.noise(TwinDesign(phrasings=4, distractors=8)) == pytest.approx(noise, rel=0.08)


def test_a_shift_that_all_facts_of_a_history_share_is_no_spread_and_hides_none():
    shifted = [draw(seed) for seed in range(6)]
    for i, doses in enumerate(shifted):
        doses.logprob.loc[{"pool": "other_entities", "route": "old", "step": 0}] += (-12.0, 9.0)[i % 2]
    plain = expected_of([draw(seed) for seed in range(6)])
    assert plain and (found := expected_of(shifted))
    assert found.spread == pytest.approx(plain.spread)


def test_where_nothing_was_told_nothing_is_expected():
    assert expected_of([draw(seed, trace=-5.0) for seed in range(2)]) is None


def test_one_of_a_kind_says_nothing_of_its_noise():
    for few in ({"pools": ["never"]}, {"n_phrasings": 1}, {"n_distractors": 1}):
        with pytest.raises(ReadingError, match="two histories, phrasings and distractors"):
            noise_parts(readings(n_facts=5, **few))
    with pytest.raises(ReadingError, match="needs the pool 'other_entities'"):
        expected_of([draw(0).sel(pool=["verbatim", "never"])])
