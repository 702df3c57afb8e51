"""A fingerprint of all that a model computes with: what caches, changes and provenance are keyed by, never a name.

XXH3-128 over every tensor's name, type, shape and bytes (of a quantised weight codes, scales and zero points; of an
offloaded one what is lent to a pass), over the settings that each layer computes by, and over what
was put on the module: adapters, hooks, replaced methods. It detects accidents, it does not resist an adversary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
import xxhash
from torch import nn

from mechmask.models.adapters import AdapterState, adapter_state
from mechmask.models.computed import attached, follows_length, layer_settings, model_settings
from mechmask.models.offloaded import lent_tensors
from mechmask.models.quantised import packed_tensors, plain_parts

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
    tensors = _digest(module, lambda name: not adapters.is_silent(name))
    layers = [(name, layer) for name, layer in module.named_modules() if not adapters.is_silent(name)]
    lines = [*model_settings(module), *adapters.lines]
    for name, layer in layers:
        lines += attached(canonical_name(name), layer)
        if name not in adapters.scaffold:
            lines += layer_settings(canonical_name(name), layer)
    return xxhash.xxh3_128_hexdigest("\n".join([tensors, *sorted(lines)]).encode())


def weights_digest(module: nn.Module) -> str:
    """XXH3-128 of all tensors that a module holds, those included that are packed, wrapped or offloaded."""
    return _digest(module, lambda _: True)


def _digest(module: nn.Module, counts: Callable[[str], bool]) -> str:
    """Offloaded tensors are read one after the other, and give the lines that they would give in their places."""
    lent = {name: lend for name, lend in lent_tensors(module).items() if counts(name)}
    here = ((canonical_name(name), t) for name, t in _tensors(module) if counts(name) and name not in lent)
    lines = _lines(here)
    for name, lend in lent.items():
        lines += _lines([(canonical_name(name), lend())])
    return _of_lines(lines)


def _tensors(module: nn.Module) -> Iterable[tuple[str, torch.Tensor]]:
    yield from module.named_parameters(remove_duplicate=False)
    for name, buffer in module.named_buffers(remove_duplicate=False):
        path, _, last = name.rpartition(".")
        if not (last.endswith("inv_freq") and follows_length(module.get_submodule(path)) and "original" not in last):
            yield name, buffer
    for name, layer in module.named_modules(remove_duplicate=False):
        yield from packed_tensors(name, layer)


def digest(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """XXH3-128 of named tensors, whatever their order; a tensor met twice (tied weights) is read once."""
    return _of_lines(_lines(tensors))


def _lines(tensors: Iterable[tuple[str, torch.Tensor]]) -> list[str]:
    """A line for each tensor, and for each of those that a quantised one is stored as."""
    named = [part for name, tensor in tensors for part in plain_parts(name, tensor)]
    distinct = {_identity(tensor): tensor for _, tensor in named}
    if sum(tensor.nbytes for tensor in distinct.values()) < _WORTH_THREADS:
        hashed = {identity: _hashed(tensor) for identity, tensor in distinct.items()}
    else:
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # hashing leaves the interpreter's lock
            hashed = dict(zip(distinct, pool.map(_hashed, distinct.values()), strict=True))
    return [f"{name} {tensor.dtype} {tuple(tensor.shape)} {hashed[_identity(tensor)]}" for name, tensor in named]


def _of_lines(lines: Iterable[str]) -> str:
    return xxhash.xxh3_128_hexdigest("\n".join(sorted(lines)).encode())


def _identity(tensor: torch.Tensor) -> tuple[object, ...]:
    """The same for tied weights."""
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def _hashed(tensor: torch.Tensor) -> str:
    return xxhash.xxh3_128_hexdigest(tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy().data)


def canonical_name(name: str) -> str:
    """The name of a parameter or a layer as it is when no adapter wraps its layer."""
    return ".".join(part for part in name.split(".") if part not in ("base_layer", "original_module"))
