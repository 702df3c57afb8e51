"""One layer's correction while it is tuned: Adam down the KL divergence to the model's output, the best check kept."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mechmask.read.lenses.affine import linear_of, translators_of
from mechmask.read.lenses.config import LensConfig
from mechmask.read.lenses.divergence import Readout, Target


class Tuning:
    """The correction of one layer while it is tuned.

    Args:
        layer: which.
        start: what it starts from; left as it is.
        config: how.
    """

    def __init__(self, layer: int, start: nn.Linear, config: LensConfig) -> None:
        self.layer = layer
        self.linear = _copied(start).requires_grad_(True)
        self.best, self.best_kl, self.stopped = start, float("inf"), False
        self._misses, self._patience = 0, config.patience
        self._optimizer = torch.optim.Adam(self.linear.parameters(), lr=config.lr)
        self._schedule = torch.optim.lr_scheduler.LinearLR(
            self._optimizer, start_factor=1.0, end_factor=1 / config.steps, total_iters=max(1, config.steps - 1)
        )

    def step(self, readout: Readout, residual: Float[Tensor, "node width"], target: Target) -> None:
        """One step down the KL on these tokens."""
        normed = readout.norm(residual + self.linear(residual))
        self._optimizer.zero_grad()
        gradients = torch.autograd.grad(
            normed, list(self.linear.parameters()), grad_outputs=readout.gradient(normed, target)
        )
        for parameter, gradient in zip(self.linear.parameters(), gradients, strict=True):
            parameter.grad = gradient
        self._optimizer.step()
        self._schedule.step()

    def checked(self, kl: float) -> None:
        """Keep the correction if it is the best so far; stop after as many checks without one as patience allows."""
        if kl < self.best_kl:
            self.best, self.best_kl, self._misses = _copied(self.linear), kl, 0
        else:
            self._misses += 1
            self.stopped = self._misses >= self._patience


@torch.no_grad()
def carried(linear: nn.Linear, residual: Float[Tensor, "node width"]) -> Float[Tensor, "node width"]:
    """The residual with its correction."""
    return residual + linear(residual)


def _copied(linear: nn.Linear) -> nn.Linear:
    made = translators_of(linear.weight.detach()[None], linear.bias.detach()[None], linear.weight.device)
    return linear_of(made, 0)
