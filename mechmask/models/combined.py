"""``combine``: one model's logits moved by the difference of two others', as one model that output readings take.

Proxy-tuning (Liu et al. 2024) and emulated fine-tuning (Mitchell et al. 2023): ``base + alpha (expert - anti)`` on the
raw logits of the next token. What the unembedding reads here is what the three unembeddings read, side by side.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from mechmask.errors import ModelError
from mechmask.interrupts import atomic_context
from mechmask.models.anatomy import Anatomy
from mechmask.models.computed import model_settings
from mechmask.models.lock import exclusive
from mechmask.models.model import Model
from mechmask.models.states import State, Variant, active
from mechmask.models.unembedding import by_layer

PARTS = ("base", "expert", "anti")


def combine(base: State, expert: State, anti: State, alpha: float = 1.0) -> Model:
    """A model that says ``base + alpha (expert - anti)`` in logits.

    Every reading at the output takes it: ``read_logits``, ``generate``, ``read_retention`` and so on. It has no layers
    of its own, and nothing can be written to it: what reads depth or edits refuses it. Only the margin of two values
    where they part is linear in ``alpha`` (score ``divergence``); ``read_proxy`` reads many ``alpha`` in one pass of
    each model.

    Args:
        base: the model that is moved, such as a large one; a state (``change.on(model)``) is copied with its change.
        expert: a model with what is to be added, such as a small fine-tuned one.
        anti: the same model without it.
        alpha: by how much; below 0 takes away what the expert has.

    Returns:
        The combined model: its vocabulary is what the three have in common. Models are not copied, so that a change
        that is put on one of them shows.

    Raises:
        ModelError: if the tokenizers differ, the models are of different types or on different devices, or ``alpha`` is
            not a number.

    Examples:
        >>> import mechmask as mm
        >>> model = mm.load_model("smollm2-135m")
        >>> mm.combine(model, model, model, alpha=0.5).name
        'smollm2-135m + 0.5 (smollm2-135m - smollm2-135m)'
    """
    if not math.isfinite(alpha):
        raise ModelError(f"alpha={alpha} is no strength. Give a number, such as 1.0.")
    parts = [_part(state) for state in (base, expert, anti)]
    _require_alike(parts)
    weights = [1.0, float(alpha), -float(alpha)]
    module = CombinedModule([part.anatomy for part in parts], weights)
    names = [state.name for state in (base, expert, anti)]
    name = f"{names[0]} + {alpha:g} ({names[1]} - {names[2]})"
    return CombinedModel(module, parts[0].tokenizer, CombinedAnatomy(module, parts[0].anatomy.layout), name)


class _Config(PreTrainedConfig):
    model_type = "combined"


class _Decoders(nn.Module):
    """The decoders of all parts; what they give out stands side by side."""

    def __init__(self, anatomies: Sequence[Anatomy]) -> None:
        super().__init__()
        self.parts = nn.ModuleList([anatomy.module for anatomy in anatomies])
        self._anatomies = tuple(anatomies)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Sequence[Any] | None = None,
        use_cache: bool = False,
    ) -> BaseModelOutputWithPast:
        """What the final norm of each part gives out, side by side, and the caches of all parts."""
        outputs = [
            anatomy.decoder(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                past_key_values=past,
                use_cache=use_cache,
            )
            for anatomy, past in zip(self._anatomies, past_key_values or [None] * len(PARTS), strict=True)
        ]
        hidden = torch.cat([output.last_hidden_state.to(outputs[0].last_hidden_state) for output in outputs], dim=-1)
        caches: Any = [output.past_key_values for output in outputs] if use_cache else None
        return BaseModelOutputWithPast(last_hidden_state=hidden, past_key_values=caches)


class _Head(nn.Module):
    """The unembeddings of all parts, each on its share of the width; their logits, as given out, summed by weight."""

    weights: Tensor

    def __init__(self, anatomies: Sequence[Anatomy], weights: Sequence[float], vocab_size: int) -> None:
        super().__init__()
        self._anatomies, self.vocab_size = tuple(anatomies), vocab_size
        heads: list[Any] = [anatomy.unembedding for anatomy in anatomies]
        self.widths = tuple(int(head.weight.shape[1]) for head in heads)
        self.computed_by = tuple(line for anatomy in anatomies for line in model_settings(anatomy.module))
        self.register_buffer("weights", torch.tensor(weights, dtype=torch.float64))

    def parts(self, hidden: Float[Tensor, "*shape width"]) -> list[Float[Tensor, "*shape vocabulary"]]:
        """The logits of each part in float32, as it gives them out."""
        return [
            anatomy.given_out(by_layer(anatomy.unembedding, share).float())[..., : self.vocab_size]
            for anatomy, share in zip(self._anatomies, hidden.split(self.widths, dim=-1), strict=True)
        ]

    def forward(self, hidden: Float[Tensor, "*shape width"]) -> Float[Tensor, "*shape vocabulary"]:
        """The logits of the combined model."""
        return mixed(self.parts(hidden), self.weights)


def mixed(parts: Sequence[Tensor], weights: Tensor) -> Tensor:
    """The sum of the parts' logits by weight.

    Args:
        parts: logits of each, ``[*shape, vocabulary]``.
        weights: ``[part]``.
    """
    total = torch.zeros_like(parts[0])
    for logits, weight in zip(parts, weights.tolist(), strict=True):
        total += weight * logits.to(total.device)
    return total


class CombinedModule(PreTrainedModel):
    """Three causal language models as one; ``combine`` makes it.

    Args:
        anatomies: of base, expert and anti.
        weights: of their logits.
    """

    config_class = _Config
    base_model_prefix = "decoders"
    _supports_sdpa = True
    _supports_flash_attn = True

    def __init__(self, anatomies: Sequence[Anatomy], weights: Sequence[float]) -> None:
        sizes = [anatomy.module.config.get_text_config().vocab_size for anatomy in anatomies]
        config = _Config()
        config.vocab_size, config.tie_word_embeddings = min(sizes), False
        super().__init__(config)
        self.decoders = _Decoders(anatomies)
        self.head = _Head(anatomies, weights, min(sizes))
        self.config.hidden_size = sum(self.head.widths)
        kinds = {getattr(anatomy.module.config, "_attn_implementation", "eager") for anatomy in anatomies}
        self.config._attn_implementation_internal = kinds.pop() if len(kinds) == 1 else "eager"

    def get_input_embeddings(self) -> nn.Module:
        """Those of the base."""
        return self.decoders.parts[0].get_input_embeddings()  # pyright: ignore[reportCallIssue]

    def get_output_embeddings(self) -> nn.Module:
        """What makes logits of what all decoders give out."""
        return self.head

    def forward(self, input_ids: Tensor, **options: Any) -> CausalLMOutputWithPast:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Logits by the forward pass of each model itself, which shares nothing with the decoders above but weights."""
        logits: list[Any] = [
            part(input_ids=input_ids, **options).logits.float()[..., : self.head.vocab_size]
            for part in self.decoders.parts
        ]
        return CausalLMOutputWithPast(logits=mixed(logits, self.head.weights))  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True)
