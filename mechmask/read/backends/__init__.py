"""Hook backends: who watches the residual stream while the model runs. One file and one line in ``BACKENDS`` each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from mechmask.errors import ReadingError, known_names
from mechmask.models.model import Model
from mechmask.models.packing import Batch
from mechmask.read.backends.parts import Parts

BackendName = Literal["transformer_lens", "nnsight"]


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


def backend_of(backend: BackendName | Backend, model: Model) -> Backend:
    """The backend itself, or the one of that name over a model as it is now.

    Raises:
        ReadingError: if there is none of that name, its library is not installed, or it was made over another model.
        ModelError: if the model has no layers of its own.
    """
    len(model.anatomy.blocks)  # of a combined model there are none
    if isinstance(backend, str):
        require_backend(backend)
        return BACKENDS[backend](model)
    watched = getattr(backend, "model", model)
    if isinstance(watched, Model) and watched.module is not model.module:
        raise ReadingError(
            f"This {backend.name} backend was made over {watched.name}, which is another model than {model.name}. Make "
            "one over the model that is read (for a state, over the model under its changes), or give the backend's "
            f"name: backend={backend.name!r}."
        )
    return backend


def require_backend(name: str) -> None:
    """Refuse a backend that is not there.

    Raises:
        ReadingError: naming those that are.
    """
    if name not in BACKENDS:
        raise ReadingError(f"There is no backend {name!r}. {known_names(name, BACKENDS)}")


def _transformer_lens(model: Model) -> Backend:
    from mechmask.read.backends.transformer_lens import BridgeBackend

    return BridgeBackend(model)


def _nnsight(model: Model) -> Backend:
    from mechmask.read.backends.nnsight import NnsightBackend

    return NnsightBackend(model)


BACKENDS: dict[str, Callable[[Model], Backend]] = {"transformer_lens": _transformer_lens, "nnsight": _nnsight}
