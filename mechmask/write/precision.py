"""In which numbers a training step computes: float32, or bfloat16 where the processor multiplies it by itself.

bfloat16 is torch's autocast: products in bfloat16, norms and the loss in float32, and what is learned stays in float32
with its optimizer, as in mixed precision (Micikevicius et al. 2018); its range is float32's, so no loss is scaled.
Readings do not stand in it.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import torch

from mechmask.errors import ChangeError
from mechmask.interrupts import atomic_context
from mechmask.models.model import Model
from mechmask.write.finetune_config import Precision


def computing_in(model: Model, precision: Precision) -> AbstractContextManager[None]:
    """A context for the forward pass of a step; of another autocast around it nothing is left in float32.

    Raises:
        ChangeError: if the device would only imitate bfloat16, which takes longer than float32, or the model's weights
            are of a type that does not go with it.
    """
    device = model.device.type
    if precision == "bfloat16" and model.dtype not in (torch.float32, torch.bfloat16):
        raise ChangeError(
            f"A model in {str(model.dtype)[6:]} is not trained in bfloat16. Load it in float32, or leave precision out."
        )
    if precision == "bfloat16" and not _multiplies_bfloat16(device):
        raise ChangeError(
            f"This {device} device would only imitate bfloat16, which is slower than float32. Leave precision out, or "
            "train on a processor that has it (AVX512-BF16, AMX, Arm BF16, a CUDA device from 2020 on)."
        )
    if precision == "float32" and not torch.is_autocast_enabled(device):
        return nullcontext()
    return _autocast(device, enabled=precision == "bfloat16")


@atomic_context
def _autocast(device: str, *, enabled: bool) -> Iterator[None]:
    """Torch's own, with interrupts waiting and nothing cached.

    Left on by an interrupt it would round readings; left with a cache, a later training would compute with weights that
    it no longer learns.
    """
    with torch.autocast(device, torch.bfloat16, enabled=enabled, cache_enabled=False):
        yield


def _multiplies_bfloat16(device: str) -> bool:
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device != "cpu":
        return False
    if platform.machine().lower() in ("arm64", "aarch64"):
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    # oneDNN takes bfloat16 on any AVX-512 and imitates it there
    tests = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, test, lambda: False)() for test in tests)
