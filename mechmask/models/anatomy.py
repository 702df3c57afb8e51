"""Where things are in a decoder: blocks, attention, MLP and its output projection, final norm, unembedding, softcap.

A family is one line in ``LAYOUTS``. Orientation of a projection follows from its module type, never from its shape
(a square matrix would be read the wrong way round in silence).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from mechmask.errors import ModelError


@dataclass(frozen=True)
class Layout:
    """Dotted paths in a module; those below ``blocks`` are relative to one block."""

    blocks: str
    final_norm: str
    mlp_output: str
    attention: str
    attention_output: str
    mlp: str = "mlp"
    post_attention_norm: str = ""  # what an output passes before it is added to the residual stream, where there is one
    post_mlp_norm: str = ""


_LLAMA = Layout("model.layers", "model.norm", "mlp.down_proj", "self_attn", "self_attn.o_proj")
_GEMMA = replace(_LLAMA, post_attention_norm="post_attention_layernorm", post_mlp_norm="post_feedforward_layernorm")

LAYOUTS: dict[str, Layout] = {
    "gpt2": Layout("transformer.h", "transformer.ln_f", "mlp.c_proj", "attn", "attn.c_proj"),
    "gptj": Layout("transformer.h", "transformer.ln_f", "mlp.fc_out", "attn", "attn.out_proj"),
    "gpt_neox": Layout(
        "gpt_neox.layers", "gpt_neox.final_layer_norm", "mlp.dense_4h_to_h", "attention", "attention.dense"
    ),
    "opt": Layout(
        "model.decoder.layers", "model.decoder.final_layer_norm", "fc2", "self_attn", "self_attn.out_proj", mlp=""
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "phi": Layout("model.layers", "model.final_layernorm", "mlp.fc2", "self_attn", "self_attn.dense"),
    "phi3": _LLAMA,
}


@dataclass(frozen=True)
class Projection:
    """A linear map by name, and how its weight is stored.

    Attributes:
        name: dotted path in the module as it is without adapters.
        linear: the layer that holds the weight, an adapter's wrapper taken off.
        input_first: ``True`` where the weight is ``[in, out]`` (``Conv1D``), ``False`` where it is ``[out, in]``.
    """

    name: str
    linear: nn.Module
    input_first: bool

    @property
    def weight(self) -> nn.Parameter:
        """The weight, in its stored orientation."""
        return self.linear.get_parameter("weight")

    @property
    def bias(self) -> nn.Parameter | None:
        """The bias ``[out]``, where there is one."""
        bias = getattr(self.linear, "bias", None)
        return bias if isinstance(bias, nn.Parameter) else None


@dataclass(frozen=True)
class Anatomy:
    """What mechmask needs to know of a transformers causal language model."""

    module: PreTrainedModel
    layout: Layout

    @property
    def blocks(self) -> nn.ModuleList:
        """The decoder blocks, first to last."""
        blocks = self.module.get_submodule(self.layout.blocks)
        if not isinstance(blocks, nn.ModuleList):
            raise ModelError(
                f"{self.layout.blocks} is a {type(blocks).__name__}, not a list of blocks. {_parts_of(self.module)}"
            )
        return blocks

    @property
    def n_layers(self) -> int:
        """The number of blocks, L."""
        return len(self.blocks)

    @property
    def n_heads(self) -> int:
        """The number of query heads of a block."""
        return self.module.config.get_text_config().num_attention_heads

    @property
    def decoder(self) -> nn.Module:
        """The module without its unembedding; its output is what the unembedding reads."""
        return self.module.base_model

    @property
    def final_norm(self) -> nn.Module:
        """The norm between the last block and the unembedding."""
        return self.module.get_submodule(self.layout.final_norm)

    @property
    def unembedding(self) -> nn.Module:
        """The map from normed residual to logits."""
        head = self.module.get_output_embeddings()
        if head is None:
            raise ModelError(f"{type(self.module).__name__} has no unembedding. Load it as a causal language model.")
        return head

    @property
    def softcap(self) -> float | None:
        """The bound of a final ``cap * tanh(logits / cap)``, where the model has one."""
        return getattr(self.module.config.get_text_config(), "final_logit_softcapping", None)

    @property
    def sliding_window(self) -> int | None:
        """The narrowest attention window in tokens, where the model has one."""
        return getattr(self.module.config.get_text_config(), "sliding_window", None)

    @property
    def max_tokens(self) -> int | None:
        """The most tokens that the model was made to read at once; ``None`` where it does not say.

        With dynamic NTK frequencies it is one less than the length for which they are given: beyond it each length has
        its own, and at it they are those of the longest text that was read before.
        """
        limit = getattr(self.module.config.get_text_config(), "max_position_embeddings", None)
        return limit - 1 if limit and "dynamic" in self._rope_types() else limit

    @property
    def rope_threshold(self) -> int | None:
        """The number of tokens above which the rotary frequencies of a whole batch are others, where there is one.

        transformers decides by the highest position in a batch (``modeling_rope_utils.dynamic_rope_update``).
        """
        config = self.module.config.get_text_config()
        lengths = [
            parameters.get("original_max_position_embeddings", config.max_position_embeddings)
            for parameters in self._rope_parameters()
            if parameters.get("rope_type") == "longrope"
        ]
        lengths += [config.max_position_embeddings for kind in self._rope_types() if "dynamic" in kind]
        return min(lengths, default=None)

    def capped(self, logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Logits as the model gives them out: ``cap * tanh(logits / cap)`` where it has a final softcap."""
        return capped(logits, self.softcap)

    def _rope_parameters(self) -> list[dict[str, Any]]:
        """Of every type of layer, where the family has several."""
        parameters = getattr(self.module.config.get_text_config(), "rope_parameters", None) or {}
        return [parameters] if "rope_type" in parameters else [p for p in parameters.values() if isinstance(p, dict)]

    def _rope_types(self) -> set[str]:
        return {str(parameters.get("rope_type")) for parameters in self._rope_parameters()}

    def attention(self, block: int) -> nn.Module:
        """The attention of one block, 0..L-1."""
        return self.blocks[block].get_submodule(self.layout.attention)

    def mlp(self, block: int) -> nn.Module:
        """The MLP of one block, 0..L-1; the block itself where the family keeps the MLP's layers there."""
        return self.blocks[block].get_submodule(self.layout.mlp)

    def attention_output(self, block: int) -> Projection:
        """The projection from the heads' outputs, side by side, to residual width of one block, 0..L-1."""
        return self._projection(block, self.layout.attention_output)

    def mlp_output(self, block: int) -> Projection:
        """The projection from MLP width to residual width of one block, 0..L-1."""
        return self._projection(block, self.layout.mlp_output)

    def adds_attention(self, block: int) -> str:
        """Name of the module whose output is what attention adds to the residual stream in one block, 0..L-1."""
        return f"{self.layout.blocks}.{block}.{self.layout.post_attention_norm or self.layout.attention_output}"

    def adds_mlp(self, block: int) -> str:
        """Name of the module whose output is what the MLP adds to the residual stream in one block, 0..L-1."""
        return f"{self.layout.blocks}.{block}.{self.layout.post_mlp_norm or self.layout.mlp_output}"

    def post_mlp_norm(self, block: int) -> nn.Module | None:
        """What the MLP's output passes before it is added to the residual stream in one block; ``None``: nothing."""
        path = self.layout.post_mlp_norm
        return self.blocks[block].get_submodule(path) if path else None

    def _projection(self, block: int, relative: str) -> Projection:
        if not 0 <= block < self.n_layers:
            raise ModelError(f"There is no block {block}: the model has blocks 0 to {self.n_layers - 1}.")
        path = f"{self.layout.blocks}.{block}.{relative}"
        return _projection(path, self.module.get_submodule(path))

    def projections(self) -> Iterator[Projection]:
        """Every linear map of attention and MLP in every block, in the module's order."""
        for index, block in enumerate(self.blocks):
            for name, child in block.named_modules():
                inside_adapter = any(part in name.split(".") for part in ("base_layer", "lora_A", "lora_B"))
                if not inside_adapter and isinstance(child, (nn.Linear, Conv1D, BaseTunerLayer)):
                    yield _projection(f"{self.layout.blocks}.{index}.{name}", child)


