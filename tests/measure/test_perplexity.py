"""Means per token and their intervals, against scipy and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.perplexity import (
    divergence_per_token,
    per_token,
    perplexity,
    share_per_token,
    text_drift,
)


def _reading(n=12, seed=0):
    rng = np.random.default_rng(seed)
    nll = rng.normal(3, 0.4, (2, n))
    return xr.Dataset(
        {
            "kl": ("sequence", rng.exponential(0.1, n)),
            "nll": (("state", "sequence"), nll),
            "agreement": ("sequence", rng.random(n)),
            "n_tokens": ("sequence", np.full(n, 63)),
        },
        {"state": ["before", "after"]},
    )


def test_sequences_of_one_length_have_students_interval():
    values = np.random.default_rng(0).normal(3, 1, 9)
    expected = stats.t.interval(0.9, 8, values.mean(), stats.sem(values))
    assert per_token(values, np.full(9, 64), 0.9) == pytest.approx((values.mean(), *expected, 9))


def test_a_token_counts_the_same_in_every_sequence():
    assert per_token([1.0, 4.0], [30, 10]).estimate == pytest.approx(70 / 40)


def test_it_covers_sequences_of_different_lengths():
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(600):
        n = rng.integers(5, 64, 30)
        found = per_token(rng.normal(3, 1 / np.sqrt(n)), n)
        hits += found.low <= 3 <= found.high
    assert 0.93 <= hits / 600 <= 0.975


def test_perplexity_is_exp_of_the_mean():
    reading = _reading().sel(state="after", drop=True)
    nats = per_token(reading.nll, reading.n_tokens)
    assert perplexity(reading) == pytest.approx((*np.exp(nats[:3]), 12))


def test_the_table_of_drift():
    reading = _reading()
    table = text_drift(reading, 0.9)
    for name, interval in (("kl", divergence_per_token), ("agreement", share_per_token)):
        row = table.sel(metric=name)
        found = [float(row[of]) for of in ("estimate", "low", "high", "n")]
        assert found == pytest.approx(interval(reading[name], reading.n_tokens, 0.9))
    difference = reading.nll.values[1] - reading.nll.values[0]
    assert float(table.estimate.sel(metric="perplexity_ratio")) == pytest.approx(np.exp(difference.mean()))
    ratio = table.estimate.sel(metric="perplexity_after") / table.estimate.sel(metric="perplexity_before")
    assert float(ratio) == pytest.approx(np.exp(difference.mean()))


def test_ends_on_their_scales_are_those_of_the_delta_method():
    values, n = np.array([0.1, 0.7, 0.4, 0.9]), [10, 20, 30, 40]
    mean, low, _, _ = per_token(values, n)
    half = mean - low
    ratio = np.exp(half / mean)
    assert divergence_per_token(values, n) == pytest.approx((mean, mean / ratio, mean * ratio, 4))
    odds, shift = mean / (1 - mean), np.exp(half / (mean * (1 - mean)))
    ends = [one / (1 + one) for one in (odds / shift, odds * shift)]
    assert share_per_token(values, n) == pytest.approx((mean, *ends, 4))


def test_no_end_lies_where_the_number_cannot():
    """Student's interval of both would."""
    few = [0.001, 0.001, 0.4]
    assert per_token(few, [64] * 3).low < 0 < divergence_per_token(few, [64] * 3).low
    most = [1.0, 1.0, 0.6]
    assert per_token(most, [64] * 3).high > 1 > share_per_token(most, [64] * 3).high
    assert divergence_per_token([0.0, 0.0], [64] * 2) == (0, 0, 0, 2)
    assert share_per_token([1.0] * 9, [64] * 9) == pytest.approx((1, stats.binomtest(9, 9).proportion_ci().low, 1, 9))
    assert share_per_token([0.0] * 9, [64] * 9) == pytest.approx((0, 0, stats.binomtest(0, 9).proportion_ci().high, 9))
    for interval in (divergence_per_token, share_per_token):
        assert interval([], []).n == 0 and np.isnan(interval([0.5], [3])[1:3]).all()


