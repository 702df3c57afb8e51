"""A language model under test: transformers module, tokenizer, anatomy, fingerprint of its weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from mechmask.errors import ModelError
from mechmask.models.anatomy import Anatomy
from mechmask.models.fingerprint import fingerprint


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
        """Fingerprint of the weights as they are now, an applied change included."""
        return fingerprint(self.module)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Evaluation mode, dropout off; each submodule's own mode comes back afterwards."""
        training = [child for child in self.module.modules() if child.training]  # none, nearly always: setting is slow
        for child in training:
            child.training = False
        try:
            yield
        finally:
            for child in training:
                child.training = True

    @contextmanager
    def inference(self) -> Iterator[None]:
        """Evaluation mode without gradients."""
        with self.evaluation(), torch.inference_mode():
            yield

    @contextmanager
    def without_adapter(self) -> Iterator[None]:
        """The base model under an unmerged adapter, from the same copy of the weights.

        Raises:
            ModelError: if the module has no adapter.
        """
        layers = adapted_layers(self.module)
        if not layers:
            raise ModelError(
                "This model has no adapter to switch off. Load a PEFT adapter directory, or apply a LoRA change."
            )
        before = [layer.disable_adapters for layer in layers]
        asked = {parameter: parameter.requires_grad for parameter in self.module.parameters()}
        for layer in layers:
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer, disabled in zip(layers, before, strict=True):
                layer.enable_adapters(not disabled)
            for parameter, flag in asked.items():  # peft asks for gradients of what it enables
                parameter.requires_grad_(flag)


def adapted_layers(module: torch.nn.Module) -> list[BaseTunerLayer]:
    """The layers that a PEFT adapter wraps."""
    return [child for child in module.modules() if isinstance(child, BaseTunerLayer)]
