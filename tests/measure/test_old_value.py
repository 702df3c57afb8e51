"""Statistics of the old value: by plain loops over probabilities, and where each is blind or not."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from mechmask.errors import ReadingError
from mechmask.measure.old_value import STATISTICS, statistic_of_old

ROUTES = ["old", "new", *(f"distractor_{i}" for i in range(5))]


def logprobs(values):
    dims = ("fact", "phrasing", "route") if np.ndim(values) == 3 else ("fact", "route")
    return xr.DataArray(np.asarray(values, dtype=float), {"route": ROUTES[: np.shape(values)[-1]]}, dims)


@pytest.fixture
def random():
    raw = np.random.default_rng(0).normal(-8, 2, (6, 3, len(ROUTES)))
    return logprobs(np.log(np.exp(raw) / (np.exp(raw).sum(-1, keepdims=True) + 1)))


def by_hand(name, row):
    old, new, *rivals = row
    mean = statistics.fmean(rivals)
    arithmetic = old - math.log(statistics.fmean([math.exp(r) for r in rivals]))
    return {
        "logprob": old,
        "log_odds": old - math.log(1 - math.exp(new)),
        "standing": arithmetic,
        "geometric_standing": old - mean,
        "median_standing": old - statistics.median(rivals),
        "z_score": (old - mean) / statistics.stdev(rivals),
        "rank": -sum(r > old for r in rivals),
        "truth_ratio": math.exp(old) / (math.exp(old) + statistics.fmean([math.exp(r) for r in rivals])),
    }[name]


@pytest.mark.parametrize("name", STATISTICS)
def test_by_hand_and_averaged_over_phrasings(name, random):
    expected = [statistics.fmean(by_hand(name, row) for row in fact) for fact in random.values]
    np.testing.assert_allclose(statistic_of_old(random, name), expected, rtol=1e-9)
    np.testing.assert_allclose(statistic_of_old(random[:, 0], name), [by_hand(name, f[0]) for f in random.values])


@pytest.mark.parametrize("name", STATISTICS)
def test_more_of_the_old_value_is_never_less(name, random):
    more = random.copy()
    more[..., 0] += 0.5
    assert (statistic_of_old(more, name) >= statistic_of_old(random, name)).all()


@pytest.mark.parametrize("name", sorted({*STATISTICS} - {"logprob"}))
def test_what_new_takes_from_all_alike_changes_nothing_but_logprob(name, random):
    """New rises to 0.9999 and every other route falls by as much: the knowledge is as it was."""
    taken = 1 - np.exp(random.sel(route="new"))
    after = random - np.log(taken) + math.log(1e-4)
    after.loc[{"route": "new"}] = math.log(1 - 1e-4)
    np.testing.assert_allclose(statistic_of_old(after, name), statistic_of_old(random, name), rtol=1e-6)
    assert (statistic_of_old(after, "logprob") < statistic_of_old(random, "logprob") - 5).all()


def test_log_odds_stay_finite_and_below_zero_where_new_rounds_to_certainty():
    row = [-17.0, -0.0, *[-20.0] * 5]
    value = statistic_of_old(logprobs([row]), "log_odds").item()
    assert value == pytest.approx(-17 - math.log(math.exp(-17) + 5 * math.exp(-20)))
    assert -20 < value < 0


def test_facts_with_fewer_distractors_use_those_that_they_have(random):
    few = random.copy()
    few[0, :, 4:] = np.nan
    for name in STATISTICS:
        alone = statistic_of_old(random[:1, :, :4], name)
        np.testing.assert_allclose(statistic_of_old(few, name)[0], alone[0], rtol=1e-9, err_msg=name)


def test_one_distractor_has_no_spread(random):
    assert np.isnan(statistic_of_old(random[..., :3], "z_score")).all()


def test_what_cannot_be_had_is_refused(random):
    with pytest.raises(ReadingError, match="No statistic is called 'standings'"):
        statistic_of_old(random, "standings")
    with pytest.raises(ReadingError, match="none was read"):
        statistic_of_old(random[..., :2], "geometric_standing")
    assert np.isfinite(statistic_of_old(random[..., :2], "log_odds")).all()


def test_the_order_of_truth_ratio_is_that_of_standing(random):
    rho = stats.spearmanr(statistic_of_old(random[:, 0], "standing"), statistic_of_old(random[:, 0], "truth_ratio"))
    assert rho.statistic == 1
