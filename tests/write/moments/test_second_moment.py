"""``C^-1 k`` against numpy, the retained directions, dead neurons, singular matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mechmask.errors import ChangeError
from mechmask.write.moments import second_moment
from mechmask.write.moments.second_moment import SecondMoment

WIDTH = 48


def keys_of(n, seed=0, width=WIDTH):
    """Keys whose neurons differ in scale by orders of magnitude, as those of real models."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(width, width, generator=generator, dtype=torch.float64)
    scales = torch.logspace(-3, 1, width, dtype=torch.float64)
    return (torch.randn(n, width, generator=generator, dtype=torch.float64) @ mixed) * scales


def moment_of(keys, shrinkage=1e-4):
    return SecondMoment(3, len(keys), keys.T @ keys / len(keys), shrinkage)


@pytest.mark.parametrize("shrinkage", [0.0, 1e-6, 1e-2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_it_solves_as_numpy_does(shrinkage, dtype):
    moment = moment_of(keys_of(500), shrinkage)
    right = keys_of(7, seed=1).T.to(dtype)
    dense = moment.matrix.numpy() + shrinkage * np.trace(moment.matrix.numpy()) / WIDTH * np.eye(WIDTH)
    wanted = np.linalg.solve(dense, right.double().numpy())
    found = moment.solve(right)
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-6, atol=1e-9 * np.abs(wanted).max())


def test_it_is_factored_once(monkeypatch):
    calls = []
    through = torch.linalg.cholesky_ex
    monkeypatch.setattr(second_moment.torch.linalg, "cholesky_ex", lambda m: calls.append(1) or through(m))
    moment = moment_of(keys_of(500))
    for n in (1, 2):
        moment.solve(keys_of(n).T)
    assert len(calls) == 1


def test_the_matrix_stays_without_shrinkage():
    moment = moment_of(keys_of(500), shrinkage=0.5)
    before = moment.matrix.clone()
    moment.solve(keys_of(1).T)
    moment.retained(0.1)
    assert torch.equal(moment.matrix, before)


@pytest.mark.parametrize("threshold", [0.0, 1e-4, 1.0])
def test_retained_directions_are_those_that_keys_take_up(threshold):
    moment = moment_of(keys_of(500))
    values, vectors = np.linalg.eigh(moment.matrix.numpy())
    kept = vectors[:, values >= threshold]
    q = moment.retained(threshold).numpy()
    assert q.shape == kept.shape
    np.testing.assert_allclose(q.T @ q, np.eye(q.shape[1]), atol=1e-12)
    np.testing.assert_allclose(q @ q.T, kept @ kept.T, atol=1e-9)
    np.testing.assert_allclose(moment.eigenvalues.numpy(), values, rtol=1e-9, atol=1e-13 * values[-1])
    free = np.eye(WIDTH) - q @ q.T
    assert np.linalg.norm(free @ moment.matrix.numpy() @ free, 2) <= max(threshold, 1e-12) * (1 + 1e-9)


def test_a_threshold_above_all_keeps_no_direction():
    moment = moment_of(keys_of(500))
    assert moment.retained(float("inf")).shape == (WIDTH, 0)
    assert moment.retained(-1.0).shape == (WIDTH, WIDTH)
    with pytest.raises(ChangeError, match="not a number"):
        moment.retained(float("nan"))


def test_a_dead_neuron_does_not_blow_up():
    """Where the text never woke a neuron, a key that does costs ``k^2 / (shrinkage * mean eigenvalue)``, no more."""
    keys = keys_of(500)
    keys[:, 5] = 0
    moment = moment_of(keys)
    assert not moment.matrix[5].any()
    right = keys_of(1, seed=2).T
    found = moment.solve(right)
    floor = moment.shrinkage * moment.matrix.trace() / WIDTH
    assert found[5].item() == pytest.approx((right[5] / floor).item(), rel=1e-9)
    alive = [i for i in range(WIDTH) if i != 5]
    shrunk = moment.matrix[alive][:, alive] + floor * torch.eye(WIDTH - 1, dtype=torch.float64)
    wanted = np.linalg.solve(shrunk.numpy(), right[alive].numpy())
    np.testing.assert_allclose(found[alive].numpy(), wanted, rtol=1e-8)
    with pytest.raises(ChangeError, match="1 of 48 neurons were silent on the text"):
        moment_of(keys, shrinkage=0.0).solve(right)


def test_what_is_singular_without_shrinkage_is_refused():
    right = keys_of(1).T
    with pytest.raises(ChangeError, match=r"layer 3 is singular .* 20 tokens do not span 48 .* larger shrinkage"):
        moment_of(keys_of(20), shrinkage=0.0).solve(right)
    twice = keys_of(500)
    twice[:, 7] = 2 * twice[:, 8]
    with pytest.raises(ChangeError, match="some directions of the keys determine others"):
        moment_of(twice, shrinkage=0.0).solve(right)
    assert moment_of(keys_of(20)).solve(right).isfinite().all()
    assert moment_of(twice).solve(right).isfinite().all()
    with pytest.raises(ChangeError, match="every key of the 500 tokens is zero"):
        moment_of(torch.zeros(500, WIDTH, dtype=torch.float64)).solve(right)


def test_scales_alone_are_not_singular():
    """Neurons ten orders of magnitude apart, each with a life of its own."""
    keys = keys_of(2000) * torch.logspace(-6, 0, WIDTH, dtype=torch.float64)
    assert moment_of(keys, shrinkage=0.0).solve(keys[:3].T).isfinite().all()
