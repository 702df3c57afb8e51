"""The interval of a commit layer: Student's and the binomial's own numbers, and coverage by simulation at six facts."""

import math

import numpy as np
import pytest
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.commit_interval import commit_interval

NAN = math.nan


def test_the_mean_carries_students_interval():
    layers = np.array([20, 25, 25, 26, 24, 30, 21.0])
    computed = commit_interval([*layers, NAN, NAN])
    low, high = stats.t.interval(0.95, 6, layers.mean(), stats.sem(layers))
    np.testing.assert_allclose(computed, [layers.mean(), low, high, 7, 2])
    assert str(computed).endswith("(n=7, 2 never commit)")
    assert commit_interval(layers) == computed._replace(n_none=0)
    assert commit_interval(layers, level=0.5).high < computed.high


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("n", range(1, 31))
def test_the_median_lies_between_the_two_layers_that_the_binomial_names(n, level):
    """Ranks r and n + 1 - r, with r the largest for which fewer than r of n lie below the median rarely enough."""
    layers = np.random.default_rng(n).permutation(np.arange(n) ** 2.0)

    def below(r):
        return sum(math.comb(n, k) for k in range(r)) / 2**n

    ranks = [r for r in range(1, n // 2 + 1) if below(r) <= (1 - level) / 2]
    computed = commit_interval(layers, "median", level)
    assert computed.estimate == np.median(layers)
    if not ranks:
        assert np.isnan([computed.low, computed.high]).all()
    else:
        assert (computed.low, computed.high) == (np.sort(layers)[ranks[-1] - 1], np.sort(layers)[n - ranks[-1]])
        assert 1 - 2 * below(ranks[-1]) >= level, "what it covers"


_DRAWS = {
    "normal": (lambda rng: rng.normal(24, 3, (1500, 6)), 24.0, 24.0, 0.93),
    "whole layers": (lambda rng: np.round(rng.normal(24.3, 2, (1500, 6))), 24.3, 24.0, 0.93),
    "log-normal": (lambda rng: rng.lognormal(0, 1, (1500, 6)), math.exp(0.5), 1.0, 0.79),
}


@pytest.mark.parametrize(("draw", "mean", "median", "least"), _DRAWS.values(), ids=_DRAWS.keys())
def test_coverage_with_six_facts(draw, mean, median, least):
    """95% of 1500 samples, standard error 0.6%: the median always, the mean where it is not skewed (0.82 there)."""
    samples = draw(np.random.default_rng(0))
    computed = [commit_interval(sample) for sample in samples]
    assert np.mean([one.low <= mean <= one.high for one in computed]) >= least
    computed = [commit_interval(sample, "median") for sample in samples[:500]]
    assert np.mean([one.low <= median <= one.high for one in computed]) >= 0.94


def test_equal_layers_have_an_interval_of_no_width():
    assert commit_interval([25] * 6, "median")[:3] == commit_interval([25] * 6)[:3] == (25, 25, 25)


def test_too_few_facts():
    for statistic in ("mean", "median"):
        assert commit_interval([7, NAN], statistic)[0] == 7
        assert np.isnan(commit_interval([7, NAN], statistic)[1:3]).all()
        assert commit_interval([7, NAN], statistic)[3:] == (1, 1)
        assert np.isnan(commit_interval([NAN] * 3, statistic)[:3]).all()
        assert commit_interval([NAN] * 3, statistic)[3:] == (0, 3)
    with pytest.raises(ReadingError, match="'mode' is not a statistic"):
        commit_interval([1, 2], "mode")
