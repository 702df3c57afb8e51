"""A fingerprint of all that a model computes with: what caches, changes and provenance are keyed by, never a name.

XXH3-128 over every tensor's name, type, shape and bytes, over the settings that each layer computes by, and over what
was put on the module: adapters, hooks, replaced methods. It detects accidents, it does not resist an adversary.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
import xxhash
from torch import nn

from mechmask.models.adapters import AdapterState, adapter_state
from mechmask.models.computed import attached, follows_length, layer_settings, model_settings

_WORTH_THREADS = 2**24  # bytes: they are hashed in about the time that it takes to start two threads


def fingerprint(module: nn.Module) -> str:
    """The fingerprint of what a module computes with, in hexadecimal.

    It covers parameters and buffers (rotary frequencies too), the settings of its configuration and of its layers,
    adapters that are on with their names, order and scale, whether they are merged, ``modules_to_save`` in use,
    forward hooks, replaced ``forward`` methods and parametrizations. It is the same in every process and however the
    weights were loaded; an adapter that is switched off, dropout, the kernel of the attention, names and token ids do
    not count. A hook counts by its code and by the numbers and tensors that it holds, not by what it looks up.
    """
    return _of(module, adapter_state(module))


def base_fingerprint(module: nn.Module) -> str:
    """The fingerprint that the module would have with its adapters switched off.

    Raises:
        ModelError: if an adapter is merged into the weights, so that those under it are not at hand.
    """
    return _of(module, adapter_state(module).off())


def _of(module: nn.Module, adapters: AdapterState) -> str:
    tensors = digest(
        (canonical_name(name), tensor) for name, tensor in _tensors(module) if not adapters.is_silent(name)
    )
    layers = [(name, layer) for name, layer in module.named_modules() if not adapters.is_silent(name)]
    lines = [*model_settings(module), *adapters.lines]
    for name, layer in layers:
        lines += attached(canonical_name(name), layer)
        if name not in adapters.scaffold:
            lines += layer_settings(canonical_name(name), layer)
    return xxhash.xxh3_128_hexdigest("\n".join([tensors, *sorted(lines)]).encode())


def _tensors(module: nn.Module) -> Iterable[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    for name, buffer in module.named_buffers(remove_duplicate=False):
        path, _, last = name.rpartition(".")
        if not (last.endswith("inv_freq") and follows_length(module.get_submodule(path)) and "original" not in last):
            yield name, buffer


def digest(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """XXH3-128 of named tensors, whatever their order; a tensor met twice (tied weights) is read once."""
    named = list(tensors)
    distinct = {_identity(tensor): tensor for _, tensor in named}
    if sum(tensor.nbytes for tensor in distinct.values()) < _WORTH_THREADS:
        hashed = {identity: _hashed(tensor) for identity, tensor in distinct.items()}
    else:
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # hashing leaves the interpreter's lock
            hashed = dict(zip(distinct, pool.map(_hashed, distinct.values()), strict=True))
    lines = [f"{name} {tensor.dtype} {tuple(tensor.shape)} {hashed[_identity(tensor)]}" for name, tensor in named]
    return xxhash.xxh3_128_hexdigest("\n".join(sorted(lines)).encode())


def _identity(tensor: torch.Tensor) -> tuple[object, ...]:
    """The same for tied weights."""
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def _hashed(tensor: torch.Tensor) -> str:
    return xxhash.xxh3_128_hexdigest(tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy().data)


def canonical_name(name: str) -> str:
    """The name of a parameter or a layer as it is when no adapter wraps its layer."""
    return ".".join(part for part in name.split(".") if part not in ("base_layer", "original_module"))