def capped(logits: Float[Tensor, "*shape"], cap: float | None) -> Float[Tensor, "*shape"]:
    """Logits bent by a final softcap, ``cap * tanh(logits / cap)``; as they are where ``cap`` is ``None``."""
    return logits if cap is None else cap * torch.tanh(logits / cap)


def anatomy_of(module: nn.Module) -> Anatomy:
    """The anatomy of a transformers causal language model.

    Raises:
        ModelError: if its family is not in ``LAYOUTS`` or the module does not look as its family does; the message
            names what was found.
    """
    if not isinstance(module, PreTrainedModel):
        raise ModelError(
            f"{type(module).__name__} is not a transformers model. Load it with AutoModelForCausalLM first."
        )
    family = module.config.get_text_config().model_type
    if family not in LAYOUTS:
        raise ModelError(f"The {family!r} family of models is not known. {_parts_of(module)}")
    anatomy = Anatomy(module, LAYOUTS[family])
    try:
        for part in (anatomy.attention, anatomy.attention_output, anatomy.mlp, anatomy.mlp_output):
            part(0)
        has_norm = isinstance(anatomy.final_norm, nn.Module)
    except AttributeError as error:
        raise ModelError(
            f"This {family!r} model is not built as its family is ({error}). {_parts_of(module)}"
        ) from error
    if not has_norm or module.get_output_embeddings() is None:
        raise ModelError(
            f"This {family!r} model has no final norm or no unembedding, so no layer can be read. {_parts_of(module)}"
        )
    return anatomy


def _projection(path: str, module: object) -> Projection:
    linear = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
    if not isinstance(linear, (nn.Linear, Conv1D)):
        raise ModelError(
            f"{path} is a {type(linear).__name__}: mechmask knows the orientation of Linear and Conv1D only."
        )
    return Projection(path, linear, input_first=isinstance(linear, Conv1D))


def _parts_of(module: nn.Module) -> str:
    lists = [
        f"{name} ({len(m)} x {type(m[0]).__name__})"
        for name, m in module.named_modules()
        if isinstance(m, nn.ModuleList) and len(m)
    ]
    norms = [
        name
        for name, m in module.named_modules()
        if "norm" in type(m).__name__.lower() and not any(c.isdigit() for c in name.split("."))
    ]
    head = next((name for name, m in module.named_modules() if m is _output_embeddings(module)), "none")
    return (
        f"Found in {type(module).__name__}: lists {', '.join(lists) or 'none'}; norms "
        f"{', '.join(norms) or 'none'}; unembedding {head}. "
        "A layout in mechmask.models.anatomy.LAYOUTS teaches mechmask where its parts are; known are "
        f"{', '.join(LAYOUTS)}."
    )


def _output_embeddings(module: nn.Module) -> torch.nn.Module | None:
    return module.get_output_embeddings() if isinstance(module, PreTrainedModel) else None
