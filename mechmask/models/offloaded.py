"""Weights that are not on the module: accelerate keeps them in memory or in files, and lends them to each pass.

Outside a pass such a weight is an empty tensor on the device ``meta``: whatever reads weights by itself has to ask
accelerate's hook for them, and whatever writes would write into nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from mechmask.errors import WeightsError

Lender = Callable[[], Tensor]


def lent_tensors(module: nn.Module) -> dict[str, Lender]:
    """Every parameter and buffer that a hook of accelerate brings for each pass, by its name, and how to get it."""
    lent: dict[str, Lender] = {}
    for path, layer in module.named_modules():
        for hook in _hooks(layer):
            if getattr(hook, "offload", False) and hook.weights_map is not None:
                below = layer.named_parameters() if hook.place_submodules else layer.named_parameters(recurse=False)
                buffers = layer.named_buffers(recurse=hook.place_submodules)
                names = [name for name, tensor in (*below, *buffers) if tensor.is_meta]
                lent |= {
                    f"{path}.{name}" if path else name: lambda held=hook.weights_map, name=name: held[name]
                    for name in names
                }
    return lent


def is_offloaded(module: nn.Module) -> bool:
    """Whether a weight is brought for each pass."""
    return any(getattr(hook, "offload", False) for layer in module.modules() for hook in _hooks(layer))


def missing_weight(module: nn.Module) -> str:
    """The name of a weight that is nowhere: on the device ``meta``, and brought by no hook; empty if there is none."""
    empty = [name for name, tensor in module.named_parameters() if tensor.is_meta]
    lent = lent_tensors(module) if empty else {}
    return next((name for name in empty if name not in lent), "")


def require_on_module(module: nn.Module, what: str, name: str = "the model") -> None:
    """Refuse what writes weights, or trains, where they are offloaded.

    Args:
        module: a model or a layer.
        what: what is asked for, such as "Fine-tuning".
        name: whose module it is.

    Raises:
        WeightsError: naming the first such weight, and what to do.
    """
    if is_offloaded(module):
        lent = next(iter(lent_tensors(module)), "")
        where = f"{lent} of {name}" if lent else name
        raise WeightsError(
            f"{what} needs all weights on their devices, and {where} is offloaded. Load the model without offloading, "
            "in a smaller dtype where memory is short."
        )


def device_of(layer: nn.Module) -> torch.device:
    """Where a layer computes, its weights there or brought there for each pass; the processor where it has none."""
    for hook in _hooks(layer):
        if getattr(hook, "execution_device", None) is not None:
            return torch.device(hook.execution_device)
    tensors = (*layer.parameters(), *layer.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))


def in_memory(layer: nn.Module) -> nn.Module:
    """The layer, or a copy of it with its weights on the device where it computes, if they are offloaded."""
    lent = lent_tensors(layer)
    if not lent:
        return layer
    from accelerate.hooks import remove_hook_from_module

    whole = copy.deepcopy(layer, shared_maps(layer))
    device = device_of(layer)
    remove_hook_from_module(whole, recurse=True)
    for name, lend in lent.items():
        path, _, last = name.rpartition(".")
        holder = whole.get_submodule(path)
        value = lend().to(device)
        if last in holder._parameters:
            holder._parameters[last] = nn.Parameter(value, requires_grad=False)
        else:
            holder._buffers[last] = value
    return whole


def shared_maps(module: nn.Module) -> dict[int, object]:
    """What ``copy.deepcopy`` must not copy: the maps that hold every offloaded weight."""
    hooks = [hook for layer in module.modules() for hook in _hooks(layer)]
    maps = [held for hook in hooks if (held := getattr(hook, "weights_map", None)) is not None]
    return {id(held): held for held in maps}


def _hooks(layer: nn.Module) -> Iterator:
    hook = vars(layer).get("_hf_hook")
    if hook is not None:
        yield from getattr(hook, "hooks", [hook])
