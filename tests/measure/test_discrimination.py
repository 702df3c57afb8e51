"""AUROC against the placements of DeLong written naively, published values, properties, and simulated coverage."""

import json
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from mechmask.errors import ReadingError
from mechmask.measure.discrimination import auroc, auroc_difference, clustered_auroc

_SMALL = settings(max_examples=60, deadline=None, database=None, derandomize=True)
_SCORES = st.lists(st.integers(-5, 5), min_size=2, max_size=12)  # tied more often than not


def _placements(positive, negative):
    """DeLong, DeLong and Clarke-Pearson (1988), equations 3 and 4: every pair compared."""
    positive, negative = np.asarray(positive, dtype=float), np.asarray(negative, dtype=float)
    psi = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    return psi.mean(1), psi.mean(0)


def _delong(positive, negative):
    """AUROC, its variance and the freedom of Welch and Satterthwaite."""
    above, below = _placements(positive, negative)
    parts = np.array([above.var(ddof=1) / len(above), below.var(ddof=1) / len(below)])
    freedom = parts.sum() ** 2 / (parts**2 / [len(above) - 1, len(below) - 1]).sum() if parts.sum() > 0 else np.inf
    return above.mean(), parts.sum(), freedom


@_SMALL
@given(_SCORES, _SCORES, st.sampled_from([0.8, 0.95]))
def test_midranks_give_delongs_variance(positive, negative, level):
    estimate, variance, freedom = _delong(positive, negative)
    found = auroc(positive, negative, level)
    assert found.estimate == pytest.approx(estimate, abs=1e-12)
    assert found.n == len(positive) + len(negative)
    if 0 < estimate < 1 and variance > 1e-12:
        half = stats.t.ppf(0.5 + level / 2, freedom) * np.sqrt(variance) / (estimate * (1 - estimate))
        expected = special.expit(special.logit(estimate) + np.array([-half, half]))
        np.testing.assert_allclose(found[1:3], expected, rtol=1e-6)


@_SMALL
@given(_SCORES, _SCORES)
def test_monotone_transforms_order_and_classes(positive, negative):
    found = np.array(auroc(positive, negative)[:3])
    np.testing.assert_allclose(auroc(np.exp(positive), np.exp(negative))[:3], found, atol=1e-12)
    np.testing.assert_allclose(auroc(positive[::-1], negative[::-1])[:3], found, atol=1e-9)
    np.testing.assert_allclose(auroc(negative, positive)[:3], 1 - found[[0, 2, 1]], atol=1e-9)
    np.testing.assert_allclose(auroc(np.negative(negative), np.negative(positive))[:3], found, atol=1e-9)
    assert 0 <= found[1] <= found[0] <= found[2] <= 1 and found[1] < found[2]


def test_it_is_mann_whitneys_u():
    rng = np.random.default_rng(0)
    positive, negative = rng.normal(1, 1, 20), rng.normal(0, 1, 33)
    u = stats.mannwhitneyu(positive, negative).statistic
    assert auroc(positive, negative).estimate == pytest.approx(u / (20 * 33))


@pytest.mark.parametrize(("m", "n"), [(12, 12), (30, 12), (12, 30)])
def test_a_perfect_score_has_the_bound_of_its_smaller_class(m, n):
    """The worst case: positives that fall below all negatives with probability 1 - A separate with probability A^m."""
    found = auroc(np.arange(m) + 1000.0, np.arange(n))
    assert found[:3] == (1.0, pytest.approx(0.025 ** (1 / 12)), 1.0)
    assert found.low ** min(m, n) == pytest.approx(0.025)
    mirrored = auroc(np.arange(n), np.arange(m) + 1000.0)
    np.testing.assert_allclose(mirrored[:3], [0, 0, 1 - found.low])


def test_infinite_scores_are_ranked_and_missing_ones_left_out():
    assert auroc([np.inf, 3, np.nan, 1], [-np.inf, 2, 0]) == auroc([9, 3, 1], [-9, 2, 0])


def test_scores_that_say_nothing_and_classes_that_are_not_there():
    assert auroc([1.0, 1, 1], [1.0, 1])[:3] == (0.5, 0.0, 1.0)
    assert np.isnan(auroc([], [1.0, 2])[:3]).all() and np.isnan(auroc([1.0], [np.nan])[:3]).all()
    alone = auroc([1.0], [0.0, 2.0])
    assert alone.estimate == 0.5 and np.isnan(alone[1:3]).all()


