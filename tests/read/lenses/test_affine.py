"""The ridge lens against least squares in numpy; what a fitted lens shows."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from mechmask.errors import ReadingError
from mechmask.read.lenses.affine import Moments
from mechmask.read.lenses.load import load_lens


@pytest.mark.parametrize("n", [400, 20])
def test_ridge_is_least_squares_with_augmented_rows(n):
    """Fewer tokens than directions too; a mean and a scale as residuals of real models have them."""
    rng = np.random.default_rng(0)
    width, penalty = 24, 1e-2
    scale = np.geomspace(0.1, 10, width)
    residuals = rng.normal(size=(3, n, width)) * scale + 30 * rng.normal(size=(3, 1, width))
    moments = Moments()
    for part in np.array_split(residuals, 5, axis=1):
        moments.add(torch.tensor(part))
    weights, biases = moments.solve(penalty)
    for layer in range(2):
        x, y = residuals[layer], residuals[-1] - residuals[layer]
        centred, moved = x - x.mean(0), y - y.mean(0)
        ridge = penalty * np.trace(centred.T @ centred) / width
        rows = np.vstack([centred, np.sqrt(ridge) * np.eye(width)])
        a = np.linalg.lstsq(rows, np.vstack([moved, np.zeros((width, width))]), rcond=None)[0].T
        np.testing.assert_allclose(weights[layer], a, atol=1e-8)
        np.testing.assert_allclose(biases[layer], y.mean(0) - a @ x.mean(0), atol=1e-6)


def test_residuals_that_are_not_finite_are_refused():
    moments = Moments()
    residuals = torch.randn(3, 10, 4)
    residuals[1, 5, 2] = float("nan")
    moments.add(residuals)
    with pytest.raises(ReadingError, match="layer 1 are not finite"):
        moments.solve()


def test_what_jupyter_shows(fitted, plain_lens, tmp_path):
    """The report's own numbers, and what a lens has that comes without one."""
    model, lens = fitted
    assert repr(lens) == f"FittedTunedLens({model.name!r}, 3 layers of width 32)"
    shown = [float(cell) for cell in re.findall("<td>([^<]+)</td>", lens._repr_html_())]
    np.testing.assert_allclose(shown, lens.report.kl.transpose("layer", "lens").values.ravel(), atol=0.006)
    plain_lens(model).save(tmp_path / "plain")
    plain = load_lens(tmp_path / "plain", model)._repr_html_()
    assert "Held-out" not in plain and "<thead" not in plain
