"""The closed forms in float64: against dense systems by numpy, and the properties that define each."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mechmask.errors import ChangeError
from mechmask.write.moments.second_moment import SecondMoment
from mechmask.write.solves import constrained, in_null_space, least_squares, rank_one

D, H, N = 24, 16, 5


def tensor(array):
    return torch.from_numpy(np.ascontiguousarray(array))


def product(factors):
    return (factors.outputs @ factors.inputs).numpy()


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def text(rng):
    """Keys of text, of which some directions are far weaker than others."""
    return rng.normal(size=(D, 400)) * np.geomspace(1, 1e-3, D)[:, None]


@pytest.fixture
def moment(text):
    return moment_of(text @ text.T / text.shape[1])


@pytest.fixture
def keys(rng):
    return rng.normal(size=(D, N))


@pytest.fixture
def residuals(rng):
    return rng.normal(size=(H, N))


def moment_of(matrix):
    return SecondMoment(0, 400, tensor(matrix), 0.0)


def c_of(moment):
    return moment.matrix.numpy()


def test_rome_is_of_rank_one_exact_and_cheapest_for_text(moment, keys, residuals, rng):
    k, r = keys[:, 0], residuals[:, 0]
    update = product(rank_one(tensor(k), tensor(k), tensor(r), moment))
    c = c_of(moment)
    assert np.linalg.matrix_rank(update) == 1
    np.testing.assert_allclose(update @ k, r, atol=1e-12)
    u = np.linalg.solve(c, k)
    np.testing.assert_allclose(update, np.outer(r, u) / (u @ k), rtol=1e-9, atol=1e-12)
    cost = np.trace(update @ c @ update.T)
    for _ in range(200):
        other = update + rng.normal(size=update.shape) @ (np.eye(D) - np.outer(k, k) / (k @ k)) * 0.1
        np.testing.assert_allclose(other @ k, r, atol=1e-10)
        assert np.trace(other @ c @ other.T) > cost


def test_rome_does_not_know_the_scale_of_text(moment, keys, residuals):
    k, r = tensor(keys[:, 0]), tensor(residuals[:, 0])
    larger = moment_of(c_of(moment) * 1e4)
    np.testing.assert_allclose(product(rank_one(k, k, r, moment)), product(rank_one(k, k, r, larger)), rtol=1e-9)


def test_with_the_identity_rome_is_the_outer_product(keys, residuals):
    k, r = keys[:, 0], residuals[:, 0]
    np.testing.assert_allclose(
        product(rank_one(tensor(k), tensor(k), tensor(r), None)), np.outer(r, k) / (k @ k), rtol=1e-12
    )


def test_the_published_keys_are_exact_at_the_written_one_alone(moment, keys, residuals):
    mean, bare, r = keys.mean(1), keys[:, 0], residuals[:, 0]
    update = product(rank_one(tensor(mean), tensor(bare), tensor(r), moment))
    np.testing.assert_allclose(update @ bare, r, atol=1e-12)
    assert np.abs(update @ mean - r).max() > 0.05


def test_nothing_missing_is_nothing_written(moment, keys):
    k = tensor(keys[:, 0])
    assert not product(rank_one(k, k, torch.zeros(H, dtype=torch.float64), moment)).any()


def test_rome_refuses_a_key_across_its_direction():
    with pytest.raises(ChangeError, match="orthogonal to the direction"):
        rank_one(torch.eye(4)[0].double(), torch.eye(4)[1].double(), torch.ones(3).double(), None)


@pytest.mark.parametrize("weight", [1e-3, 1.0, 1.5e4])
def test_memit_is_the_dense_system_and_stationary(moment, keys, residuals, weight):
    update = product(least_squares(tensor(keys), tensor(residuals), moment, weight))
    c = c_of(moment)
    dense = residuals @ np.linalg.solve(weight * c + keys @ keys.T, keys).T
    np.testing.assert_allclose(update, dense, rtol=1e-5, atol=1e-7 * np.abs(dense).max())
    gradient = 2 * weight * update @ c + 2 * (update @ keys - residuals) @ keys.T
    scale = np.abs(2 * residuals @ keys.T).max()
    assert np.abs(gradient).max() < 1e-6 * scale
    assert np.linalg.matrix_rank(update) <= N


def test_no_step_away_from_memit_is_better(moment, keys, residuals, rng):
    def objective(update):
        return np.trace(update @ c_of(moment) @ update.T) + np.sum((update @ keys - residuals) ** 2)

    update = product(least_squares(tensor(keys), tensor(residuals), moment, 1.0))
    for size in (1e-3, 1e-1):
        for _ in range(50):
            assert objective(update + size * rng.normal(size=update.shape)) > objective(update)


def test_the_limits_of_memit_are_exact_values_and_nothing(moment, keys, residuals):
    exact = product(least_squares(tensor(keys), tensor(residuals), moment, 1e-10))
    np.testing.assert_allclose(exact @ keys, residuals, atol=1e-5)
    assert np.abs(product(least_squares(tensor(keys), tensor(residuals), moment, 1e16))).max() < 1e-8


def test_without_weight_memit_is_emmet_and_of_one_fact_rome(moment, keys, residuals):
    emmet = product(constrained(tensor(keys), tensor(residuals), moment, 0.0))
    memit = product(least_squares(tensor(keys), tensor(residuals), moment, 1e-9))
    np.testing.assert_allclose(memit, emmet, rtol=1e-4, atol=1e-6 * np.abs(emmet).max())
    k, r = tensor(keys[:, :1]), tensor(residuals[:, :1])
    rome = product(rank_one(k[:, 0], k[:, 0], r[:, 0], moment))
    limit = product(least_squares(k, r, moment, 1e-12))
    np.testing.assert_allclose(limit, rome, rtol=1e-6, atol=1e-9 * np.abs(rome).max())


def test_emmet_is_exact_and_of_one_fact_rome_to_rounding(moment, keys, residuals):
    exact = product(constrained(tensor(keys), tensor(residuals), moment, 0.0))
    np.testing.assert_allclose(exact @ keys, residuals, atol=1e-9)
    k, r = tensor(keys[:, :1]), tensor(residuals[:, :1])
    emmet, rome = product(constrained(k, r, moment, 0.0)), product(rank_one(k[:, 0], k[:, 0], r[:, 0], moment))
    assert np.abs(emmet - rome).max() <= 1e-12 * np.abs(rome).max()


def test_emmet_is_the_dense_form_and_does_not_know_the_scale_of_text(moment, keys, residuals):
    c = c_of(moment)
    inverse = np.linalg.inv(c)
    for ridge in (0.0, 0.1, 10.0):
        dense = residuals @ np.linalg.inv(keys.T @ inverse @ keys + ridge * np.eye(N)) @ keys.T @ inverse
        update = product(constrained(tensor(keys), tensor(residuals), moment, ridge))
        np.testing.assert_allclose(update, dense, rtol=1e-6, atol=1e-8 * np.abs(dense).max())
    scaled = product(constrained(tensor(keys), tensor(residuals), moment_of(c * 1e3), 0.0))
    np.testing.assert_allclose(scaled, product(constrained(tensor(keys), tensor(residuals), moment, 0.0)), rtol=1e-7)


def test_facts_that_depend_on_each_other(moment, keys, residuals):
    """The same fact twice: with a ridge each copy is given as much; without one there is no answer."""
    twice, both = tensor(np.repeat(keys[:, :1], 2, axis=1)), tensor(np.repeat(residuals[:, :1], 2, axis=1))
    update = product(least_squares(twice, both, moment, 1.0))
    c = c_of(moment)
    dense = both.numpy() @ np.linalg.solve(c + twice.numpy() @ twice.numpy().T, twice.numpy()).T
    np.testing.assert_allclose(update, dense, rtol=1e-7, atol=1e-10)
    assert np.isfinite(product(constrained(twice, both, moment, 0.1))).all()
    with pytest.raises(ChangeError, match="depend on each other"):
        constrained(twice, both, moment, 0.0)


@pytest.mark.parametrize(
    "solve", [lambda k, r, m: least_squares(k, r, m, 2.0), lambda k, r, m: constrained(k, r, m, 0.1)]
)
def test_the_order_of_facts_does_not_count(moment, keys, residuals, solve):
    order = [3, 0, 4, 1, 2]
    there = product(solve(tensor(keys), tensor(residuals), moment))
    other = product(solve(tensor(keys[:, order]), tensor(residuals[:, order]), moment))
    np.testing.assert_allclose(other, there, rtol=1e-8, atol=1e-11)


@pytest.fixture
def retained(moment):
    return moment.retained(1e-3)


def none():
    return torch.zeros(D, 0, dtype=torch.float64)


def dense_alphaedit(keys, residuals, retained, past, ridge):
    p = np.eye(D) - retained @ retained.T
    return np.linalg.solve(p @ (keys @ keys.T + past @ past.T) + ridge * np.eye(D), p @ keys @ residuals.T).T, p


@pytest.mark.parametrize("n_past", [0, 1, 7, 40])
def test_alphaedit_is_the_dense_system_in_the_null_space(moment, keys, residuals, retained, rng, n_past):
    past = rng.normal(size=(D, n_past))
    factors = in_null_space(tensor(keys), tensor(residuals), retained, tensor(past), 10.0)
    update, q = product(factors), retained.numpy()
    dense, p = dense_alphaedit(keys, residuals, q, past, 10.0)
    assert 0 < q.shape[1] < D
    np.testing.assert_allclose(update, dense, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(p @ p, p, atol=1e-12)
    np.testing.assert_allclose(update @ p, update, atol=1e-12)
    assert np.abs(update @ q).max() < 1e-12
    assert np.trace(update @ c_of(moment) @ update.T) <= 1e-3 * np.sum(update**2)
    stationary = (update @ p @ keys - residuals) @ keys.T @ p + update @ p @ past @ past.T @ p + 10.0 * update @ p
    assert np.abs(stationary).max() < 1e-9
    assert factors.outputs.shape == (H, N)  # past keys do not raise the rank


def test_alphaedit_without_what_to_keep_is_ridge_regression_and_without_room_nothing(keys, residuals):
    free = in_null_space(tensor(keys), tensor(residuals), none(), none(), 3.0)
    ridge = residuals @ np.linalg.solve(keys.T @ keys + 3.0 * np.eye(N), keys.T)
    np.testing.assert_allclose(product(free), ridge, rtol=1e-9)
    full = in_null_space(tensor(keys), tensor(residuals), torch.eye(D, dtype=torch.float64), none(), 3.0)
    assert not product(full).any()


def test_keys_of_earlier_edits_keep_their_values_the_more_the_smaller_the_ridge(keys, residuals, retained, rng):
    past = rng.normal(size=(D, 2))
    moved = [
        np.abs(product(in_null_space(tensor(keys), tensor(residuals), retained, tensor(past), ridge)) @ past).max()
        for ridge in (1e-8, 1.0)
    ]
    assert moved[0] < 1e-6 < moved[1]
