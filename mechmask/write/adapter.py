"""LoRA and DoRA adapters by peft: put on a module without a wrapper, taken off without a trace.

Hu et al. 2021, Liu et al. 2024. The base weights are never touched: before and after are read from one copy of them,
and what is saved loads in peft. Of a configuration only what the forward pass depends on is taken over, never how peft
would initialise, because some initialisations rewrite the base.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mechmask.errors import ChangeError
from mechmask.interrupts import atomic_context
from mechmask.models.gradients import without_gradients
from mechmask.models.lock import exclusive
from mechmask.models.model import Model, adapted_layers
from mechmask.models.offloaded import require_on_module
from mechmask.models.quantised import is_quantised
from mechmask.write.change import Change, Held, blocks_of
from mechmask.write.lora_settings import plain_lora_config, read_lora_config

_ADAPTER = "default"
PEFT_PREFIX = "base_model.model."
_MAGNITUDE = ".lora_magnitude_vector"  # of a DoRA, which need not be the base's where every lora_B is zero


class AdapterChange(Change):
    """A trained LoRA adapter.

    Args:
        config: how the adapter is built; rebuilt from what the forward pass depends on.
        tensors: its factors, by name in the module.
        base: fingerprint of the model without the adapter.
        method: how it was made.
        details: configuration and course.

    Raises:
        ChangeError: if the adapter is the identity, a factor is not finite, or the configuration asks for more than a
            LoRA or DoRA on linear maps.
    """

    kind = "adapter"

    def __init__(
        self, config: LoraConfig, tensors: Mapping[str, Tensor], base: str, method: str, details: Mapping[str, Any]
    ) -> None:
        super().__init__(base, method, details)
        moves = [torch.count_nonzero(t) for name, t in tensors.items() if "lora_B" in name or name.endswith(_MAGNITUDE)]
        if not any(moves):
            raise ChangeError(
                f"The {method} change changes nothing: every lora_B is zero. Give it more steps or a higher "
                "learning rate."
            )
        not_finite = next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)
        if not_finite is not None:
            raise ChangeError(
                f"The adapter has a value in {not_finite} that is not a finite number. Train it again at a lower "
                "learning rate."
            )
        self.config = plain_lora_config(config)
        self.tensors = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}

    @property
    def blocks(self) -> tuple[int, ...]:
        """The blocks that carry a factor, in order."""
        return blocks_of(self.tensors)

    def held(self) -> list[Held]:
        """The rank of each layer's factors, and whether a DoRA's magnitude is with them."""
        layers: dict[str, dict[str, Tensor]] = {}
        for name, tensor in self.tensors.items():
            layer, _, part = name.partition(".lora_")
            layers.setdefault(layer, {})[part] = tensor
        return [
            Held(layer, _rank_of(parts), sum(tensor.nbytes for tensor in parts.values()))
            for layer, parts in layers.items()
        ]

    @atomic_context
    def _put_on(self, model: Model) -> Iterator[None]:
        with injected(model, self.config) as factors:
            fill(factors, self.tensors)
            for factor in factors.values():
                factor.requires_grad_(False)
            yield

    def _require_applicable(self, model: Model) -> None:
        """An adapter stands beside the weights, whatever they are; it needs them where they are."""
        require_on_module(model.module, "An adapter", model.name)

    def _require_base(self, model: Model) -> None:
        require_no_adapter(model)
        super()._require_base(model)

    def _difference_from(self, model: Model) -> str:
        kind = f"{model.family}, {str(model.dtype)[6:]}"
        return f"another model or dtype than the one here ({kind}), or a change that was on then and is not now"

    def _write(self, directory: Path) -> dict[str, Any]:
        config = plain_lora_config(self.config)
        config.target_modules = sorted(config.target_modules or ())  # peft holds a set, whose order is a process's own
        config.save_pretrained(str(directory))
        save_file(
            {PEFT_PREFIX + name: tensor for name, tensor in self.tensors.items()},
            directory / "adapter_model.safetensors",
        )
        return {}

    @classmethod
    def read(cls, directory: Path, header: Mapping[str, Any]) -> AdapterChange:
        """The adapter that was saved in a directory.

        Args:
            directory: where they are.
            header: what ``change.json`` says.

        Raises:
            ChangeError: if it is not a LoRA adapter that can be put on.
        """
        stored = load_file(directory / "adapter_model.safetensors")
        tensors = {factor_name(name.removeprefix(PEFT_PREFIX)): tensor for name, tensor in stored.items()}
        config = read_lora_config(directory / "adapter_config.json")
        return cls(config, tensors, header["base"], header["method"], header["details"])


@atomic_context
def injected(model: Model, config: LoraConfig, seed: int = 0) -> Iterator[dict[str, nn.Parameter]]:
    """Put a fresh adapter on a model; leaving takes it off and restores every attribute that peft had set.

    Args:
        model: the model; it is in evaluation mode inside.
        config: how the adapter is built.
        seed: of its initial factors; the caller's random state is left alone.

    Yields:
        The adapter's factors by name, in float32, the only parameters that ask for gradients.

    Raises:
        ChangeError: if there is an adapter already, or peft knows none for a layer.
    """
    module = model.module
    with exclusive(module):
        require_no_adapter(model)
        before = _Structure.of(module)
        try:
            with model.evaluation(), torch.random.fork_rng(devices=_devices(module)):
                torch.manual_seed(seed)
                _build(module, config, model.name)
            factors = {factor_name(name): p for name, p in module.named_parameters() if "lora_" in name}
            for factor in factors.values():
                factor.data = factor.data.float()
            with model.evaluation():
                yield factors
        finally:
            before.restore()


def _build(module: nn.Module, config: LoraConfig, name: str) -> None:
    try:
        LoraModel(module, config, _ADAPTER)
    except ValueError as error:
        if not is_quantised(module):
            raise
        raise ChangeError(
            f"peft puts no adapter on {name}, which is quantised ({str(error).split('. ')[0]}). Load the model in "
            "float32, bfloat16 or float16."
        ) from error


def fill(factors: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    """Copy stored factors into an adapter, all of them or none.

    Raises:
        ChangeError: if names or shapes do not match, which would leave part of the adapter the identity.
    """
    if set(factors) != set(tensors):
        odd = sorted(set(factors) ^ set(tensors))
        raise ChangeError(
            f"The stored adapter does not fit this model: {len(odd)} factors have no counterpart, such as "
            f"{odd[0]}. Use the model that it was trained on."
        )
    misfit = next((name for name, factor in factors.items() if factor.shape != tensors[name].shape), None)
    if misfit is not None:
        shapes = f"{tuple(tensors[misfit].shape)} stored, {tuple(factors[misfit].shape)} here"
        raise ChangeError(f"The stored adapter does not fit: {misfit} is {shapes}. Use the same rank and model.")
    with without_gradients():
        for name, factor in factors.items():
            factor.copy_(tensors[name])


@dataclass(frozen=True)
class _Structure:
    """What peft rearranges in a module, from which it is put back whatever peft got to.

    ``unload`` would need a tuner that was built to the end, and the wrappers that it takes off to be whole.
    """

    module: nn.Module
    children: list[tuple[nn.Module, dict[str, nn.Module | None]]]
    attributes: frozenset[str]
    requires_grad: list[tuple[nn.Parameter, bool]]
    training: list[tuple[nn.Module, bool]]

    @classmethod
    def of(cls, module: nn.Module) -> _Structure:
        every = list(module.modules())
        return cls(
            module,
            [(child, dict(child._modules)) for child in every],
            frozenset(vars(module)),
            [(parameter, parameter.requires_grad) for parameter in module.parameters()],
            [(child, child.training) for child in every],
        )

    def restore(self) -> None:
        for module, children in self.children:
            if module._modules != children:
                module._modules.clear()
                module._modules.update(children)
        for name in set(vars(self.module)) - self.attributes:
            delattr(self.module, name)
        for parameter, asked in self.requires_grad:
            parameter.requires_grad_(asked)
        for module, training in self.training:
            module.training = training


def require_no_adapter(model: Model) -> None:
    """Refuse a model that has an adapter on.

    Raises:
        ChangeError: if it has.
    """
    if adapted_layers(model.module):
        raise ChangeError(
            "The model has an adapter already. Undo that change first; to train it further, pass it as start=, with "
            "the model under it."
        )


def _rank_of(parts: Mapping[str, Tensor]) -> str:
    ranks = {len(tensor) for name, tensor in parts.items() if name.startswith("A")}
    magnitude = " with magnitude" if any(name.startswith("magnitude") for name in parts) else ""
    return f"rank {', '.join(map(str, sorted(ranks)))}{magnitude}"


def factor_name(name: str) -> str:
    """A factor as peft writes it into a file: magnitudes, which are a layer's weight in the module, by the layer."""
    bare = name.replace(f".{_ADAPTER}", "")
    return bare.removesuffix(".weight") if bare.endswith(f"{_MAGNITUDE}.weight") else bare


def _devices(module: nn.Module) -> list[int]:
    """The CUDA devices whose random state an initialisation could touch."""
    return sorted({p.device.index or 0 for p in module.parameters() if p.device.type == "cuda"})
