"""Many value differences as one update of a linear map, and the way back by hand (MALMEN, Tan et al. 2024).

Keys K ``[token, key]``, differences D ``[token, value]``; the update ``S = (K'K + r I)^-1 K'D`` minimises
``|K S - D|^2 + r |S|^2``. With V = K (K'K + r I)^-1, which is (K K' + r I)^-1 K, it is V'D: its factors are there
without a product, and with them the gradients: ``dL/dD = V dL/dS`` and ``dL/dlog r = -r <V (K'K + r I)^-1 dL/dS, D>``.
The system that is solved is as large as there are tokens or keys, whichever is less. All in float64.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from mechmask.errors import ChangeError
from mechmask.write.low_rank import Factors


class Ridge:
    """The least-squares problem of some keys, whatever differences they are to have.

    Args:
        keys: K, of any type.
        ridge: r, above 0.

    Raises:
        ChangeError: if a key is not finite, or the ridge is lost in the keys' rounding.
    """

    def __init__(self, keys: Float[Tensor, "token key"], ridge: float) -> None:
        self._keys, self._ridge = keys.double(), ridge
        by_token = len(keys) <= keys.shape[1]
        self._factor = _factored(self._keys if by_token else self._keys.mT, ridge)
        self._by_token = by_token

    @cached_property
    def inputs(self) -> Float[Tensor, "token key"]:
        """V: what the update takes its input by."""
        return self._solve(self._keys)

    def factors(self, differences: Float[Tensor, "token value"]) -> Factors:
        """The update in factors, as it acts on a column.

        Args:
            differences: D.
        """
        return Factors(differences.double().mT, self.inputs)

    def backward(
        self, gradient: Float[Tensor, "key value"], differences: Float[Tensor, "token value"]
    ) -> tuple[Float[Tensor, "token value"], float]:
        """How a loss depends on the differences, and on the logarithm of the ridge.

        Args:
            gradient: dL/dS.
            differences: D.
        """
        gradient = gradient.double()
        along = self._solve(self.inputs) @ gradient
        return self.inputs @ gradient, -self._ridge * float((along * differences.double()).sum())

    def _solve(self, rows: Float[Tensor, "token key"]) -> Float[Tensor, "token key"]:
        """Rows by (K'K + r I)^-1, for rows that are combinations of K's."""
        if self._by_token:
            return torch.cholesky_solve(rows, self._factor)
        return torch.cholesky_solve(rows.mT, self._factor).mT


def _factored(rows: Float[Tensor, "row column"], ridge: float) -> Float[Tensor, "row row"]:
    system = rows @ rows.mT
    factor, failed = torch.linalg.cholesky_ex(system + ridge * torch.eye(len(system)).to(system))
    if failed or not factor.isfinite().all() or not math.isfinite(ridge):
        raise ChangeError(
            f"The keys of the facts are not finite, or a ridge of {ridge:g} is lost beside them, so no update can be "
            "solved for. Check the weights, or give a larger ridge."
        )
    return factor
