"""Lenses: from the residual at a layer to the one that the final norm would read.

A lens has a name and ``transport(residual, layer)``. The logit lens (nostalgebraist 2020) is the identity: what would
the model say if it stopped here? The ridge lens is the affine map that predicts the last residual with the least
squared error, the tuned lens (Belrose et al. 2023) the one whose output is nearest to the model's. A new lens is one
file and one line in ``LENSES``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, TypeGuard, runtime_checkable

from jaxtyping import Float
from torch import Tensor

from mechmask.errors import ReadingError
from mechmask.models.model import Model
from mechmask.models.states import Variant, active
from mechmask.read.lenses.config import LensKind

if TYPE_CHECKING:
    from tuned_lens.nn.lenses import TunedLens

LensName: TypeAlias = Literal["logit", "ridge", "tuned"]


@runtime_checkable
class Lens(Protocol):
    """What ``read_depth`` asks of a lens; at layer L it has to be the identity.

    One that was fitted also has ``provenance``, which goes into the attributes of a reading, and ``shape``: the number
    of layers and the width that it was made for.
    """

    @property
    def name(self) -> str:
        """A label for provenance."""
        ...

    def transport(self, residual: Float[Tensor, "*node width"], layer: int) -> Float[Tensor, "*node width"]:
        """The residual at ``layer`` (0..L), carried to layer L."""
        ...


class LogitLens:
    """Reads every layer as if it were the last."""

    name = "logit"

    def transport(self, residual: Float[Tensor, "*node width"], layer: int) -> Float[Tensor, "*node width"]:  # noqa: ARG002
        """The residual as it is."""
        return residual


def lens_of(lens: LensName | str | Lens | TunedLens, model: Model | Variant) -> Lens:
    """The lens itself, or the one of that name for a model or state.

    A fitted lens asked for by name is that of the weights under an adapter, so that one lens reads before and after; it
    is fitted when it is first asked for, then stays in the cache.

    Raises:
        ReadingError: if no lens has that name, the object is not a lens, or it was made for a model of another shape.
    """
    if isinstance(lens, str):
        if lens not in LENSES:
            raise ReadingError(
                f"There is no lens {lens!r}. There are {', '.join(LENSES)}; in Python, load_lens loads a saved one, "
                "and any object with a name and transport(residual, layer) will do."
            )
        return LENSES[lens](model)
    with active(model) as changed:
        chosen = _adopted(lens, changed) if not isinstance(lens, Lens) and _is_tuned_lens(lens) else lens
        shape, needed = getattr(chosen, "shape", None), (changed.n_layers, changed.width)
    if not isinstance(chosen, Lens):
        raise ReadingError(
            f"A {type(lens).__name__} is not a lens. Give one of {', '.join(LENSES)}, a TunedLens, or an object with a "
            "name and transport(residual, layer)."
        )
    if shape is not None and shape != needed:
        raise ReadingError(
            f"This lens is for {shape[0]} layers of width {shape[1]}; {model.name} has {needed[0]} of width "
            f"{needed[1]}. Give a lens that was fitted on this model."
        )
    return chosen


def lens_provenance(lens: Lens, model: Model) -> dict[str, str | int]:
    """Attributes of a reading of ``model`` through ``lens``.

    Its name and, if it was fitted, where it comes from and whether it was with this model's unembedding.
    """
    about = {"lens": lens.name, **getattr(lens, "provenance", {})}
    fitted_with = getattr(lens, "unembed_hash", None)
    if fitted_with is not None:
        about["lens_unembedding_matches"] = int(fitted_with == _hash_of_unembedding(model))
    return about


def _hash_of_unembedding(model: Model) -> str | None:
    """``None`` where the model decodes by something else than one linear map, such as an adapter on its unembedding."""
    from mechmask.read.lenses.divergence import plain_unembedding, unembedding_hash

    try:
        return unembedding_hash(plain_unembedding(model.anatomy).weight)
    except ReadingError:
        return None


def _is_tuned_lens(lens: object) -> TypeGuard[TunedLens]:
    """Whether this is a ``TunedLens``, without importing its library: if it is one, that has happened."""
    module = sys.modules.get("tuned_lens.nn.lenses")
    return module is not None and isinstance(lens, module.TunedLens)


def _adopted(lens: TunedLens, model: Model) -> Lens:
    from mechmask.read.lenses.tuned import AdoptedTunedLens

    return AdoptedTunedLens(lens, model)


def _cached(kind: LensKind) -> Callable[[Model | Variant], Lens]:
    def make(model: Model | Variant) -> Lens:
        from mechmask.read.lenses.load import cached_lens

        return cached_lens(model, kind)

    return make


LENSES: dict[str, Callable[[Model | Variant], Lens]] = {
    "logit": lambda _: LogitLens(),
    "ridge": _cached("ridge"),
    "tuned": _cached("tuned"),
}
