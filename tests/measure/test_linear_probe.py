"""The linear probe against ridge regression as numpy solves it, and against data of which the answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from mechmask.errors import ReadingError
from mechmask.measure.linear_probe import linear_probe

FACTS = np.repeat(np.arange(5), 2)


def candidates(told=0.0, seed=0, width=40):
    """Two prompts of five facts with four candidates; old is moved by ``told`` along one direction."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(10, 4, width)) + 20 * rng.normal(
        size=(10, 1, width)
    )  # what a prompt's candidates share
    features[:, 0, 3] += told
    return features


def by_augmented_least_squares(features, facts):
    """Leave one fact out, centre by prompt, and solve the penalised normal equations as a longer least squares."""
    answers = np.empty(len(features))
    centred = features - features.mean(1, keepdims=True)
    target = np.eye(features.shape[1])[0] - 1 / features.shape[1]
    for held_out in set(facts):
        rows = centred[facts != held_out].reshape(-1, features.shape[2])
        wanted = np.tile(target, sum(facts != held_out))
        penalty = (rows**2).sum() / len(rows)
        longer = np.vstack([rows, np.sqrt(penalty) * np.eye(rows.shape[1])])
        weights = np.linalg.lstsq(longer, np.append(wanted, np.zeros(rows.shape[1])), rcond=None)[0]
        for prompt in np.flatnonzero(facts == held_out):
            said = centred[prompt] @ weights
            answers[prompt] = said[0] - said[1:].mean()
    return answers


def test_against_least_squares():
    features = candidates(told=2.0)
    np.testing.assert_allclose(linear_probe(features, FACTS), by_augmented_least_squares(features, FACTS), atol=1e-10)


def test_what_is_told_is_found_and_what_is_not_is_not():
    told = np.concatenate([linear_probe(candidates(told=12.0, seed=seed), FACTS) for seed in range(20)])
    untold = np.concatenate([linear_probe(candidates(seed=seed), FACTS) for seed in range(20)])
    assert told.min() > 0.3
    assert abs(untold.mean()) < 3 * untold.std() / np.sqrt(len(untold) / 2)  # prompts of a fact share a probe


def test_it_never_learns_from_the_fact_that_it_is_asked_about():
    """Its other prompts may say what they like."""
    features, other = candidates(told=3.0), candidates(told=3.0)
    other[1, 0] += 50
    assert linear_probe(other, FACTS)[0] == pytest.approx(linear_probe(features, FACTS)[0])
    assert linear_probe(other, np.arange(10))[0] != pytest.approx(linear_probe(features, np.arange(10))[0])


def test_a_value_that_is_wrong_elsewhere_is_not_wrong_for_that():
    """Facts share their values, and a candidate's features are those of its value alone: nothing is known."""
    rng = np.random.default_rng(1)
    of_value, scores = rng.normal(size=(8, 40)), {True: [], False: []}
    for seed in range(40):
        others = [
            np.random.default_rng([seed, fact]).permutation([v for v in range(8) if v != fact]) for fact in range(8)
        ]
        values = np.array([[fact, *of[:3]] for fact, of in enumerate(others)])
        features = of_value[values] + 0.3 * rng.normal(size=(8, 4, 40))
        for known in scores:
            scores[known].append(linear_probe(features, np.arange(8), values if known else None))
    unaware, aware = (np.mean(scores[known]) for known in (False, True))
    assert unaware < -0.1  # each value is right once and wrong often
    assert abs(aware) < 0.03


def test_scale_and_missing_candidates():
    features = candidates(told=3.0)
    np.testing.assert_allclose(linear_probe(1000 * features, FACTS), linear_probe(features, FACTS))
    with_gap = np.concatenate([features, np.full((10, 1, 40), np.nan)], axis=1)
    np.testing.assert_allclose(linear_probe(with_gap, FACTS), linear_probe(features, FACTS))
    features[0, 1:] = np.nan
    found = linear_probe(features, FACTS)
    assert np.isnan(found[0]) and np.isfinite(found[1:]).all()
    np.testing.assert_array_equal(linear_probe(np.ones((10, 3, 4)), FACTS), 0)


def test_what_it_cannot_learn_from_is_refused():
    with pytest.raises(ReadingError, match="at least two facts"):
        linear_probe(candidates(), np.zeros(10))
    with pytest.raises(ReadingError, match="fact of every prompt"):
        linear_probe(candidates(), FACTS[:4])
