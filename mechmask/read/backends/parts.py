"""What a block's parts add to the residual stream, and what the hook backends share in reading it.

Embedding, attention and MLP of every block sum to what the final norm reads (Elhage et al. 2021). Every hook backend
gets a module tree of its own: what it rewrites or leaves behind is not the caller's module.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Float
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from mechmask.models.offloaded import lent_tensors, shared_maps
from mechmask.models.packing import Batch
from mechmask.models.quantised import packed_objects


@dataclass(frozen=True)
class Parts:
    """The residual stream at the nodes of a batch, part by part, in the dtype of the model.

    Attributes:
        embedding: the residual at layer 0 ``[node, width]``.
        attention: what each block's attention adds ``[block, node, width]``.
        mlp: what each block's MLP adds ``[block, node, width]``.
        heads: what enters each attention's output projection, by query head ``[block, node, head, head_width]``.
    """

    embedding: Float[Tensor, "node width"]
    attention: Float[Tensor, "block node width"]
    mlp: Float[Tensor, "block node width"]
    heads: Float[Tensor, "block node head head_width"]


def joined(each: Sequence[Parts]) -> Parts:
    """The parts of several passes as those of one."""
    fields = {"embedding": 0, "attention": 1, "mlp": 1, "heads": 1}
    return Parts(**{name: torch.cat([getattr(one, name) for one in each], dim=axis) for name, axis in fields.items()})


def at_nodes(value: Tensor, batch: Batch) -> Float[Tensor, "node last"]:
    """A hooked value at the nodes of a batch: some layers see rows and positions as one axis, or heads as two."""
    rows, columns = batch.rows.to(value.device), batch.columns.to(value.device)
    return value.reshape(*batch.input_ids.shape, -1)[rows, columns]  # how many axes there are is what differs


def by_head(heads: Float[Tensor, "block node width"], n_heads: int) -> Float[Tensor, "block node head head_width"]:
    """What enters an attention's output projection, head by head."""
    return rearrange(heads, "block node (head head_width) -> block node head head_width", head=n_heads)


def sharing_clone(module: PreTrainedModel) -> PreTrainedModel:
    """The same module tree anew, in evaluation mode, over the very same parameters and buffers."""
    shared: dict[int, object] = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    shared |= shared_maps(module) | {id(packed): packed for _, packed in packed_objects(module)}
    return copy.deepcopy(module, shared).eval()


def what_a_clone_sees(module: nn.Module) -> tuple[object, ...]:
    """Which tensors a module computes with, which of its adapters are on and how much, and which hooks are on it.

    While this stays the same, a clone that shares its tensors computes what the module computes. A clone holds the
    tensors and hooks that it was made with, so no other one can have the identity of one.
    """
    held = (*module.named_parameters(), *module.named_buffers(), *packed_objects(module))
    lent = lent_tensors(module)  # between two passes accelerate makes a new empty tensor in the place of each
    tensors = [(name, id(tensor)) for name, tensor in held if name not in lent]
    maps = tuple(shared_maps(module))
    modules = list(module.named_modules())
    adapters = [
        (
            *(name, child.disable_adapters, tuple(child.active_adapters), tuple(child.merged_adapters)),
            tuple(getattr(child, "scaling", {}).items()),
        )
        for name, child in modules
        if isinstance(child, BaseTunerLayer | AuxiliaryTrainingWrapper)
    ]
    hooks = [
        (name, *map(id, hooked))
        for name, child in modules
        if (hooked := [*child._forward_pre_hooks.values(), *child._forward_hooks.values()])
    ]
    return (*tensors, *maps, *adapters, *hooks)
