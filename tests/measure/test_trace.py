"""Traces against plain numpy, and their intervals by simulation where the truth is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.trace import matched_trace, shared_trace, twin_trace

ROUTES = ["old", "new", "distractor_0", "distractor_1"]


def logprob(values, dims, facts):
    """Readings whose geometric standing is ``values``."""
    table = np.full((*np.shape(values), len(ROUTES)), -10.0)
    table[..., 0] += values
    return xr.DataArray(table, {"fact": facts, "route": ROUTES}, (*dims, "route"))


def crossover(n=6, n_twins=2, n_never=4, trace=10.0, noise=2.0, seed=0):
    """Each twin is taught one share of the facts; the last ones none is taught."""
    rng = np.random.default_rng(seed)
    facts = [f"f{i}" for i in range(n + n_never)]
    knew = np.zeros((n_twins, n + n_never), dtype=bool)
    knew[np.arange(n) % n_twins, np.arange(n)] = True
    values = rng.normal(0, 5, n + n_never) + rng.normal(0, noise, knew.shape) + trace * knew
    return logprob(values, ("twin", "fact"), facts), xr.DataArray(knew, dims=("twin", "fact")), values


@pytest.mark.parametrize("n_twins", [2, 3])
@pytest.mark.parametrize("n_never", [0, 4])
def test_twins_by_hand(n_twins, n_never):
    reading, knew, values = crossover(n_twins=n_twins, n_never=n_never)
    found = twin_trace(reading, knew, level=0.9)
    assert list(found.fact.values) == [f"f{i}" for i in range(6)]
    squares, freedom = 0.0, 0
    for column, known in zip(values.T, knew.values.T, strict=True):
        never = column[~known]
        squares += ((never - never.mean()) ** 2).sum()
        freedom += len(never) - 1
    noise = math.sqrt(squares / freedom) if freedom else math.nan
    assert int(found.freedom) == freedom
    np.testing.assert_allclose(found.noise, noise)
    for i in range(6):
        known = knew.values[:, i]
        trace = values[known, i].mean() - values[~known, i].mean()
        error = noise * math.sqrt(1 / known.sum() + 1 / (~known).sum())
        half = stats.t.ppf(0.95, freedom) * error if freedom else math.nan
        row = [float(found[name][i]) for name in ("trace", "error", "low", "high")]
        np.testing.assert_allclose(row, [trace, error, trace - half, trace + half])


def test_replicates_are_twins_that_were_taught_alike():
    first, knew, _ = crossover()
    both = xr.concat([first, first + 1.0], "twin")
    found = twin_trace(both, xr.concat([knew, knew], "twin"))
    assert set(found.n_knew.values) == {2} == set(found.n_never.values)
    np.testing.assert_allclose(found.trace, twin_trace(first, knew).trace)


@pytest.mark.parametrize("noise_of_known", [2.0, 1.0])
def test_coverage_of_twins(noise_of_known):
    """The interval of one fact's trace with three twins, four never facts and normal noise: at its level or above."""
    rng = np.random.default_rng(1)
    hits = []
    for _ in range(400):
        reading, knew, _ = crossover(n_twins=3, noise=0.0, seed=2)
        noise = np.where(knew, noise_of_known, 2.0) * rng.normal(size=knew.shape)
        found = twin_trace(
            reading + xr.DataArray(noise, dims=("twin", "fact")) * (reading.route == "old"), knew, level=0.9
        )
        hits += ((found.low <= 10) & (found.high >= 10)).values.tolist()
    bound = 3 * math.sqrt(0.09 / 400)  # facts of one simulation share their noise estimate
    assert np.mean(hits) > 0.9 - bound
    assert noise_of_known < 2 or np.mean(hits) < 0.9 + bound


@pytest.mark.parametrize(("n_twins", "n_never"), [(2, 4), (2, 12), (3, 4)])
def test_coverage_of_few_twins(n_twins, n_never):
    rng, hits = np.random.default_rng(3), []
    reading, knew, _ = crossover(n_twins=n_twins, noise=0.0, n_never=n_never, seed=2)
    for _ in range(150):
        noise = xr.DataArray(2 * rng.normal(size=knew.shape), dims=("twin", "fact"))
        found = twin_trace(reading + noise * (reading.route == "old"), knew, level=0.9)
        hits.append(((found.low <= 10) & (found.high >= 10)).values.mean())
    assert np.mean(hits) == pytest.approx(0.9, abs=0.04)


@pytest.mark.parametrize(("n", "k"), [(6, 2), (8, 2), (12, 3)])
def test_coverage_of_pseudo_subjects(n, k):
    """Facts as odd beside each other as their pseudo-subjects are: the interval of one fact's trace."""
    facts = [f"f{i}" for i in range(n)] + [f"p{i}.{j}" for i in range(n) for j in range(k)]
    owner = xr.DataArray([""] * n + [f"f{i}" for i in range(n) for _ in range(k)], {"fact": facts}, ("fact",))
    rng, hits = np.random.default_rng(4), []
    for _ in range(150):
        values = np.concatenate([rng.normal(9, 2, n), rng.normal(0, 2, n * k)])
        found = matched_trace(logprob(values, ("fact",), facts), owner, level=0.9)
        hits.append(((found.low <= 9) & (found.high >= 9)).values.mean())
    assert np.mean(hits) == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize(("n", "n_never"), [(6, 6), (8, 12)])