def _normal(rng, size, share):
    return rng.normal(np.sqrt(2) * stats.norm.ppf(share), 1, size), rng.normal(0, 1, size)


def _exponential(rng, size, share):
    return rng.exponential(share / (1 - share), size), rng.exponential(1, size)


@pytest.mark.parametrize("share", [0.75, 0.9, 0.97])
@pytest.mark.parametrize(("n", "lowest"), [(6, 0.95), (12, 0.95), (24, 0.945), (30, 0.945)])
def test_coverage(n, lowest, share):
    """1000 samples: not below what the docstring says by more than three standard errors of 0.007."""
    intervals = [auroc(*pair) for pair in zip(*_normal(np.random.default_rng(n), (1000, n), share), strict=True)]
    covered = np.mean([x.low <= share <= x.high for x in intervals])
    assert covered >= lowest - 3 * np.sqrt(0.95 * 0.05 / 1000)
    assert n < 12 or share > 0.75 or covered < 0.99


@pytest.mark.parametrize("share", [0.75, 0.9, 0.97])
@pytest.mark.parametrize(("n", "lowest"), [(12, 0.95), (30, 0.93)])
def test_coverage_where_spreads_differ(n, lowest, share):
    intervals = [auroc(*pair) for pair in zip(*_exponential(np.random.default_rng(n), (1000, n), share), strict=True)]
    covered = np.mean([x.low <= share <= x.high for x in intervals])
    assert covered >= lowest - 3 * np.sqrt(0.95 * 0.05 / 1000)


@_SMALL
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=4, max_size=16), st.integers(2, 3))
def test_a_difference_is_that_of_the_placements(units, m):
    (positive_a, positive_b), (negative_a, negative_b) = (np.array(part).T for part in (units[:m], units[m:]))
    if len(negative_a) < 2:
        return
    (above_a, below_a), (above_b, below_b) = _placements(positive_a, negative_a), _placements(positive_b, negative_b)
    covariances = np.cov(above_a, above_b) / len(above_a) + np.cov(below_a, below_b) / len(below_a)
    variance = covariances[0, 0] + covariances[1, 1] - 2 * covariances[0, 1]
    found = auroc_difference(positive_a, negative_a, positive_b, negative_b)
    assert found.estimate == pytest.approx(above_a.mean() - above_b.mean(), abs=1e-12)
    if variance > 1e-12:
        half = 1.959964 * np.sqrt(variance)
        np.testing.assert_allclose([found.low, found.high], found.estimate + np.array([-half, half]), rtol=1e-6)
        assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(found.estimate) / np.sqrt(variance)), rel=1e-6)
        swapped = auroc_difference(positive_b, negative_b, positive_a, negative_a)
        assert (swapped.estimate, swapped.p_value) == pytest.approx((-found.estimate, found.p_value))


def test_a_difference_without_an_error():
    same = auroc_difference([3, 4], [1, 2], [30, 40], [10, 20])
    assert (same.estimate, same.p_value) == (0, 1) and np.isnan([same.low, same.high]).all()
    opposite = auroc_difference([3, 4], [1, 2], [1, 2], [3, 4])
    assert opposite.estimate == 1 and np.isnan([opposite.low, opposite.p_value]).all()
    assert np.isnan(auroc_difference([3], [1, 2], [3], [1, 2])[:3]).all()


def test_a_unit_that_one_score_lacks_is_left_out_of_both():
    a, b, c, d = np.random.default_rng(1).normal(size=(4, 9))
    hole = np.where(np.arange(9) == 4, np.nan, a)
    rest = np.arange(9) != 4
    assert auroc_difference(hole, b, c, d) == auroc_difference(a[rest], b, c[rest], d)


@pytest.mark.parametrize(
    ("shares", "n", "lowest"), [((0.75, 0.9), 12, 0.9), ((0.75, 0.9), 30, 0.93), ((0.9, 0.9), 30, 0.94)]
)
def test_coverage_of_a_difference(shares, n, lowest):
    """1000 samples of two scores that correlate with 0.6."""
    rng = np.random.default_rng(n)
    shift = np.sqrt(2) * stats.norm.ppf(shares)
    both = rng.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], (1000, 2, n))
    found = [auroc_difference(*(p + shift).T[:1], *q.T[:1], *(p + shift).T[1:], *q.T[1:]) for p, q in both]
    truth = shares[0] - shares[1]
    covered = np.mean([x.low <= truth <= x.high for x in found])
    assert covered >= lowest - 3 * np.sqrt(lowest * (1 - lowest) / 1000)


