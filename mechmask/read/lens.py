"""Lenses: from the residual at a layer to the one that the final norm would read.

A lens has a name and ``transport(residual, layer)``. The logit lens (nostalgebraist 2020) is the identity: what would
the model say if it stopped here? A new lens is one class and one line in ``LENSES``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from mechmask.errors import ReadingError
from mechmask.models.model import Model


class Lens(Protocol):
    """What ``read_depth`` asks of a lens; at layer L it has to be the identity."""

    name: str

    def transport(self, residual: Float[Tensor, "node width"], layer: int) -> Float[Tensor, "node width"]:
        """The residual at ``layer`` (0..L), carried to layer L."""
        ...


class LogitLens:
    """Reads every layer as if it were the last."""

    name = "logit"

    def transport(self, residual: Float[Tensor, "node width"], layer: int) -> Float[Tensor, "node width"]:  # noqa: ARG002
        """The residual as it is."""
        return residual


LENSES: dict[str, Callable[[Model], Lens]] = {"logit": lambda _: LogitLens()}


def lens_of(lens: str | Lens, model: Model) -> Lens:
    """The lens itself, or the one of that name for a model.

    Raises:
        ReadingError: if no lens has that name.
    """
    if not isinstance(lens, str):
        return lens
    if lens not in LENSES:
        raise ReadingError(
            f"There is no lens {lens!r}. There are {', '.join(LENSES)}; any object with transport(residual, "
            "layer) will do."
        )
    return LENSES[lens](model)