class CombinedAnatomy(Anatomy):
    """What readings at the output need to know of a combined model."""

    @property
    def _parts(self) -> tuple[Anatomy, ...]:
        return self.module.decoders._anatomies  # pyright: ignore[reportAttributeAccessIssue, reportReturnType]

    @property
    def blocks(self) -> nn.ModuleList:
        """There are none.

        Raises:
            ModelError: always.
        """
        raise ModelError(
            "A combined model has no layers of its own, so none can be read, trained or edited. Take one of its models."
        )

    @property
    def n_layers(self) -> int:
        """Those of the base."""
        return self._parts[0].n_layers

    @property
    def decoder(self) -> nn.Module:
        """What gives out the states of all three."""
        return self.module.decoders  # pyright: ignore[reportReturnType]

    @property
    def softcap(self) -> float | None:
        """None: the logits of each part are capped before they are summed."""
        return None

    @property
    def logit_scale(self) -> float:
        """1: the logits of each part are scaled before they are summed."""
        return 1.0

    @property
    def sliding_window(self) -> int | None:
        """The narrowest of all parts."""
        return min((part.sliding_window for part in self._parts if part.sliding_window is not None), default=None)

    @property
    def is_recurrent(self) -> bool:
        """Whether a part is."""
        return any(part.is_recurrent for part in self._parts)

    @property
    def max_tokens(self) -> int | None:
        """The fewest of all parts."""
        return min((part.max_tokens for part in self._parts if part.max_tokens is not None), default=None)

    @property
    def rope_threshold(self) -> int | None:
        """That of the parts that have one; ``combine`` refuses several."""
        return min((part.rope_threshold for part in self._parts if part.rope_threshold is not None), default=None)


class CombinedModel(Model):
    """Three models that are read as one."""

    @atomic_context
    def exclusive(self) -> Iterator[None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """A context in which no other thread reads or changes any of the three."""
        decoders: Any = self.module.get_submodule("decoders")
        parts = {id(part): part for part in decoders.parts}
        with ExitStack() as stack:
            for _, part in sorted(parts.items()):
                stack.enter_context(exclusive(part))
            stack.enter_context(exclusive(self.module))
            yield


def _part(state: State) -> Model:
    """A model as it is; of a state a copy that has its changes on."""
    if not isinstance(state, Variant):
        return state
    with active(state) as now:
        module = copy.deepcopy(now.module)
    return replace(now, module=module, anatomy=replace(now.anatomy, module=module))


def _require_alike(parts: Sequence[Model]) -> None:
    """Refuse models whose logits cannot be added."""
    base = parts[0]
    vocabulary = base.tokenizer.get_vocab()
    thresholds = {part.rope_threshold for part in parts if part.rope_threshold is not None}
    for name, part in zip(PARTS[1:], parts[1:], strict=True):
        if part.tokenizer is not base.tokenizer and part.tokenizer.get_vocab() != vocabulary:
            raise ModelError(
                f"The {name} {part.name} has other tokens than {base.name}, so their logits cannot be added. Take "
                "models of one tokenizer."
            )
        if part.device != base.device or part.dtype != base.dtype:
            raise ModelError(
                f"The {name} {part.name} is {part.dtype} on {part.device} and {base.name} is {base.dtype} on "
                f"{base.device}. Load them alike."
            )
    if len(thresholds) > 1:
        raise ModelError(
            f"The models change their rotary frequencies at different lengths ({sorted(thresholds)}), so no text is "
            "read alike by all. Take models of one family."
        )
