"""A weight as a narrower type would hold it: bfloat16, int8 and NF4, there and back, on any processor.

int8: LLM.int8()'s vector-wise weights, one scale for each output (Dettmers et al. 2022, section 3.1). NF4: blocks of 64
weights on a scale of their own, the 16 codes at quantiles of a normal distribution (Dettmers et al. 2023, section 3 and
appendix E). Neither the outlier features of activations nor the second rounding of NF4's scales is imitated.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Literal, TypeAlias, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from mechmask.errors import ChangeError, known_names

Precision: TypeAlias = Literal["bfloat16", "int8", "nf4"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)

NF4_BLOCK = 64  # weights that share a scale
_INT8_LIMIT = 127  # symmetric: -128 is not used
_NF4_OFFSET = 0.9677083  # the outermost quantile, (1 - 1/30 + 1 - 1/32) / 2, as published


def rounded(weight: Float[Tensor, "output input"], precision: str) -> Float[Tensor, "output input"]:
    """A weight after a round trip through a narrower type; rounding it once more changes nothing.

    Args:
        weight: ``[output, input]``. ``int8`` has a scale for each output; ``nf4`` one for each run of 64 along the
            inputs of one output after the other, the last run being what is left.
        precision: ``bfloat16``, ``int8`` or ``nf4``.

    Returns:
        The weight in its own type. No entry is off by more than 1/256 of itself (bfloat16, but for subnormal numbers),
        1/254 of the largest of its output (int8), or 0.152 of the largest of its block (nf4).

    Raises:
        ChangeError: if the precision is not known.
    """
    require_precision(precision)
    return _ROUNDINGS[precision](weight)


@cache
def nf4_codes() -> tuple[float, ...]:
    """The 16 values of NF4, from -1 to 1, in order: 8 quantiles above 0, 7 below it, and 0 itself.

    Of a normal distribution, from the outermost inwards in even steps of probability, divided by the largest (Dettmers
    et al. 2023, section 3 and appendix E). Both ends have the same quantile, so that they are -1 and 1.
    """
    above, below = (torch.special.ndtri(torch.linspace(_NF4_OFFSET, 0.5, n + 1)[:-1].double()) for n in (8, 7))
    codes = torch.cat([-below, torch.zeros(1), above]).float().sort().values
    return tuple((codes / codes.max()).tolist())


def require_precision(precision: str) -> None:
    """Refuse a type that weights are not rounded to.

    Raises:
        ChangeError: naming those that they are.
    """
    if precision not in _ROUNDINGS:
        raise ChangeError(
            f"Weights are not rounded to {precision!r}. {known_names(precision, _ROUNDINGS)} For float32, read the "
            "model as it is."
        )


def _to_bfloat16(weight: Tensor) -> Tensor:
    return weight.to(torch.bfloat16).to(weight.dtype)


def _to_int8(weight: Tensor) -> Tensor:
    wide = weight.double()  # so that the largest entry comes back as it was
    largest = wide.abs().amax(1, keepdim=True)
    scale = torch.where(largest > 0, largest, 1.0)
    return ((wide * _INT8_LIMIT / scale).round() * scale / _INT8_LIMIT).to(weight.dtype)


def _to_nf4(weight: Tensor) -> Tensor:
    codes = torch.tensor(nf4_codes(), dtype=torch.float64, device=weight.device)
    between = (codes[1:] + codes[:-1]) / 2
    flat = weight.double().flatten()
    blocks = torch.nn.functional.pad(flat, (0, -len(flat) % NF4_BLOCK)).view(-1, NF4_BLOCK)
    largest = blocks.abs().amax(1, keepdim=True)
    nearest = torch.bucketize(blocks / torch.where(largest > 0, largest, 1.0), between)
    return (codes[nearest] * largest).flatten()[: len(flat)].view_as(weight).to(weight.dtype)


_ROUNDINGS: dict[str, Callable[[Tensor], Tensor]] = {"bfloat16": _to_bfloat16, "int8": _to_int8, "nf4": _to_nf4}
