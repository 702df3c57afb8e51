"""Hook backends: who watches the residual stream while the model runs. One file and one line in ``BACKENDS`` each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from mechmask.errors import ReadingError
from mechmask.models.model import Model
from mechmask.models.packing import Batch
from mechmask.read.backends.parts import Parts


@runtime_checkable
class Backend(Protocol):
    """What ``read_depth`` and ``attribute`` ask of a backend."""

    name: str

    def residuals(self, batch: Batch) -> Float[Tensor, "layer node width"]:
        """The residual stream at every node of a batch, layers 0 (embedding) to L (what the final norm reads)."""
        ...

    def parts(self, batch: Batch) -> Parts:
        """What embedding, attentions and MLPs add to the residual stream at every node of a batch, and the heads."""
        ...


def backend_of(backend: str | Backend, model: Model) -> Backend:
    """The backend itself, or the one of that name over a model as it is now.

    Raises:
        ReadingError: if there is none of that name, or its library is not installed.
    """
    if not isinstance(backend, str):
        return backend
    require_backend(backend)
    return BACKENDS[backend](model)


def require_backend(name: str) -> None:
    """Refuse a backend that is not there."""
    if name not in BACKENDS:
        raise ReadingError(f"There is no backend {name!r}. There are {', '.join(BACKENDS)}.")


def _transformer_lens(model: Model) -> Backend:
    from mechmask.read.backends.transformer_lens import BridgeBackend

    return BridgeBackend(model)


def _nnsight(model: Model) -> Backend:
    from mechmask.read.backends.nnsight import NnsightBackend

    return NnsightBackend(model)


BACKENDS: dict[str, Callable[[Model], Backend]] = {"transformer_lens": _transformer_lens, "nnsight": _nnsight}
