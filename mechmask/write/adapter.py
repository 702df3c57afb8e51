"""LoRA adapters (Hu et al. 2021) by peft: put on a module without a wrapper, taken off without a trace.

The base weights are never touched: before and after are read from one copy of them, and what is saved loads in peft.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mechmask.errors import ChangeError
from mechmask.models.fingerprint import fingerprint
from mechmask.models.model import Model, adapted_layers
from mechmask.write.change import Change, blocks_of

_ADAPTER = "default"
_PEFT_PREFIX = "base_model.model."


class AdapterChange(Change):
    """A trained LoRA adapter.

    Args:
        config: how the adapter is built.
        tensors: its factors, by name in the module.
        base: fingerprint of the weights under it.
        method: how it was made.
        details: configuration and course.

    Raises:
        ChangeError: if the adapter is the identity.
    """

    kind = "adapter"

    def __init__(
        self, config: LoraConfig, tensors: Mapping[str, Tensor], base: str, method: str, details: Mapping[str, Any]
    ) -> None:
        super().__init__(method, details)
        if not any(torch.count_nonzero(tensor) for name, tensor in tensors.items() if "lora_B" in name):
            raise ChangeError(
                f"The {method} change changes nothing: every lora_B is zero. Give it more steps or a higher "
                "learning rate."
            )
        self.config = config
        self.tensors = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
        self.base = base

    @property
    def blocks(self) -> tuple[int, ...]:
        """The blocks that carry a factor, in order."""
        return blocks_of(self.tensors)

    @contextmanager
    def applied(self, model: Model) -> Iterator[Model]:
        """The model with the adapter on, unmerged."""
        if not adapted_layers(model.module) and model.fingerprint != self.base:
            raise ChangeError("The weights are not those that this adapter was trained on. Undo other changes first.")
        with injected(model, self.config) as factors:
            fill(factors, self.tensors)
            for factor in factors.values():
                factor.requires_grad_(False)
            yield model

    def _write(self, directory: Path) -> dict[str, Any]:
        config = copy.copy(self.config)
        config.target_modules = sorted(config.target_modules or ())  # peft holds a set, whose order is a process's own
        config.save_pretrained(str(directory))
        save_file(
            {_PEFT_PREFIX + name: tensor for name, tensor in self.tensors.items()},
            directory / "adapter_model.safetensors",
        )
        return {"base": self.base}

    @classmethod
    def read(cls, directory: Path, header: dict[str, Any]) -> AdapterChange:
        """The adapter that was saved in a directory."""
        stored = load_file(directory / "adapter_model.safetensors")
        tensors = {name.removeprefix(_PEFT_PREFIX): tensor for name, tensor in stored.items()}
        config = LoraConfig.from_pretrained(str(directory))
        if not isinstance(config, LoraConfig):
            raise ChangeError(f"The adapter in {directory} is no LoRA adapter. Give one that mechmask saved.")
        return cls(config, tensors, header["base"], header["method"], header["details"])


@contextmanager
def injected(model: Model, config: LoraConfig, seed: int = 0) -> Iterator[dict[str, nn.Parameter]]:
    """Put a fresh adapter on a model; leaving takes it off and restores every attribute that peft had set.

    Args:
        model: the model; it is in evaluation mode inside.
        config: how the adapter is built.
        seed: of its initial factors; the caller's random state is left alone.

    Yields:
        The adapter's factors by name, in float32, the only parameters that ask for gradients.

    Raises:
        ChangeError: if there is an adapter already.
    """
    module = model.module
    if adapted_layers(module):
        raise ChangeError(
            "The model has an adapter already. Undo that change first; to train it further, pass it as start=."
        )
    asked = {name: parameter.requires_grad for name, parameter in module.named_parameters()}
    attributes = set(vars(module))
    with model.evaluation(), torch.random.fork_rng():
        torch.manual_seed(seed)
        tuner = LoraModel(module, config, _ADAPTER)
    try:
        factors = {name.replace(f".{_ADAPTER}", ""): p for name, p in module.named_parameters() if "lora_" in name}
        for factor in factors.values():
            factor.data = factor.data.float()
        with model.evaluation():
            yield factors
    finally:
        tuner.unload()
        for name in set(vars(module)) - attributes:
            delattr(module, name)
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(asked[name])


def fill(factors: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    """Copy stored factors into an adapter, all of them or none.

    Raises:
        ChangeError: if names or shapes do not match, which would leave part of the adapter the identity.
    """
    if set(factors) != set(tensors):
        odd = sorted(set(factors) ^ set(tensors))
        raise ChangeError(
            f"The stored adapter does not fit this model: {len(odd)} factors have no counterpart, such as "
            f"{odd[0]}. Use its own base."
        )
    misfit = next((name for name, factor in factors.items() if factor.shape != tensors[name].shape), None)
    if misfit is not None:
        shapes = f"{tuple(tensors[misfit].shape)} stored, {tuple(factors[misfit].shape)} here"
        raise ChangeError(f"The stored adapter does not fit: {misfit} is {shapes}. Use the same rank and model.")
    with torch.no_grad():
        for name, factor in factors.items():
            factor.copy_(tensors[name])


def base_fingerprint(model: Model) -> str:
    """Fingerprint of the weights under an adapter, or of the model where it has none."""
    if not adapted_layers(model.module):
        return fingerprint(model.module)
    with model.without_adapter():
        return fingerprint(model.module)
