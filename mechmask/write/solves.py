"""How an editor writes values at keys: closed forms, each of a rank as high as there are facts.

Keys K are ``[key, fact]``, residuals R = V - W K ``[width, fact]``, and an update D ``[width, key]`` is the product of
its factors. C is the second moment of keys in text; it is factored once, and what is solved for each edit is as large
as the number of its facts. All in float64.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from mechmask.errors import ChangeError
from mechmask.write.low_rank import Factors
from mechmask.write.moments.second_moment import SecondMoment


def rank_one(
    key: Float[Tensor, " key"],
    written: Float[Tensor, " key"],
    residual: Float[Tensor, " width"],
    moment: SecondMoment | None,
) -> Factors:
    """ROME (Meng et al. 2022, eq. 2): D = r (C^-1 k)' / ((C^-1 k)' k_written).

    Of all D with D k_written = r it is, where both keys are one, the one that costs the keys of text least,
    ``tr(D C D')``.

    Args:
        key: gives the direction C^-1 k.
        written: the key at which the value stands exactly.
        residual: what is to be added there.
        moment: C; the identity where there is none.
    """
    direction = key if moment is None else moment.solve(key[:, None])[:, 0]
    along = direction @ written
    if along.abs() <= torch.finfo(along.dtype).eps * direction.norm() * written.norm():
        raise ChangeError(
            "The key of the fact is orthogonal to the direction that is written, so no value can be stored at it. Edit "
            "another layer."
        )
    return Factors(residual[:, None], (direction / along)[None])


def least_squares(
    keys: Float[Tensor, "key fact"], residuals: Float[Tensor, "width fact"], moment: SecondMoment, weight: float
) -> Factors:
    """MEMIT (Meng et al. 2023, eq. 14): D = R K' (w C + K K')^-1 = R (K' (w C)^-1 K + I)^-1 K' (w C)^-1.

    It minimises ``w tr(D C D') + |D K - R|^2``.

    Args:
        keys: K.
        residuals: R.
        moment: C.
        weight: w, how much the keys of text count (``mom2_update_weight``).
    """
    return _through(keys, residuals, moment.solve(keys) / weight, 1.0)


def constrained(
    keys: Float[Tensor, "key fact"], residuals: Float[Tensor, "width fact"], moment: SecondMoment, ridge: float
) -> Factors:
    """EMMET (Gupta et al. 2024, eq. 8): D = R (K' C^-1 K + e I)^-1 K' C^-1; with e = 0, D K = R.

    Args:
        keys: K.
        residuals: R.
        moment: C.
        ridge: e.

    Raises:
        ChangeError: if e is 0 and the keys depend on each other, as those of two facts of one prompt do.
    """
    return _through(keys, residuals, moment.solve(keys), ridge)


def in_null_space(
    keys: Float[Tensor, "key fact"],
    residuals: Float[Tensor, "width fact"],
    retained: Float[Tensor, "key kept"],
    past: Float[Tensor, "key before"],
    ridge: float,
) -> Factors:
    """AlphaEdit (Fang et al. 2025, eq. 14): D = R^ (K^' P K^ + e I)^-1 K^' P with K^ = [K, past] and R^ = [R, 0].

    P = I - Q Q' leaves out the directions Q that the keys of text take. It minimises
    ``|D P K - R|^2 + |D P past|^2 + e |D P|^2``; the published form solves a system as wide as a key.

    Args:
        keys: K.
        residuals: R.
        retained: Q, orthonormal; no update goes along it.
        past: keys of earlier edits, which keep their values.
        ridge: e.
    """
    together = torch.cat([keys, past], dim=1)
    free = together - retained @ (retained.mT @ together)
    return _through(free, residuals, free, ridge)


def _through(
    keys: Float[Tensor, "key all"],
    residuals: Float[Tensor, "width fact"],
    directions: Float[Tensor, "key all"],
    ridge: float,
) -> Factors:
    """[R, 0] (K' B + e I)^-1 B' for directions B = M K with a symmetric M that is not negative."""
    system = keys.mT @ directions
    identity = torch.eye(len(system), dtype=system.dtype)
    factor, failed = torch.linalg.cholesky_ex((system + system.mT) / 2 + ridge * identity)
    if failed or not _is_sure(factor):
        raise ChangeError(
            "The keys of the facts depend on each other, so that they cannot all have values of their own. Leave out "
            "facts of the same subject, or give the edit a ridge above 0."
        )
    own = torch.cholesky_solve(identity[:, : residuals.shape[1]], factor)
    return Factors(residuals, (directions @ own).mT)


def _is_sure(factor: Float[Tensor, "all all"]) -> bool:
    """Whether the system is further from singular than its own rounding."""
    diagonal = factor.diagonal()
    return bool(factor.isfinite().all()) and bool(
        (diagonal.min() / diagonal.max()) ** 2 > torch.finfo(factor.dtype).eps
    )
