"""Means per token and their intervals, against scipy and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.perplexity import per_token, perplexity, text_drift


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
    assert per_token([1.0, np.nan, 4.0], [30, 99, 10])[::3] == pytest.approx((70 / 40, 2))


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
    for name in ("kl", "agreement"):
        values = reading[name].values
        expected = stats.t.interval(0.9, 11, values.mean(), stats.sem(values))
        row = table.sel(metric=name)
        assert [float(row.estimate), float(row.low), float(row.high)] == pytest.approx([values.mean(), *expected])
    difference = reading.nll.values[1] - reading.nll.values[0]
    assert float(table.estimate.sel(metric="perplexity_ratio")) == pytest.approx(np.exp(difference.mean()))
    ratio = table.estimate.sel(metric="perplexity_after") / table.estimate.sel(metric="perplexity_before")
    assert float(ratio) == pytest.approx(np.exp(difference.mean()))


def test_nonsense_is_refused():
    assert per_token([], []).n == 0 and np.isnan(per_token([1.0], [3]).low)
    with pytest.raises(ReadingError, match="2 in means, 1 in n_tokens"):
        per_token([1.0, 2.0], [3])
    with pytest.raises(ReadingError, match="at least one token"):
        per_token([1.0, 2.0], [3, 0])
    with pytest.raises(ReadingError, match="infinite"):
        per_token([1.0, np.inf], [3, 3])
    with pytest.raises(ReadingError, match="Select one state"):
        perplexity(_reading())
    with pytest.raises(ReadingError, match="needs kl"):
        text_drift(_reading().drop_vars("kl"))
