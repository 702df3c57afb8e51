"""Layers whose weights are codes of a quantisation: torch's own, torchao's, bitsandbytes', and others recognised.

Such a layer computes, so it can be read. Whether it computes for each token by itself depends on its kind: torch's
dynamic int8 scales all that comes in at once by one number, so that a token's result moves with what stands beside it
in the batch, and even behind it in its own row. Only kinds that quantise nothing but weights are known not to; every
other one is read alone (``mechmask.models.packing.Batch.passes``). Nothing here dequantises a weight.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
from transformers.pytorch_utils import Conv1D

from mechmask.errors import WeightsError

_NUMBERS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
_CODES = ("qweight", "weight", "weight_packed", "W_q", "codes")  # what packages call buffers of codes
_PACKAGES = {
    **{"bitsandbytes": "bitsandbytes", "gptqmodel": "GPTQ", "auto_gptq": "GPTQ", "awq": "AWQ", "hqq": "HQQ"},
    **{"compressed_tensors": "compressed-tensors", "eetq": "EETQ", "quanto": "quanto", "aqlm": "AQLM", "vptq": "VPTQ"},
}
_ONLY_WEIGHTS = ("Linear4bit", "HQQLinear")  # layers known to quantise nothing but weights
_PEFT = ", or train an adapter with peft and read it with load_change"
_ACTIVATIONS = ("act_quant_kwargs", "activation_quantization")  # where torchao's weights say what comes in is made of


@dataclass(frozen=True)
class Quantised:
    """A layer whose weight is codes.

    Attributes:
        name: its path.
        kind: what it is, for a person: "is a Linear4bit of bitsandbytes".
        alone: whether its result for a token may depend on others that come in with it.
    """

    name: str
    kind: str
    alone: bool


def quantised_kind(layer: nn.Module) -> str:
    """What says that a layer's own weights are codes, not numbers; empty where they are numbers."""
    home = type(layer).__module__
    package = home.partition(".")[0]
    if package == "torch" and home.startswith("torch.ao.nn."):
        return f"is a {layer._get_name()} of torch" if _holds_weights(layer) else ""
    own = [*layer._parameters.items(), *((n, b) for n, b in layer._buffers.items() if n in _CODES)]
    if package in _PACKAGES and own:
        return f"is a {type(layer).__name__} of {_PACKAGES[package]}"
    if getattr(layer, "quantization_scheme", None) is not None:
        return "is compressed by compressed-tensors"
    for _, tensor in own:
        if tensor is None:
            continue
        if _is_wrapped(tensor):
            return f"holds {type(tensor).__module__.split('.')[0]}'s {type(tensor).__name__}"
        if tensor.dtype not in _NUMBERS:
            return f"is stored as {str(tensor.dtype).removeprefix('torch.')}"
    return ""


def quantised_layers(module: nn.Module) -> list[Quantised]:
    """Every layer whose weights are codes."""
    return [
        Quantised(name, kind, not _quantises_only_weights(layer))
        for name, layer in module.named_modules()
        if (kind := quantised_kind(layer))
    ]


def is_quantised(module: nn.Module) -> bool:
    """Whether any layer's weights are codes, or the configuration says that they are."""
    return any(map(quantised_kind, module.modules())) or says_quantised(module)


def says_quantised(module: nn.Module) -> bool:
    """Whether a model's configuration says that its weights are codes."""
    return bool(getattr(getattr(module, "config", None), "quantization_config", None))


def is_read_alone(module: nn.Module) -> bool:
    """Whether a result for one token may depend on others that come in with it, so that each is read by itself."""
    layers = [layer for layer in module.modules() if quantised_kind(layer)]
    return any(not _quantises_only_weights(layer) for layer in layers) or (not layers and says_quantised(module))


def is_linear_map(layer: nn.Module) -> bool:
    """Whether a layer is a linear map, its weight numbers or codes."""
    if isinstance(layer, (nn.Linear, Conv1D)):
        return True
    return not isinstance(layer, nn.Embedding) and "Linear" in type(layer).__name__ and bool(quantised_kind(layer))