def _clusters(rng, n_clusters, share, each=6):
    """Scores, classes, clusters: half the variance of each class is between clusters."""
    cluster = np.tile(np.repeat(np.arange(n_clusters), each), 2)
    knows = np.arange(len(cluster)) < n_clusters * each
    between = rng.normal(0, np.sqrt(0.5), (2, n_clusters))[knows.astype(int), cluster]
    within = rng.normal(0, np.sqrt(0.5), len(cluster))
    return knows * np.sqrt(2) * stats.norm.ppf(share) + between + within, knows, cluster


def test_the_error_is_that_of_clusters_copied_one_by_one():
    values, knows, cluster = _clusters(np.random.default_rng(2), 9, 0.85)
    values = np.round(values, 1)
    rng = np.random.default_rng(8)
    draws = []
    for _ in range(3000):
        rows = np.concatenate([np.flatnonzero(cluster == label) for label in rng.integers(0, 9, 9)])
        draws.append(_placements(values[rows][knows[rows]], values[rows][~knows[rows]])[0].mean())
    estimate = _placements(values[knows], values[~knows])[0].mean()
    half = stats.t.ppf(0.975, 8) * np.std(draws, ddof=1) * np.sqrt(9 / 8) / (estimate * (1 - estimate))
    found = clustered_auroc(values, knows, cluster)
    assert (found.estimate, found.n) == (pytest.approx(estimate), 108)
    np.testing.assert_allclose(special.logit(found[1:3]), special.logit(estimate) + np.array([-half, half]), rtol=0.05)


def test_copies_within_clusters_do_not_sharpen_it_and_order_does_not_matter():
    values, knows, cluster = _clusters(np.random.default_rng(3), 8, 0.8)
    found = clustered_auroc(values, knows, cluster)
    copied = clustered_auroc(*(np.repeat(part, 3) for part in (values, knows, cluster)))
    np.testing.assert_allclose(copied[:3], found[:3], rtol=1e-9)
    assert copied.n == 3 * found.n
    order = np.random.default_rng(4).permutation(len(values))
    np.testing.assert_allclose(clustered_auroc(values[order], knows[order], cluster[order])[:3], found[:3], rtol=1e-9)


def test_models_that_know_or_do_not_are_counted_by_class():
    """Each cluster of one class: as many observations of its own are nearly DeLong's."""
    rng = np.random.default_rng(5)
    positive, negative = _normal(rng, 40, 0.8)
    found = clustered_auroc(np.append(positive, negative), np.arange(80) < 40, np.arange(80))
    np.testing.assert_allclose(found[:3], auroc(positive, negative)[:3], atol=0.015)


@pytest.mark.parametrize("n_clusters", [4, 5])
def test_coverage_of_few_clusters(n_clusters):
    """As many as the ruler's judging draws and a paper's draws; wide, for t has three or four degrees of freedom."""
    rng = np.random.default_rng(n_clusters)
    samples = [_clusters(rng, n_clusters, 0.9) for _ in range(300)]
    intervals = [clustered_auroc(*sample, n_resamples=299) for sample in samples]
    assert np.mean([x.low <= 0.9 <= x.high for x in intervals]) >= 0.94 - 3 * np.sqrt(0.95 * 0.05 / 300)


@pytest.mark.parametrize("n_clusters", [6, 12, 24])
@pytest.mark.parametrize("share", [0.75, 0.9])
def test_coverage_of_clusters(n_clusters, share):
    """300 samples, three standard errors of 0.013; DeLong's interval covers under 90% of them."""
    rng = np.random.default_rng(n_clusters)
    samples = [_clusters(rng, n_clusters, share) for _ in range(300)]
    intervals = [clustered_auroc(*sample, n_resamples=299) for sample in samples]
    assert np.mean([x.low <= share <= x.high for x in intervals]) >= 0.94 - 3 * np.sqrt(0.95 * 0.05 / 300)
    independent = [auroc(values[knows], values[~knows]) for values, knows, _ in samples]
    assert np.mean([x.low <= share <= x.high for x in independent]) < 0.9


def test_two_thousand_draws_take_under_a_second():
    rng = np.random.default_rng(6)
    knows = rng.random(800) < 0.5
    start = time.process_time()
    clustered_auroc(rng.normal(size=800) + knows, knows, np.repeat(np.arange(20), 40), n_resamples=2000)
    assert time.process_time() - start < 1


