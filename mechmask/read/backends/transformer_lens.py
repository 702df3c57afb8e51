"""TransformerLens as backend: a ``TransformerBridge`` over a structural clone that shares every weight.

A bridge rewrites the module that it wraps (classes, ``state_dict`` keys, attention), so it gets a clone of the module
tree whose parameters and buffers are the original's own tensors: nothing of the caller's module changes. There are two.
The residual stream is read between blocks that run as they are (``OpaqueBlockBridge``): hooks inside would cost a fifth
more, since TransformerLens computes attention step by step for them. Parts are read by the whole bridge, for which
TransformerLens splits fused projections into copies.

Making a bridge takes up to a second, so the last ones of a module are kept for as long as it has the same parameters,
the same adapters switched on at the same scale, and the same forward hooks: weights that change in place are seen
through them. Copies are not, so the parts of a module with fused projections get a new one each time. A bridge whose
pass was cut short, by Ctrl-C for instance, is not used again: hooks may have stayed on it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter
from transformer_lens.model_bridge.generalized_components import OpaqueBlockBridge
from transformer_lens.model_bridge.sources import build_bridge_from_module
from transformer_lens.model_bridge.sources.transformers import source as booting
from transformers.utils import logging as transformers_logging

from mechmask.models.model import Model
from mechmask.models.packing import Batch
from mechmask.read.backends.parts import Parts, at_nodes, by_head, joined, sharing_clone, what_a_clone_sees

_FUSED = ("c_attn", "query_key_value", "qkv_proj", "gate_up_proj")

Maker = Callable[[Model], TransformerBridge]

# By module, what each maker made last and what that one sees.
_last: WeakKeyDictionary[nn.Module, dict[Maker, tuple[tuple[object, ...], TransformerBridge]]] = WeakKeyDictionary()


class BridgeBackend:
    """The residual stream by TransformerLens hooks: what the model computes with at each call, applied changes too.

    Args:
        model: the model whose module is read; a change that is applied to it later is seen.
    """

    name = "transformer_lens"

    def __init__(self, model: Model) -> None:
        self.model = model

    def residuals(self, batch: Batch) -> Float[Tensor, "layer node width"]:
        """The residual stream at every node of a batch, ``[layer, node, width]``, in the dtype of the model.

        Args:
            batch: what the model reads, and at which nodes; layers are 0 to L.

        Raises:
            ModelError: if another thread has the model and would never give it back.
        """
        bridge = _last_bridge(self.model, between_blocks)
        names = ["blocks.0.hook_in", *self._each("hook_out")]
        return torch.cat([torch.stack(self._watch(bridge, one, names)) for one in batch.passes()], dim=1)

    def parts(self, batch: Batch) -> Parts:
        """What embedding, attentions and MLPs add to the residual stream at every node of a batch, and the heads.

        Args:
            batch: what the model reads, and at which nodes.
        """
        names = [*self._each("hook_attn_out"), *self._each("hook_mlp_out"), *self._each("attn.hook_z")]
        fused = any(name.rpartition(".")[2] in _FUSED for name, _ in self.model.module.named_modules())
        bridge = inside_blocks(self.model) if fused else _last_bridge(self.model, inside_blocks)
        n = self.model.n_layers
        each = []
        for one in batch.passes():
            embedding, *added = self._watch(bridge, one, ["blocks.0.hook_in", *names])
            attention, mlp, heads = (torch.stack(added[start : start + n]) for start in (0, n, 2 * n))
            each.append(Parts(embedding, attention, mlp, by_head(heads, self.model.anatomy.n_heads)))
        return joined(each)

    def _each(self, name: str) -> list[str]:
        return [f"blocks.{i}.{name}" for i in range(self.model.n_layers)]

    def _watch(self, bridge: TransformerBridge, batch: Batch, names: list[str]) -> list[Tensor]:
        """What passes the hooks of these names, at the nodes of a batch."""
        passed: dict[str, Tensor] = {}

        def watch(name: str) -> Callable[[Tensor, Any], None]:
            def hooked(value: Tensor, hook: Any) -> None:  # noqa: ARG001
                passed[name] = at_nodes(value, batch)

            return hooked

        last = f"blocks.{self.model.n_layers - 1}.hook_out"
        hooks = [*((name, watch(name)) for name in names), (last, _stop)]
        try:
            with bridge.hooks(fwd_hooks=hooks), suppress(_Stop):
                bridge(**_bridge_inputs(batch, self.model), return_type=None, prepend_bos=False)
        except BaseException:
            _last.pop(self.model.module, None)
            raise
        return [passed[name].to(passed[names[-1]].device) for name in names]


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
            merged = copy.deepcopy(layer)
            if not merged.disable_adapters:
                merged.merge()
            setattr(clone.get_submodule(parent), last, merged.get_base_layer())


def _last_bridge(model: Model, make: Maker) -> TransformerBridge:
    """The bridge that was made last over this module, if it still sees what the module computes with."""
    module = model.module
    made, seen = _last.setdefault(module, {}), what_a_clone_sees(module)
    if make not in made or made[make][0] != seen:
        made[make] = seen, make(model)
    return made[make][1]


def between_blocks(model: Model) -> TransformerBridge:
    """A bridge with hooks around blocks only: each runs as it is, its fused projections, adapters and attention too."""
    clone = sharing_clone(model.module)
    if not isinstance(getattr(model.anatomy.unembedding, "weight", None), Tensor):
        # packed: the pass stops before it, and the bridge wants to see a matrix there
        clone.set_output_embeddings(nn.Linear(model.width, model.vocab_size, bias=False, device="meta"))
    attention = clone.config._attn_implementation or "eager"

    def opaque(adapter: ArchitectureAdapter) -> None:
        mapping = adapter.get_component_mapping()
        mapping["blocks"] = OpaqueBlockBridge(model.anatomy.layout.blocks)

    with _quietly():
        bridge = build_bridge_from_module(
            clone,
            type(model.module).__name__,
            hf_config=clone.config,
            tokenizer=copy.deepcopy(model.tokenizer),
            dtype=model.dtype,
            model_name=model.name,
            post_adapter_hook=opaque,
        )
    clone.set_attn_implementation(attention)
    return bridge


def inside_blocks(model: Model) -> TransformerBridge:
    """A bridge with all of TransformerLens's hooks."""
    clone = sharing_clone(model.module)
    clone.config.architectures = [type(model.module).__name__]
    _merge_fused_adapters(clone)
    with _quietly():
        return TransformerBridge.boot_transformers(
            model.name, hf_model=clone, tokenizer=copy.deepcopy(model.tokenizer), dtype=model.dtype
        )


@contextmanager
def _quietly() -> Iterator[None]:
    """No word of transformers about a module that is made here, and no draw from the caller's random state.

    TransformerLens draws weights for what it splits, which are thrown away. For a multimodal model it also looks for a
    processor of images, which nobody needs here, and where torchvision is missing installs it by pip, which may replace
    the user's torch: it is not asked to.
    """
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    name = "load_modality_processor"
    loads = getattr(booting, name)
    setattr(booting, name, _no_processor)
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        setattr(booting, name, loads)
        transformers_logging.set_verbosity(verbosity)


def _no_processor(*_: Any, **__: Any) -> None:
    """In the place of what looks for a processor."""
