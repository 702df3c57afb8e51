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

__all__ = ["Model", "adapted_layers"]


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
        return self.module.get_input_embeddings().weight.device  # type: ignore[union-attr]

    @property
    def dtype(self) -> torch.dtype:
        """The type of the weights."""
        return self.module.dtype

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