def test_clusters_at_the_edges():
    values, knows = np.arange(8.0), np.arange(8) >= 4
    perfect = clustered_auroc(values, knows, np.tile(np.arange(4), 2))
    assert perfect[:3] == (1.0, pytest.approx(0.025 ** (1 / 4)), 1.0)
    assert np.isnan(clustered_auroc(values, np.ones(8, bool), np.arange(8))[:3]).all()
    single = clustered_auroc(values, knows, np.where(knows, 0, np.arange(8)))
    assert single.estimate == 1 and np.isnan(single[1:3]).all()
    holes = clustered_auroc(np.append(values, np.nan), np.append(knows, True), np.append(np.tile(np.arange(4), 2), 9))
    assert holes == perfect


def test_bad_input():
    with pytest.raises(ReadingError, match="between 0 and 1"):
        auroc([1.0], [2.0], level=1.5)
    with pytest.raises(ReadingError, match="not 2 in positives of A, 1 in positives of B"):
        auroc_difference([1, 2], [1, 2], [1], [1, 2])
    with pytest.raises(ReadingError, match="True or False"):
        clustered_auroc([1.0, 2.0], ["yes", "no"], [0, 1])
    with pytest.raises(ReadingError, match="1 in cluster"):
        clustered_auroc([1.0, 2.0], [True, False], [0])
    with pytest.raises(ReadingError, match="1 have none"):
        clustered_auroc([1.0, 2.0], [True, False], ["a", None])


# Sixty models of which it is known whether they hold the facts; scores of forgetting are turned round.
_PUBLISHED = {
    "uds": (-1, 0.971, 0.939, 1.0),
    "truth_ratio": (1, 0.947, 0.875, 1.0),
    "logit_lens": (-1, 0.927, 0.859, 0.994),
    "es": (1, 0.891, 0.812, 0.971),
    "prob": (1, 0.816, 0.710, 0.921),
}


@pytest.fixture
def pools(shared_data):
    table = pd.read_csv(shared_data / "uds_tofu" / "uds_faithfulness_pools.csv")
    knows = table.pool == "P"
    return {name: (sign * table[name][knows], sign * table[name][~knows]) for name, (sign, *_) in _PUBLISHED.items()}


@pytest.mark.parametrize("score", _PUBLISHED)
def test_published_aurocs(pools, score):
    """The published intervals are DeLong's plain ones, cut at 1; ours reaches lower and never to 1 itself."""
    _, estimate, low, high = _PUBLISHED[score]
    found = auroc(*pools[score])
    assert round(found.estimate, 3) == estimate and found.n == 60
    _, variance, _ = _delong(*pools[score])
    half = 1.959964 * np.sqrt(variance)
    assert found.estimate - half == pytest.approx(low, abs=6e-4)
    assert min(found.estimate + half, 1) == pytest.approx(high, abs=6e-4)
    assert low - 0.08 < found.low < low and found.high < min(high + 1e-9, 0.9999)


@pytest.mark.parametrize(
    ("score", "difference", "p_value"),
    [("logit_lens", 0.044, 0.069), ("truth_ratio", 0.024, 0.51), ("es", 0.080, 0.023), ("prob", 0.156, 0.001)],
)
def test_published_differences(pools, score, difference, p_value):
    found = auroc_difference(*pools["uds"], *pools[score])
    assert round(found.estimate, 3) == difference
    assert found.p_value == pytest.approx(p_value, abs=6e-4 if p_value < 0.1 else 6e-3)


def test_published_logs_tell_a_model_that_knows(shared_data):
    """Loss of the answers, of a model trained on the forget facts and of one that was not: 0.997."""
    logs = [
        json.loads((shared_data / "tofu_eval_logs" / f"llama2-7b_{name}_wd0.01.eval_log_forget.json").read_text())
        for name in ("full", "retain90")
    ]
    found = auroc(*([-loss for loss in log["avg_gt_loss"].values()] for log in logs))
    assert round(found.estimate, 3) == 0.997 and found.low > 0.95 and found.n == 600


def test_clusters_that_agree_by_chance_say_nothing_of_the_error():
    """Rounding leaves an error of about 1e-17 where both clusters have one AUROC: no interval of no width."""
    scores = np.array([3.1, 0.7, 2.2, 1.3, 0.9, 0.1])
    knows = np.array([True, True, True, False, False, False])
    found = clustered_auroc(np.tile(scores, 2), np.tile(knows, 2), np.repeat([0, 1], 6))
    assert 0.5 < found.estimate < 1 and (found.low, found.high) == (0.0, 1.0)
