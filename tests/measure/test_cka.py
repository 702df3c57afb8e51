"""Unbiased CKA against the U-statistic summed over all quadruples, and its properties."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from mechmask.errors import ReadingError
from mechmask.measure.cka import linear_cka


def naive_hsic(left, right):
    """Song et al. 2012, equation 4: the mean over all ordered quadruples of different samples."""
    quadruples = list(permutations(range(len(left)), 4))
    terms = [
        left[i, j] * right[i, j] + left[i, j] * right[q, r] - 2 * left[i, j] * right[i, q] for i, j, q, r in quadruples
    ]
    return np.mean(terms)


def test_is_the_ratio_of_u_statistics():
    rng = np.random.default_rng(0)
    first = rng.normal(size=(7, 3)) + 5
    second = first[:, :2] ** 2 + rng.normal(size=(7, 2))
    left, right = first @ first.T, second @ second.T
    expected = naive_hsic(left, right) / np.sqrt(naive_hsic(left, left) * naive_hsic(right, right))
    assert linear_cka(first, second) == pytest.approx(expected, rel=1e-9)


def test_rotation_scale_and_shift_change_nothing():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(20, 6))
    rotation = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    assert linear_cka(features, 3 * features @ rotation - 7) == pytest.approx(1)


def test_unrelated_features_give_zero_where_there_are_fewer_samples_than_dimensions():
    rng = np.random.default_rng(2)
    found = [linear_cka(rng.normal(size=(12, 200)), rng.normal(size=(12, 200))) for _ in range(200)]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(len(found)) + 0.01


def test_what_is_the_same_for_all_samples_has_no_similarity():
    same = np.ones((6, 4))
    assert np.isnan(linear_cka(same, np.random.default_rng(3).normal(size=(6, 4))))


@pytest.mark.parametrize(("n", "m"), [(3, 3), (5, 6)])
def test_too_few_or_unequal_samples_are_refused(n, m):
    with pytest.raises(ReadingError, match="the same samples of both representations, four or more"):
        linear_cka(np.ones((n, 2)), np.ones((m, 2)))