def require_numbers(module: nn.Module, what: str, name: str = "the model") -> None:
    """Refuse what reads or writes weights, or differentiates through them, where they are codes.

    Args:
        module: a model or a layer.
        what: what is asked for, such as "Fine-tuning".
        name: whose module it is.

    Raises:
        WeightsError: naming the first such layer, and what to do.
    """
    found = quantised_layers(module)
    if found or says_quantised(module):
        where = f"{found[0].name or 'it'} {found[0].kind}" if found else "so says its configuration"
        raise WeightsError(
            f"{what} needs weights that are numbers, and {name} is quantised ({where}). "
            f"Load it in float32, bfloat16 or float16{_PEFT if _takes_an_adapter(found) else ''}."
        )


def _takes_an_adapter(found: list[Quantised]) -> bool:
    """Whether peft may put one on: on none of torch's own quantised layers it does."""
    return not any(layer.kind.endswith(" of torch") for layer in found)


def plain_parts(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """A tensor as the tensors that it is stored as: itself, or codes, scales and zero points."""
    if _is_wrapped(tensor):
        inner, context = tensor.__tensor_flatten__()  # pyright: ignore[reportAttributeAccessIssue]
        for part in inner:
            yield from plain_parts(f"{name}.{part}", getattr(tensor, part))
        yield f"{name} {type(tensor).__name__} {context}", torch.empty(0)
    elif tensor.is_quantized:
        yield f"{name} {tensor.qscheme()}", tensor.int_repr()
        if tensor.qscheme() in (torch.per_tensor_affine, torch.per_tensor_symmetric):
            yield f"{name}.q", torch.tensor([tensor.q_scale(), tensor.q_zero_point()], dtype=torch.float64)
        else:
            yield f"{name}.q_scales axis {tensor.q_per_channel_axis()}", tensor.q_per_channel_scales()
            yield f"{name}.q_zero_points", tensor.q_per_channel_zero_points()
    else:
        yield name, tensor


def packed_tensors(name: str, layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What a layer computes with that is neither parameter nor buffer: what it says itself when it is saved."""
    if type(layer)._save_to_state_dict is nn.Module._save_to_state_dict:
        return
    saved: dict[str, Any] = {}
    layer._save_to_state_dict(saved, "", False)
    known = layer._parameters.keys() | layer._buffers.keys()
    for key, value in saved.items():
        for number, part in enumerate(value if isinstance(value, tuple) else (value,)):
            label = f"{name}.{key}[{number}]" if isinstance(value, tuple) else f"{name}.{key}"
            if key not in known:
                yield (label, part) if isinstance(part, Tensor) else (f"{label} {part}", torch.empty(0))


def packed_objects(module: nn.Module) -> Iterator[tuple[str, object]]:
    """What holds codes outside parameters and buffers, so that a clone can share it."""
    for name, layer in module.named_modules():
        for key, value in vars(layer).items():
            if isinstance(value, torch.ScriptObject) or type(value).__module__.startswith("bitsandbytes."):
                yield f"{name}.{key}", value


def _is_wrapped(tensor: Tensor) -> bool:
    """Whether a tensor is a class of its own around others; one that is spread over processes is no quantisation."""
    return is_traceable_wrapper_subclass(tensor) and not type(tensor).__module__.startswith("torch.")


def _holds_weights(layer: nn.Module) -> bool:
    return callable(getattr(layer, "weight", None)) or bool(layer._parameters)


def _quantises_only_weights(layer: nn.Module) -> bool:
    if type(layer).__name__ in _ONLY_WEIGHTS or "Embedding" in type(layer).__name__:
        return True
    wrapped = [
        parameter for parameter in layer._parameters.values() if parameter is not None and _is_wrapped(parameter)
    ]
    says = [[getattr(one, name) for name in _ACTIVATIONS if hasattr(one, name)] for one in wrapped]
    return bool(wrapped) and all(said and not any(said) for said in says)