def _covered(interval, n, truth, values, n_samples=600):
    rng, hits = np.random.default_rng(0), 0
    for _ in range(n_samples):
        n_tokens = rng.integers(20, 64, n)
        found = interval(values(rng, n_tokens), n_tokens)
        hits += found.low <= truth <= found.high
    return hits / n_samples


@pytest.mark.parametrize(("n", "covered", "by_student"), [(5, 0.90, 0.86), (10, 0.90, 0.87), (30, 0.92, 0.91)])
def test_divergences_are_covered_as_the_docstring_says(n, covered, by_student):
    def skewed(rng, n_tokens):
        return rng.lognormal(-0.32, 0.8, len(n_tokens))

    assert _covered(divergence_per_token, n, 1, skewed, 2000) == pytest.approx(covered, abs=0.02)
    assert _covered(per_token, n, 1, skewed, 2000) == pytest.approx(by_student, abs=0.025)


@pytest.mark.parametrize(
    ("n", "share", "covered", "by_student"),
    [
        *[(5, 0.9, 0.95, None), (10, 0.9, 0.94, None), (30, 0.9, 0.96, None)],
        *[(5, 0.98, 0.98, 0.86), (10, 0.98, 0.97, 0.89), (30, 0.98, 0.94, 0.92)],
    ],
)
def test_shares_are_covered_as_the_docstring_says(n, share, covered, by_student):
    def shares(rng, n_tokens):
        return rng.binomial(n_tokens, rng.beta(49 * share, 49 * (1 - share), len(n_tokens))) / n_tokens

    assert _covered(share_per_token, n, share, shares) == pytest.approx(covered, abs=0.025)
    assert by_student is None or _covered(per_token, n, share, shares) == pytest.approx(by_student, abs=0.025)


def test_a_reading_that_is_not_finite_is_refused_and_not_read_around():
    broken = _reading()
    broken["nll"][1, 3] = np.nan
    with pytest.raises(ReadingError, match="1 of 12 sequences have no finite value"):
        text_drift(broken)
    with pytest.raises(ReadingError, match="1 of 12 sequences"):
        perplexity(broken.sel(state="after", drop=True))
    for name in ("kl", "agreement"):
        with pytest.raises(ReadingError, match="1 of 12 sequences"):
            text_drift(_reading().assign({name: broken.nll.sel(state="after", drop=True) / 10}))


@pytest.mark.parametrize(
    ("said", "damaged"),
    [
        ("states before and after", lambda one: one.sel(state=["after"])),
        ("states before and after", lambda one: one.assign(nll=one.nll.isel(state=0, drop=True))),
        ("0 or more", lambda one: one.assign(kl=-one.kl)),
        ("between 0 and 1", lambda one: one.assign(agreement=one.agreement + 1)),
        ("12 in means, 24 in n_tokens", lambda one: one.assign(n_tokens=one.n_tokens + 0 * one.nll.astype(int))),
        ("at least one token", lambda one: one.assign(n_tokens=0 * one.n_tokens)),
        ("takes numbers", lambda one: one.assign(kl=("sequence", ["a"] * 12))),
    ],
)
def test_a_damaged_table_of_drift_is_refused_in_a_sentence(said, damaged):
    with pytest.raises(ReadingError, match=said):
        text_drift(damaged(_reading()))


def test_nonsense_is_refused():
    assert per_token([], []).n == 0 and np.isnan(per_token([1.0], [3]).low)
    with pytest.raises(ReadingError, match="2 in means, 1 in n_tokens"):
        per_token([1.0, 2.0], [3])
    with pytest.raises(ReadingError, match="at least one token"):
        per_token([1.0, 2.0], [3, 0])
    with pytest.raises(ReadingError, match="no finite value"):
        per_token([1.0, np.inf], [3, 3])
    with pytest.raises(ReadingError, match="Select one state"):
        perplexity(_reading())
    with pytest.raises(ReadingError, match="needs kl"):
        text_drift(_reading().drop_vars("kl"))
