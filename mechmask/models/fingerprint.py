"""A fingerprint of the weights that a model computes with: what caches and provenance are keyed by, never a name.

XXH3-128 over every tensor's name, type, shape and bytes. It detects accidents, it does not resist an adversary.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import torch
import xxhash
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn


def fingerprint(module: nn.Module) -> str:
    """The fingerprint of a module's parameters and persistent buffers, in hexadecimal.

    An adapter that is switched off does not count; one that is applied does. A base weight under an adapter keeps the
    name that it has without it.
    """
    silent = tuple(
        f"{name}.lora_"
        for name, child in module.named_modules()
        if isinstance(child, BaseTunerLayer) and child.disable_adapters
    )
    state = module.state_dict()
    return digest((canonical_name(name), tensor) for name, tensor in state.items() if not name.startswith(silent))


def digest(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """XXH3-128 of named tensors, whatever their order; a tensor met twice (tied weights) is read once."""
    named = list(tensors)
    distinct = {_identity(tensor): tensor for _, tensor in named}
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
    """A parameter's name as it is when no adapter wraps its layer."""
    return name.replace(".base_layer.", ".")
