"""A norm with its scale frozen at one input: what is left is linear, so that contributions to its output add up.

Weight and bias are asked of the module itself, since families keep them in different forms (Gemma's weight is 1 + what
is stored, OLMo's norm has none, Cohere's centres without being a LayerNorm of torch's); the frozen map then has to
reproduce what the module says.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mechmask.errors import ModelError
from mechmask.models.offloaded import in_memory

# A norm says its effective weight and bias at an input of this size and the mean zero, which is the same to one that
# centres; beside it an epsilon is below 1e-10.
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
    whole = in_memory(norm)
    exact = (copy.deepcopy(norm) if whole is norm else whole).float()
    normed = exact(inputs)
    weight, bias = _weight_and_bias(exact, inputs.shape[-1], inputs.device)
    held = [_held(inputs, normed, weight, bias, centres) for centres in (True, False)]
    (frozen_norm, error) = min(held, key=lambda pair: pair[1])
    if not error <= _TOLERANCE * normed.abs().max():
        raise ModelError(
            f"{type(norm).__name__} is neither a LayerNorm nor an RMSNorm (frozen, it is off by {error:.2g}), so "
            "contributions through it do not add up. Read the model with read_depth instead."
        )
    return frozen_norm


def _weight_and_bias(norm: nn.Module, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Each ``[width]``, as they show in what the norm makes of an input and of its opposite."""
    signs = 1 - 2.0 * (torch.arange(width, device=device) % 2)
    probe = _PROBE * (signs - signs.mean())
    there, opposite = norm(torch.stack([probe, -probe]))
    weight = (there - opposite) / 2 * probe.square().mean().sqrt() / probe
    return weight.detach(), ((there + opposite) / 2).detach()


def _held(
    inputs: Float[Tensor, "node width"],
    normed: Float[Tensor, "node width"],
    weight: Float[Tensor, " width"],
    bias: Float[Tensor, " width"],
    centres: bool,
) -> tuple[FrozenNorm, float]:
    """The frozen norm if it centres, or if it does not, and by how much it is off."""
    unscaled = (inputs - inputs.mean(-1, keepdim=True) if centres else inputs) * weight
    scale = ((normed - bias) * unscaled).sum(-1) / unscaled.square().sum(-1)
    error = float((scale[:, None] * unscaled + bias - normed).abs().max())
    return FrozenNorm(weight, bias, scale.detach(), centres), error if error == error else float("inf")
