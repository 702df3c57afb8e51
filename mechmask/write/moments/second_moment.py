"""The second moment of one layer's keys, ``C = E[k k^T]``, and what the closed-form editors ask of it.

ROME and MEMIT (Meng et al. 2022, 2023) ask for ``C^-1 k``, by one Cholesky factor; AlphaEdit (Fang et al. 2025) for the
directions that keys take up. All of it is float64 on the CPU, and is made when first asked for, once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from mechmask.errors import ChangeError


@dataclass(frozen=True, eq=False)
class SecondMoment:
    """``E[k k^T]`` over tokens, not centred, where k is the input of a block's MLP output projection.

    Attributes:
        layer: the block, 0..L-1.
        n_tokens: over how many tokens it is the mean.
        matrix: the mean itself ``[key, key]``, float64, without shrinkage; in the model's units squared.
        shrinkage: the share of the mean eigenvalue, trace / d, that is added to every direction before it is inverted.
    """

    layer: int
    n_tokens: int
    matrix: Float[Tensor, "key key"]
    shrinkage: float

    def __repr__(self) -> str:
        width = len(self.matrix)
        return (
            f"SecondMoment(layer {self.layer}, {width} x {width}, {self.n_tokens} tokens, shrinkage {self.shrinkage:g})"
        )

    def solve(self, keys: Float[Tensor, "key n"]) -> Float[Tensor, "key n"]:
        """``(C + shrinkage * trace(C) / d * I)^-1 keys``, in float64 on the CPU, one over the units of keys.

        Args:
            keys: one key a column ``[key, n]``, of any type and on any device.

        Raises:
            ChangeError: if what is inverted is singular to the precision of float64.
        """
        lower = self._factor  # torch.cholesky_solve, which copies it each time, has the same bits and takes up to twice
        half = torch.linalg.solve_triangular(lower, keys.detach().to("cpu", torch.float64), upper=False)
        return torch.linalg.solve_triangular(lower.mT, half, upper=True)

    def retained(self, threshold: float) -> Float[Tensor, "key kept"]:
        """An orthonormal basis Q of the directions that keys take up; ``I - Q Q^T`` projects onto all others.

        Args:
            threshold: the least eigenvalue of ``matrix``, without shrinkage, of a direction that counts.

        Returns:
            Eigenvectors ``[key, kept]`` in float64, of rising eigenvalue; perhaps none.

        Raises:
            ChangeError: if the threshold is not a number.
        """
        if math.isnan(threshold):
            raise ChangeError("The threshold of eigenvalues is not a number. AlphaEdit's is 0.02.")
        values, vectors = self._eigen
        return vectors[:, values >= threshold]

    @property
    def eigenvalues(self) -> Float[Tensor, " key"]:
        """The eigenvalues of ``matrix`` ``[key]``, rising: what a threshold is chosen from."""
        return self._eigen[0]

    @cached_property
    def _eigen(self) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(self.matrix)
        return values, vectors

    @cached_property
    def _factor(self) -> Tensor:
        shrunk = self.matrix.clone()
        shrunk.diagonal().add_(self.shrinkage * self.matrix.trace() / len(shrunk))
        factor, failed = torch.linalg.cholesky_ex(shrunk)
        # What is left of a direction when those before it are taken off, as a share of itself: free of the neurons'
        # scales, 0 for one that the others determine or that is dead. Rounding alone leaves up to d * eps.
        share_left = factor.diagonal().square() / shrunk.diagonal()
        if failed or not bool((share_left > len(shrunk) * torch.finfo(torch.float64).eps).all()):
            raise ChangeError(self._singular())
        return factor

    def _singular(self) -> str:
        what = f"The second moment of the keys of layer {self.layer} is singular"
        width = len(self.matrix)
        if not self.matrix.any():
            return f"{what}: every key of the {self.n_tokens} tokens is zero. Choose another layer."
        n_dead = int((self.matrix.diagonal() == 0).sum())
        causes = [
            *([f"{self.n_tokens} tokens do not span {width} directions"] if self.n_tokens < width else []),
            *([f"{n_dead} of {width} neurons were silent on the text"] if n_dead else []),
        ]
        cause = " and ".join(causes) or "some directions of the keys determine others"
        more = f", or more than {width} tokens" if self.n_tokens < width and not n_dead else ""
        return f"{what} with a shrinkage of {self.shrinkage:g}: {cause}. Give a larger shrinkage, such as 1e-2{more}."
