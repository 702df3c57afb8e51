"""Adapters as what is trained: LoRA (Hu et al. 2021) and DoRA (Liu et al. 2024), in float32 beside the base weights.

DoRA learns a magnitude for each output of a map beside the factors, which begins at the norm of that row of the weight;
the norm of the adapted row counts as a constant on the way back, as its authors suggest (section 4.3) and peft does it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from peft import LoraConfig
from torch import nn

from mechmask.errors import ChangeError
from mechmask.interrupts import atomic_context
from mechmask.models.adapters import adapted_layers
from mechmask.models.model import Model
from mechmask.write.adapter import AdapterChange, fill, injected
from mechmask.write.finetune_config import FinetuneConfig
from mechmask.write.lora_product import lora_in_one_step
from mechmask.write.trained.trained import Trained, chosen_blocks


class LoRA(Trained):
    """An adapter on every attention and MLP projection, or on those that the configuration chooses."""

    kind = AdapterChange
    noun = "an adapter"

    def __init__(self, model: Model, config: FinetuneConfig) -> None:
        super().__init__(model, config)
        self._lora = lora_config(model, config)

    @atomic_context
    def on(self, model: Model, start: AdapterChange | None) -> Iterator[Mapping[str, nn.Parameter]]:
        """The model with the adapter on.

        Args:
            model: the model.
            start: the adapter to begin with.

        Raises:
            ChangeError: if it has another rank, scale or place, or is not of this method.
        """
        if start is not None:
            self._require_shape(start)
        with injected(model, self._lora, self.config.seed) as factors:
            if start is not None:
                fill(factors, start.tensors)
            yield factors

    def computing(self, module: nn.Module) -> AbstractContextManager[None]:
        """Dropout drops, and a LoRA layer is one step of the graph.

        Args:
            module: the module with the adapter on.
        """
        if self.config.dropout > 0:
            for layer in adapted_layers(module):
                layer.training = True  # pyright: ignore[reportAttributeAccessIssue]  (what DoRA asks)
                for dropout in layer.lora_dropout.values():  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
                    dropout.training = True
        return lora_in_one_step(module)

    def change(self, parameters: Mapping[str, nn.Parameter], base: str, details: Mapping[str, Any]) -> AdapterChange:
        """The adapter as it is now.

        Args:
            parameters: its factors.
            base: fingerprint of the model without it.
            details: configuration and course.

        Raises:
            ChangeError: if it is the identity, or a factor is not finite.
        """
        factors = {name: factor.detach() for name, factor in parameters.items()}
        return AdapterChange(self._lora, factors, base, self.config.method, details)

    def _require_shape(self, start: AdapterChange) -> None:
        # which layers carry it is compared when the factors are filled in: peft rewrites target_modules
        kinds = [("dora" if config.use_dora else "lora") for config in (start.config, self._lora)]
        if kinds[0] != kinds[1]:
            raise ChangeError(
                f"The adapter to start from is a {kinds[0]} adapter, and the method is {kinds[1]}. Use its own."
            )
        stored, asked = (start.config.r, start.config.lora_alpha), (self.config.rank, self.config.alpha)
        if stored != asked:
            raise ChangeError(
                f"The adapter to start from has rank and alpha {stored}, not {asked}, so its factors "
                "would mean something else. Use its own."
            )


class DoRA(LoRA):
    """An adapter with a magnitude for each output; computed by peft."""


def lora_config(model: Model, config: FinetuneConfig) -> LoraConfig:
    """The adapter that a configuration means on a model.

    Raises:
        ChangeError: if it names no block, or one that the model lacks.
    """
    anatomy, prefixes = model.anatomy, chosen_blocks(model, config)
    chosen = [
        p.name
        for p in anatomy.projections()
        if p.name.startswith(prefixes) and _is_chosen(p.name, anatomy.layout.attention, config)
    ]
    first = next(iter(anatomy.projections()))
    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # pyright: ignore[reportArgumentType]  (peft divides it by the rank)
        lora_dropout=config.dropout,
        target_modules=chosen,
        fan_in_fan_out=first.input_first,
        use_dora=config.method == "dora",
    )


def _is_chosen(name: str, attention: str, config: FinetuneConfig) -> bool:
    in_attention = f".{attention}." in name
    return config.projections == "all" or in_attention == (config.projections == "attention")
