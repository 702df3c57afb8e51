"""Where things are in a decoder: blocks, attention, MLP and its output projection, final norm, unembedding, softcap.

A family is one line in ``LAYOUTS``. Orientation of a projection follows from its module type, never from its shape
(a square matrix would be read the wrong way round in silence).
"""

from __future__ import annotations

import warnings
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
from mechmask.models.layout import Layout
from mechmask.models.layout_search import layout_of
from mechmask.models.offloaded import require_on_module
from mechmask.models.quantised import is_linear_map, require_numbers

_LLAMA = Layout("model.layers", "model.norm", "mlp.down_proj", "self_attn", "self_attn.o_proj")
_GEMMA = replace(_LLAMA, post_attention_norm="post_attention_layernorm", post_mlp_norm="post_feedforward_layernorm")
_GPT2 = Layout("transformer.h", "transformer.ln_f", "mlp.c_proj", "attn", "attn.c_proj")
_GPTJ = Layout("transformer.h", "transformer.ln_f", "mlp.fc_out", "attn", "attn.out_proj")
_MIXTURE = replace(_LLAMA, mlp_output="")

LAYOUTS: dict[str, Layout] = {
    "gpt2": _GPT2,
    "gptj": _GPTJ,
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
    # proven by the self-check on tiny random models alone
    "apertus": _LLAMA,
    "arcee": _LLAMA,
    "codegen": _GPTJ,
    "cohere": replace(_LLAMA, logit_factor="logit_scale"),
    "cohere2": replace(_LLAMA, logit_factor="logit_scale"),
    "deepseek_v2": _MIXTURE,
    "deepseek_v3": _MIXTURE,
    "ernie4_5": _LLAMA,
    "exaone4": _GEMMA,
    "falcon": Layout(
        "transformer.h", "transformer.ln_f", "mlp.dense_4h_to_h", "self_attention", "self_attention.dense"
    ),
    "gemma": _LLAMA,
    "glm": _LLAMA,
    "glm4": replace(_LLAMA, post_attention_norm="post_self_attn_layernorm", post_mlp_norm="post_mlp_layernorm"),
    "gpt_bigcode": _GPT2,
    "gpt_neo": replace(_GPT2, attention="attn.attention", attention_output="attn.attention.out_proj"),
    "gemma4_text": replace(_GEMMA, adds_more="embeddings of the token by layer, and a factor on the whole"),
    "glm4_moe": _MIXTURE,
    "gpt_oss": _MIXTURE,
    "granite": replace(_LLAMA, logit_divisor="logits_scaling", residual_factor="residual_multiplier"),
    "hunyuan_v1_dense": _LLAMA,
    "llama4_text": replace(_MIXTURE, mlp="feed_forward"),
    "mixtral": _MIXTURE,
    "nemotron": _LLAMA,
    "olmo": _LLAMA,
    "olmo2": _GEMMA,
    "olmo3": _GEMMA,
    "qwen3_moe": _MIXTURE,
    "qwen3_next": replace(_MIXTURE, adds_more="linear attention, whose heads are not those of attention"),
    "seed_oss": _LLAMA,
    "smollm3": _LLAMA,
    "stablelm": _LLAMA,
    "starcoder2": replace(_LLAMA, mlp_output="mlp.c_proj"),
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
        """The weight, in its stored orientation.

        Raises:
            WeightsError: if it is codes of a quantisation, or offloaded.
        """
        require_numbers(self.linear, "What reads a weight", self.name)
        require_on_module(self.linear, "What reads a weight", self.name)
        return self.linear.get_parameter("weight")

    @property
    def bias(self) -> nn.Parameter | None:
        """The bias ``[out]``, where there is one.

        Raises:
            WeightsError: if the layer is quantised, so that it may hold the bias elsewhere.
        """
        require_numbers(self.linear, "What reads a bias", self.name)
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
        base = self.module.base_model
        if base is self.module:  # of Llama 4's text model transformers does not know which of its modules that is
            return self.module.get_submodule(self.layout.blocks.rpartition(".")[0])
        return base

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
        config = self.module.config.get_text_config()
        widths = [getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")]
        return min((width for width in widths if width is not None), default=None)

    @property
    def is_recurrent(self) -> bool:
        """Whether a block reads its past as a state, which no attention mask keeps apart: linear attention, Mamba."""
        kinds = getattr(self.module.config.get_text_config(), "layer_types", None) or []
        return any(
            not str(kind).endswith(("full_attention", "sliding_attention", "chunked_attention")) for kind in kinds
        )

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

    @property
    def logit_scale(self) -> float:
        """By what the model multiplies what the unembedding gives out, before a softcap; 1 for most."""
        config, layout = self.module.config.get_text_config(), self.layout
        factor = getattr(config, layout.logit_factor) if layout.logit_factor else 1.0
        return factor / getattr(config, layout.logit_divisor) if layout.logit_divisor else factor

    @property
    def residual_factor(self) -> float:
        """By what everything that a block adds to the residual stream is multiplied; 1 for most."""
        name = self.layout.residual_factor
        return getattr(self.module.config.get_text_config(), name) if name else 1.0

    def given_out(self, logits: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Logits as the model gives them out: scaled, and ``cap * tanh(logits / cap)`` where it has a final softcap."""
        scale = self.logit_scale
        return capped(logits if scale == 1 else logits * scale, self.softcap)

    def _rope_parameters(self) -> list[dict[str, Any]]:
        """Of every type of layer, where the family has several."""
        parameters = getattr(self.module.config.get_text_config(), "rope_parameters", None) or {}
        return [parameters] if "rope_type" in parameters else [p for p in parameters.values() if isinstance(p, dict)]

    def _rope_types(self) -> set[str]:
        return {str(parameters.get("rope_type")) for parameters in self._rope_parameters()}

    def attention(self, block: int) -> nn.Module:
        """The attention of one block, 0..L-1.

        Raises:
            ModelError: if the block has none, but linear attention.
        """
        if not hasattr(self.blocks[block], self.layout.attention.partition(".")[0]):
            raise ModelError(
                f"Block {block} of {type(self.module).__name__} has no attention with heads, as others have."
            )
        return self.blocks[block].get_submodule(self.layout.attention)

    @property
    def attends(self) -> list[int]:
        """The blocks that have attention with heads: all of them, but in models with linear attention."""
        first = self.layout.attention.partition(".")[0]
        having = [number for number, block in enumerate(self.blocks) if hasattr(block, first)]
        return having or list(range(self.n_layers))

    def mlp(self, block: int) -> nn.Module:
        """The MLP of one block, 0..L-1; the block itself where the family keeps the MLP's layers there."""
        return self.blocks[block].get_submodule(self.layout.mlp)

    def attention_output(self, block: int) -> Projection:
        """The projection from the heads' outputs, side by side, to residual width of one block, 0..L-1."""
        return self._projection(block, self.layout.attention_output)

    def mlp_output(self, block: int) -> Projection:
        """The projection from MLP width to residual width of one block, 0..L-1.

        Raises:
            ModelError: if there is no such block, or no single projection leads out of its MLP.
        """
        if not self.layout.mlp_output:
            raise ModelError(
                f"The MLP of {type(self.module).__name__} is a mixture of experts, out of which no single projection "
                "leads, so its keys and values cannot be read or written. Use fine-tuning, or a dense model."
            )
        if self.residual_factor != 1:
            raise ModelError(
                f"{type(self.module).__name__} multiplies what its MLPs give out by {self.residual_factor:g}, so what "
                "is written there is not what the residual stream gets. Use fine-tuning."
            )
        return self._projection(block, self.layout.mlp_output)

    def adds_attention(self, block: int) -> str:
        """Name of the module whose output is what attention adds to the residual stream in one block, 0..L-1."""
        return f"{self.layout.blocks}.{block}.{self.layout.post_attention_norm or self.layout.attention_output}"

    def adds_mlp(self, block: int) -> str:
        """Name of the module whose output is what the MLP adds to the residual stream in one block, 0..L-1."""
        layout = self.layout
        return f"{layout.blocks}.{block}.{layout.post_mlp_norm or layout.mlp_output or layout.mlp}"

    def post_mlp_norm(self, block: int) -> nn.Module | None:
        """What the MLP's output passes before it is added to the residual stream in one block; ``None``: nothing."""
        path = self.layout.post_mlp_norm
        return self.blocks[block].get_submodule(path) if path else None

    def _projection(self, block: int, relative: str) -> Projection:
        n_blocks = len(self.blocks)
        if not 0 <= block < n_blocks:
            raise ModelError(f"There is no block {block}: the model has blocks 0 to {n_blocks - 1}.")
        path = f"{self.layout.blocks}.{block}.{relative}"
        return _projection(path, self.module.get_submodule(path))

    def projections(self) -> Iterator[Projection]:
        """Every linear map of attention and MLP in every block, in the module's order."""
        for index, block in enumerate(self.blocks):
            for name, child in block.named_modules():
                inside_adapter = any(part in name.split(".") for part in ("base_layer", "lora_A", "lora_B"))
                if not inside_adapter and (isinstance(child, BaseTunerLayer) or is_linear_map(child)):
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
    anatomy = Anatomy(module, _within_a_wrapper(module, LAYOUTS[family]) if family in LAYOUTS else _searched(module))
    try:
        parts = [anatomy.attention, anatomy.attention_output]
        for part in parts:
            part(anatomy.attends[0])
        anatomy.mlp(0)
        if anatomy.layout.mlp_output:
            anatomy._projection(0, anatomy.layout.mlp_output)
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


def _within_a_wrapper(module: PreTrainedModel, layout: Layout) -> Layout:
    """The layout where a multimodal model holds the text model: below ``model.language_model``."""
    wrapped = [path.replace("model.", "model.language_model.", 1) for path in (layout.blocks, layout.final_norm)]
    there = {name for name, _ in module.named_modules()}
    return (
        layout
        if layout.blocks in there or wrapped[0] not in there
        else replace(layout, blocks=wrapped[0], final_norm=wrapped[1])
    )


def _searched(module: PreTrainedModel) -> Layout:
    """The layout of a model whose family is not known, with a word of warning.

    Raises:
        ModelError: if it is not unambiguous.
    """
    family = module.config.get_text_config().model_type
    try:
        layout = layout_of(module)
    except ModelError as error:
        raise ModelError(f"The {family!r} family of models is not known. {error} {_parts_of(module)}") from error
    warnings.warn(
        f"The {family!r} family is not known, so the parts of "
        f"{type(module).__name__} were worked out from its modules: blocks {layout.blocks}, final norm "
        f"{layout.final_norm}, MLP output {layout.mlp_output or 'none'}. Every reading is held against the model's own "
        "output; mechmask doctor tries them all.",
        stacklevel=4,
    )
    return layout


def _projection(path: str, module: object) -> Projection:
    linear = module.get_base_layer() if isinstance(module, BaseTunerLayer) else module
    if not (isinstance(linear, nn.Module) and is_linear_map(linear)):
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
