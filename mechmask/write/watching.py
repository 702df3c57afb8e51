"""What enters and leaves the MLP output projection of a block while it runs: its key and its value."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from mechmask.interrupts import atomic_context
from mechmask.models.model import Model


@dataclass
class Watched:
    """What went through a projection the last time that it ran.

    Attributes:
        keys: what entered it ``[row, position, key]``.
        values: what left it ``[row, position, width]``, the bias and what an adapter adds included.
    """

    keys: Float[Tensor, "row position key"]
    values: Float[Tensor, "row position width"]


@atomic_context
def watching(model: Model, layer: int) -> Iterator[Watched]:
    """Inside, what goes through the MLP output projection of a block is kept; the last run counts.

    Args:
        model: the model.
        layer: the block, 0..L-1.
    """
    block = model.anatomy.blocks[layer]
    projection = model.module.get_submodule(model.anatomy.mlp_output(layer).name)
    seen = Watched(torch.empty(0, 0, 0), torch.empty(0, 0, 0))
    shape: list[int] = []

    def measure(_module: torch.nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
        shape[:] = (args[0] if args else kwargs["hidden_states"]).shape[:2]

    def keep(_module: torch.nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        # OPT's MLP takes all tokens in one row
        seen.keys, seen.values = (tensor.detach().reshape(*shape, -1) for tensor in (args[0], output))

    hooks: list[RemovableHandle] = []
    try:
        hooks.append(block.register_forward_pre_hook(measure, with_kwargs=True))
        hooks.append(projection.register_forward_hook(keep))
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
