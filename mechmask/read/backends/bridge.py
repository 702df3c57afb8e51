"""TransformerLens as backend: a ``TransformerBridge`` over a structural clone that shares every weight.

A bridge rewrites the module that it wraps (classes, ``state_dict`` keys, attention), so it gets a clone of the module
tree whose parameters and buffers are the original's own tensors: nothing of the caller's module changes and no weight
is held twice, but for fused projections, which TransformerLens splits into copies. The clone is made for each reading,
since it would not see an adapter that is put on later.
"""

from __future__ import annotations

import copy
from contextlib import suppress
from typing import Any

import torch
from jaxtyping import Float
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers.utils import logging as transformers_logging

from mechmask.models.forest import Batch
from mechmask.models.model import Model

_FUSED = ("c_attn", "query_key_value", "qkv_proj", "gate_up_proj")


class BridgeBackend:
    """The residual stream by TransformerLens hooks; sees weights that change in place, not adapters put on later."""

    name = "transformer_lens"

    def __init__(self, model: Model) -> None:
        self._model = model
        self._bridge = _bridge_over(model)

    def residuals(self, batch: Batch) -> Float[Tensor, "layer node width"]:
        """The residual stream at every node of a batch, layers 0 to L, in the dtype of the model."""
        rows, columns = batch.rows, batch.columns
        kept: dict[str, Tensor] = {}

        def keep(residual: Tensor, hook: Any) -> None:
            kept[hook.name] = residual[rows.to(residual.device), columns.to(residual.device)]

        names = ["blocks.0.hook_in", *(f"blocks.{i}.hook_out" for i in range(self._model.n_layers))]
        with self._bridge.hooks(fwd_hooks=[*((name, keep) for name in names), (names[-1], _stop)]), suppress(_Stop):
            self._bridge(**_bridge_inputs(batch, self._model), return_type=None, prepend_bos=False)
        device = kept[names[-1]].device
        return torch.stack([kept[name].to(device) for name in names])


class _Stop(Exception):  # noqa: N818
    """The last block has been read: what would follow is an unembedding of every position, which nobody needs."""


def _stop(residual: Tensor, hook: Any) -> None:  # noqa: ARG001
    raise _Stop


def _bridge_inputs(batch: Batch, model: Model) -> dict[str, Any]:
    inputs = batch.inputs(model.device, model.dtype)
    return {"input": inputs.pop("input_ids"), **inputs}


def _merge_fused_adapters(clone: nn.Module) -> None:
    """TransformerLens splits fused projections by their base weight: an adapter on one is merged into a copy."""
    for name, layer in list(clone.named_modules()):
        parent, _, last = name.rpartition(".")
        if last in _FUSED and isinstance(layer, BaseTunerLayer):
            own = copy.deepcopy(layer)
            if not own.disable_adapters:
                own.merge()
            setattr(clone.get_submodule(parent), last, own.get_base_layer())


def _bridge_over(model: Model) -> TransformerBridge:
    module = model.module
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    clone = copy.deepcopy(module, shared)
    clone.config.architectures = [type(module).__name__]
    clone.eval()
    _merge_fused_adapters(clone)
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        return TransformerBridge.boot_transformers(
            model.name, hf_model=clone, tokenizer=copy.deepcopy(model.tokenizer), dtype=model.dtype
        )
    finally:
        transformers_logging.set_verbosity(verbosity)