def test_coverage_of_a_shared_reference(n, n_never):
    facts = [f"f{i}" for i in range(n + n_never)]
    never = xr.DataArray([False] * n + [True] * n_never, {"fact": facts}, ("fact",))
    rng, hits = np.random.default_rng(5), []
    for _ in range(150):
        values = np.concatenate([rng.normal(9, 2, n), rng.normal(0, 2, n_never)])
        found = shared_trace(logprob(values, ("fact",), facts), never, level=0.9)
        hits.append(((found.low <= 9) & (found.high >= 9)).values.mean())
    assert np.mean(hits) == pytest.approx(0.9, abs=0.04)


def test_without_a_second_reading_of_a_never_known_fact_the_noise_is_not_known():
    reading, knew, _ = crossover(n_twins=2, n_never=0)
    found = twin_trace(reading, knew)
    assert int(found.freedom) == 0
    assert np.isnan(found.noise) and np.isnan(found.error).all() and np.isfinite(found.trace).all()


def test_what_every_twin_was_taught_has_no_trace():
    reading, knew, _ = crossover()
    with pytest.raises(ReadingError, match="no trace"):
        twin_trace(reading, xr.ones_like(knew))


def matched(n=4, k=3, seed=0):
    rng = np.random.default_rng(seed)
    facts = [f"f{i}" for i in range(n)] + [f"p{i}.{j}" for i in range(n) for j in range(k)]
    owner = [""] * n + [f"f{i}" for i in range(n) for _ in range(k)]
    values = np.concatenate([rng.normal(9, 2, n), rng.normal(0, 2, n * k)])
    order = rng.permutation(len(facts))
    facts, owner = [facts[i] for i in order], [owner[i] for i in order]
    return logprob(values[order], ("fact",), facts), xr.DataArray(owner, {"fact": facts}, ("fact",))


def test_pseudo_subjects_by_hand():
    reading, owner = matched()
    found = matched_trace(reading, owner)
    standing = dict(zip(reading.fact.values, reading.values[:, 0] + 10, strict=True))
    groups = {
        f: [standing[p] for p, o in zip(owner.fact.values, owner.values, strict=True) if o == f]
        for f in found.fact.values
    }
    noise = math.sqrt(np.mean([np.var(g, ddof=1) for g in groups.values()]))
    np.testing.assert_allclose(found.noise, noise)
    assert int(found.freedom) == 8
    np.testing.assert_allclose(found.trace, [standing[f] - np.mean(g) for f, g in groups.items()])
    np.testing.assert_allclose(found.error, noise * math.sqrt(1 + 1 / 3))


def test_pseudo_subjects_of_facts_that_were_not_read_tell_of_the_noise_too():
    """As under an edit of one fact, which is read beside all of them."""
    reading, owner = matched()
    alone = [f for f in reading.fact.values if f not in ("f1", "f2", "f3")]
    found, whole = matched_trace(reading.sel(fact=alone), owner.sel(fact=alone)), matched_trace(reading, owner)
    assert found.fact.values.tolist() == ["f0"]
    for name in ("trace", "error", "noise", "freedom"):
        np.testing.assert_allclose(found[name], whole.sel(fact=["f0"])[name])


def test_facts_may_have_different_numbers_of_pseudo_subjects():
    reading, owner = matched()
    keep = [f for f in reading.fact.values if f not in ("p0.0", "p0.1", "p1.0")]
    found = matched_trace(reading.sel(fact=keep), owner.sel(fact=keep))
    assert dict(zip(found.fact.values, found.n_never.values.tolist(), strict=True)) == {
        "f0": 1,
        "f1": 2,
        "f2": 3,
        "f3": 3,
    }
    assert int(found.freedom) == 0 + 1 + 2 + 2


def test_a_shared_reference_by_hand():
    standings = [9.0, 7.0, 1.0, -2.0, 0.5, np.nan]
    never = xr.DataArray([False, False, True, True, True, True], dims="fact")
    reading = logprob(np.array(standings), ("fact",), list("abcdef"))
    found = shared_trace(reading, never)
    reference = np.array([1.0, -2.0, 0.5])
    np.testing.assert_allclose(found.trace, [9 - reference.mean(), 7 - reference.mean()])
    np.testing.assert_allclose(found.error, reference.std(ddof=1) * math.sqrt(1 + 1 / 3))
    np.testing.assert_allclose(found.shared_error, stats.sem(reference))
    assert int(found.freedom) == 2 and found.n_never.values.tolist() == [3, 3]


def test_without_a_never_fact_there_is_a_reading_and_no_trace():
    found = shared_trace(logprob(np.array([9.0, 7.0]), ("fact",), list("ab")), xr.DataArray([False] * 2, dims="fact"))
    np.testing.assert_allclose(found.old, [9, 7])
    assert np.isnan(found.trace).all() and np.isnan(found.noise)


def test_a_trace_is_in_nats():
    reading, knew, _ = crossover()
    with pytest.raises(ReadingError, match="'z_score' is not in nats"):
        twin_trace(reading, knew, "z_score")


def test_the_order_of_facts_and_twins_does_not_matter():
    reading, knew, _ = crossover(n_twins=3)
    facts, twins = np.random.default_rng(0).permutation(10), [2, 0, 1]
    moved = twin_trace(reading.isel(fact=facts, twin=twins), knew.isel(fact=facts, twin=twins))
    xr.testing.assert_allclose(moved.sel(fact=[f"f{i}" for i in range(6)]), twin_trace(reading, knew))
