"""Whether torch notes what gradients need, for a while.

Torch's own contexts can be cut by Ctrl-C between what they set and what puts it back: gradients would then stay off for
all that the session does afterwards. Around a block these also mend what was left inside it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from mechmask.interrupts import atomic_context


@atomic_context
def without_gradients() -> Iterator[None]:
    """Inside, nothing is noted; what is computed may take part in gradients later."""
    with torch.no_grad():
        yield


@atomic_context
def with_gradients() -> Iterator[None]:
    """Inside, what is computed from parameters that ask for gradients can be differentiated."""
    with torch.enable_grad():
        yield
