"""The network of MALMEN (Tan et al. 2024): from the gradient at a token to what its value should move by.

A linear map meets a token as a key k and answers with a value v; the gradient of the loss by that value is g. The
network makes of the pair another one, and the value is to move by ``d = -eta (k . k~) g~``. It sees pairs normalised by
running statistics, passes them through residual blocks of low rank, and begins as the identity: ``d`` is then a step of
gradient descent on a normalised pair. One network serves all maps of one shape; scale, shift, eta and the ridge under
which differences become one update are each map's own. Written from the paper's equations.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mechmask.models.gradients import without_gradients


class Hypernetwork(nn.Module):
    """The network for linear maps of one shape.

    Args:
        key_width: of what enters a map.
        value_width: of what leaves it.
        n_maps: how many maps there are.
        rank: of the blocks' products.
        n_blocks: residual blocks.
        lr: eta of every map at the start.
        ridge: of every map at the start.

    Attributes:
        lr: eta ``[map]``.
        log_ridge: logarithm of the ridge ``[map]``.
        n_seen: tokens that the statistics are of.
        mean: of every entry of the pairs so far ``[entry]``, zero before the first.
        deviations: summed squares of what they differ from it ``[entry]``.
    """

    def __init__(
        self, key_width: int, value_width: int, n_maps: int, *, rank: int, n_blocks: int, lr: float, ridge: float
    ) -> None:
        super().__init__()
        width = key_width + value_width
        self.widths = (key_width, value_width)
        self._blocks = [_Block(width, n_maps, rank) for _ in range(n_blocks)]
        self.blocks = nn.ModuleList(self._blocks)
        self.lr = nn.Parameter(torch.full((n_maps,), lr))
        self.log_ridge = nn.Parameter(torch.full((n_maps,), ridge).log())
        self.register_buffer("n_seen", torch.tensor(0))
        self.register_buffer("mean", torch.zeros(width, dtype=torch.float64))
        self.register_buffer("deviations", torch.zeros(width, dtype=torch.float64))
        self.n_seen: Tensor
        self.mean: Tensor
        self.deviations: Tensor

    def draw(self, seed: int) -> None:
        """Draw the blocks' first factors, standard normal as published, from a seed alone.

        Args:
            seed: the seed.
        """
        generator = torch.Generator().manual_seed(seed)
        with without_gradients():
            for block in self._blocks:
                block.down.copy_(torch.randn(block.down.shape, generator=generator))

    def observe(self, keys: Float[Tensor, "token key"], gradients: Float[Tensor, "token value"]) -> None:
        """Take pairs into the statistics (Welford 1962, by batches as Chan et al. 1983).

        Only training does: published code also observes what it validates on and what it edits.

        Args:
            keys: what entered a map.
            gradients: of the loss by what left it.
        """
        with without_gradients():
            pairs = torch.cat([keys, gradients], 1).double()
            n_before, n_new = int(self.n_seen), len(pairs)
            own = pairs.mean(0)
            apart = own - self.mean
            self.n_seen += n_new
            self.mean += apart * n_new / (n_before + n_new)
            self.deviations += (pairs - own).square().sum(0)
            self.deviations += apart.square() * n_before * n_new / (n_before + n_new)

    def forward(
        self, keys: Float[Tensor, "token key"], gradients: Float[Tensor, "token value"], number: int
    ) -> Float[Tensor, "token value"]:
        """What each token's value should move by.

        Args:
            keys: what entered a map.
            gradients: of the loss by what left it.
            number: which map.
        """
        pairs = self._normalised(torch.cat([keys, gradients], 1))
        for block in self.blocks:
            pairs = block(pairs, number)
        new_keys, new_gradients = pairs.split(self.widths, 1)
        return -self.lr[number] * (keys * new_keys).sum(1, keepdim=True) * new_gradients

    @property
    def ridges(self) -> list[float]:
        """The ridge of each map."""
        return self.log_ridge.detach().double().exp().tolist()

    def _normalised(self, pairs: Float[Tensor, "token entry"]) -> Float[Tensor, "token entry"]:
        """Pairs less their mean, by their standard deviation; an entry that never moved keeps its size."""
        deviation = (self.deviations / (self.n_seen - 1).clamp(min=1)).sqrt()
        deviation = torch.where(deviation > 0, deviation, 1.0)
        return (pairs - self.mean.to(pairs)) / deviation.to(pairs)


class _Block(nn.Module):
    """x + scale * relu(x A B + bias) + shift; with B, bias and shift zero at the start, the identity."""

    def __init__(self, width: int, n_maps: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.zeros(width, rank))
        self.up = nn.Parameter(torch.zeros(rank, width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.ones(n_maps, width))
        self.shift = nn.Parameter(torch.zeros(n_maps, width))

    def forward(self, pairs: Float[Tensor, "token entry"], number: int) -> Float[Tensor, "token entry"]:
        moved = (pairs @ self.down @ self.up + self.bias).relu()
        return pairs + self.scale[number] * moved + self.shift[number]
