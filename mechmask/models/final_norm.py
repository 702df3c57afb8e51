"""A norm with its scale frozen at one input: what is left is linear, so that contributions to its output add up.

The weight of an RMSNorm is asked of the module itself, since families keep it in different forms (Gemma's is
1 + weight); the frozen map then has to reproduce what the module says.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mechmask.errors import ModelError

# An RMSNorm says its effective weight at a constant input of this size, beside which its epsilon is below 1e-10.
_PROBE = 1e3

# Of the largest output. The final norms of twelve tiny architectures stay below 3e-7; an RMSNorm with a bias of 0.01
# that is not known of is off by 5e-3.
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class FrozenNorm:
    """``output = scale * weight * (input, centred where the norm centres) + bias``, in float32.

    Attributes:
        weight: the effective weight ``[width]``.
        bias: zero where the norm has none ``[width]``.
        scale: one over the deviation, or over the root mean square, of each input ``[node]``.
        centres: whether the mean of the input is taken off (LayerNorm).
    """

    weight: Float[Tensor, " width"]
    bias: Float[Tensor, " width"]
    scale: Float[Tensor, " node"]
    centres: bool

    def pull_back(self, direction: Float[Tensor, "node token width"]) -> Float[Tensor, "node token width"]:
        """The direction at the input that says what ``direction`` says at the output, the bias aside."""
        pulled = direction * self.weight
        if self.centres:
            pulled = pulled - pulled.mean(-1, keepdim=True)
        return pulled * self.scale[:, None, None]


def frozen(norm: nn.Module, inputs: Float[Tensor, "node width"]) -> FrozenNorm:
    """A norm with its scale held where it is at these inputs.

    Raises:
        ModelError: if the norm is neither a LayerNorm nor an RMSNorm.
    """
    inputs = inputs.float()
    exact = copy.deepcopy(norm).float()
    centres = isinstance(exact, nn.LayerNorm)
    normed = exact(inputs)
    if centres:
        weight, bias = _or(exact.weight, torch.ones_like(inputs[0])), _or(exact.bias, torch.zeros_like(inputs[0]))
    else:
        weight, bias = exact(torch.full_like(inputs[:1], _PROBE))[0], torch.zeros_like(inputs[0])
    unscaled = (inputs - inputs.mean(-1, keepdim=True) if centres else inputs) * weight
    scale = ((normed - bias) * unscaled).sum(-1) / unscaled.square().sum(-1)
    error = (scale[:, None] * unscaled + bias - normed).abs().max()
    if not error <= _TOLERANCE * normed.abs().max():
        raise ModelError(
            f"{type(norm).__name__} is neither a LayerNorm nor an RMSNorm (frozen, it is off by {error:.2g}), so "
            "contributions through it do not add up. Read the model with read_depth instead."
        )
    return FrozenNorm(weight.detach(), bias.detach(), scale.detach(), centres)


def _or(parameter: Tensor | None, default: Tensor) -> Tensor:
    return default if parameter is None else parameter
