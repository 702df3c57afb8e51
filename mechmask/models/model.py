"""A language model under test: transformers module, tokenizer, anatomy, and a fingerprint of what it computes with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mechmask.interrupts import atomic_context
from mechmask.models.adapters import adapted_layers, adapters_off
from mechmask.models.anatomy import Anatomy
from mechmask.models.fingerprint import base_fingerprint, fingerprint
from mechmask.models.lock import exclusive
from mechmask.models.offloaded import device_of
from mechmask.models.quantised import is_read_alone
from mechmask.notebook import card, memory

__all__ = ["Model", "adapted_layers"]

_HASHED_TO_BE_SHOWN = 2**32  # bytes: hashing them takes about a second


@dataclass(frozen=True, eq=False)
class Model:
    """What every reading and every change takes. ``mechmask.load_model`` makes one.

    Attributes:
        module: the transformers causal language model.
        tokenizer: its fast tokenizer.
        anatomy: where its parts are.
        name: a label for figures and provenance; nothing is looked up by it.
    """

    module: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    anatomy: Anatomy
    name: str

    def __repr__(self) -> str:
        size = f"{self.n_layers} layers, width {self.width}, {str(self.dtype)[6:]} on {self.device}"
        return f"Model({self.name!r}, {self.family}, {size})"

    def _repr_html_(self) -> str:
        """What it is; hashing a large model takes seconds, so that its fingerprint waits until it is asked for."""
        small = sum(p.nbytes for p in self.module.parameters()) <= _HASHED_TO_BE_SHOWN
        shown = self.fingerprint if small else "not computed here, as it takes a while: ask for .fingerprint"
        return card(f"Model({self.name!r})", {**described(self), "fingerprint": shown})

    @property
    def family(self) -> str:
        """The model type of transformers, such as ``llama``."""
        return self.module.config.get_text_config().model_type

    @property
    def n_layers(self) -> int:
        """The number of blocks, L."""
        return self.anatomy.n_layers

    @property
    def width(self) -> int:
        """The width of the residual stream."""
        return self.module.config.get_text_config().hidden_size

    @property
    def vocab_size(self) -> int:
        """The number of logits."""
        return self.module.config.get_text_config().vocab_size

    @property
    def device(self) -> torch.device:
        """Where token ids have to be."""
        return device_of(self.module.get_input_embeddings())

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return self.module.dtype

    @property
    def is_read_alone(self) -> bool:
        """Whether what the model says may depend on what else is in a pass, so that each text is read by itself.

        So it is where activations are quantised by a scale that they share: ``mechmask.models.quantised``.
        """
        return is_read_alone(self.module)

    @property
    def max_tokens(self) -> int | None:
        """The most tokens that the model was made to read at once; ``None`` where it does not say."""
        return self.anatomy.max_tokens

    @property
    def rope_threshold(self) -> int | None:
        """The number of tokens above which the rotary frequencies of a whole batch are others, where there is one."""
        return self.anatomy.rope_threshold

    @property
    def fingerprint(self) -> str:
        """Fingerprint of all that is computed with now, an applied change included."""
        return fingerprint(self.module)

    @property
    def base_fingerprint(self) -> str:
        """Fingerprint of the model with its adapters switched off, whether they are on or not.

        Raises:
            ModelError: if an adapter is merged into the weights.
        """
        return base_fingerprint(self.module)

    @property
    def has_adapter(self) -> bool:
        """Whether a PEFT adapter is on the module, switched on or off."""
        return bool(adapted_layers(self.module))

    def exclusive(self) -> AbstractContextManager[None]:
        """A context in which no other thread reads or changes this module; see ``mechmask.models.lock``.

        A change holds it as long as it is applied, a reading as long as it reads, its provenance included. The same
        thread may enter as often as it wants; another one waits.

        Raises:
            ModelError: if waiting would never end.
        """
        return exclusive(self.module)

    @atomic_context
    def evaluation(self) -> Iterator[None]:
        """Evaluation mode, dropout off, for this thread alone; each submodule's own mode comes back afterwards."""
        with self.exclusive():
            training = [
                child for child in self.module.modules() if child.training
            ]  # setting is slow; nearly always none
            try:
                for child in training:
                    child.training = False
                yield
            finally:
                for child in training:
                    child.training = True

    @atomic_context
    def inference(self) -> Iterator[None]:
        """Evaluation mode without gradients, for this thread alone."""
        with self.evaluation(), torch.inference_mode():
            yield

    @atomic_context
    def without_adapter(self) -> Iterator[None]:
        """The base model under unmerged adapters, from the same copy of the weights, for this thread alone.

        ``modules_to_save`` are switched off with them.

        Raises:
            ModelError: if the module has no adapter, or one that is merged into the weights.
        """
        with self.exclusive(), adapters_off(self.module):
            yield


def described(model: Model) -> dict[str, object]:
    """What a notebook shows of a model by name, whatever change is on it.

    Args:
        model: what is shown.
    """
    parameters = list(model.module.parameters())
    return {
        "family": model.family,
        "blocks": model.n_layers,
        "width": model.width,
        "vocabulary": model.vocab_size,
        "parameters": f"{sum(p.nelement() for p in parameters):,} ({memory(sum(p.nbytes for p in parameters))})",
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": model.device,
        "adapter": "on the module" if model.has_adapter else None,
    }
