"""What a piece of work cost: seconds, and the memory that it took at most beyond what was in use before.

On a CUDA device that is the device's memory, by torch's own count. On the CPU it is the resident memory of the process,
whose high-water mark Linux can be asked to begin anew; where it cannot, memory is not known, since the mark of a whole
process says nothing of one edit. Memory that was freed before and is held for the next is given back first, as far as
the C library can: what it keeps of it would not be counted. The first call in a process also pays for what libraries
set up once. Measurements of one run on one machine, of which no result is made.
"""

from __future__ import annotations

import ctypes
import gc
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

_PROCESS = Path("/proc/self")


@dataclass
class Cost:
    """What work cost; known once the block of ``costing`` is left.

    Attributes:
        seconds: by the clock.
        memory_bytes: at most, beyond what was in use before; NaN where it cannot be measured.
    """

    seconds: float = math.nan
    memory_bytes: float = math.nan

    def as_json(self, n_facts: int) -> dict[str, float | None]:
        """As JSON values; what is not known is null.

        Args:
            n_facts: of how many facts it is the cost.
        """
        memory = None if math.isnan(self.memory_bytes) else self.memory_bytes
        return {"seconds": self.seconds, "memory_bytes": memory, "facts": n_facts}


@contextmanager
def costing(device: torch.device) -> Iterator[Cost]:
    """What the block costs.

    Args:
        device: where the model is.
    """
    cost = Cost()
    before = _begun(device)
    start = time.perf_counter()
    yield cost
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    cost.seconds = time.perf_counter() - start
    cost.memory_bytes = max(_peak(device) - before, 0.0) if not math.isnan(before) else math.nan


def _begun(device: torch.device) -> float:
    """The memory in use, from which on the high-water mark counts; NaN where there is no such mark."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return float(torch.cuda.memory_allocated(device))
    if device.type != "cpu":
        return math.nan
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library than glibc has no such call
        ctypes.CDLL(None).malloc_trim(0)
    try:
        (_PROCESS / "clear_refs").write_text("5")
        return _status("VmRSS")
    except OSError:
        return math.nan


def _peak(device: torch.device) -> float:
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    return _status("VmHWM")


def _status(name: str) -> float:
    """A line of the process's own account, in bytes."""
    for line in (_PROCESS / "status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return 1024.0 * float(line.split()[1])
    return math.nan
