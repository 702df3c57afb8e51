"""Autograd recording switched on or off around a block, whatever happens inside.

Ctrl-C can cut torch's own contexts between what they set and what puts it back: recording would then stay off for all
that the session does afterwards. These restore the mode on leaving, also where a context of torch inside was cut.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mechmask.interrupts import atomic_context


@atomic_context
def without_gradients() -> Iterator[None]:
    """Inside, nothing is recorded."""
    with torch.no_grad():
        yield


@atomic_context
def recording() -> Iterator[None]:
    """Inside, gradients are recorded where they are asked for, whatever mode the caller is in."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


@atomic_context
def with_gradients() -> Iterator[None]:
    """Inside, what is computed from parameters that ask for gradients is recorded."""
    with torch.enable_grad():
        yield
