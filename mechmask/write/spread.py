"""Editors that write many facts at once, spread over some layers: MEMIT and its kin (Meng et al. 2023, section 4).

One value is sought for each fact behind the last of the layers. From the first on, each layer is to bring the residual
stream an equal share of what is missing there, and is read under what the layers below have been given. Which update
does that is all that sets an editor's kind apart.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from mechmask.errors import ChangeError
from mechmask.facts.fact import Fact
from mechmask.models.model import Model
from mechmask.models.states import Variant, unchanged
from mechmask.progress import Tick
from mechmask.write.contexts import contexts_of_starts
from mechmask.write.keyed import KeyedConfig, KeyedEditor
from mechmask.write.keys import SubjectWalk, averaged, mentions_of
from mechmask.write.low_rank import Factors, LowRankChange, low_rank_change, writing
from mechmask.write.requests import Request, requests
from mechmask.write.value_loss import Place
from mechmask.write.values import said_already, seek_values
from mechmask.write.weights import trainable

_BARE_SHARE = 0.5  # published code averages over kinds of context: none, and generated ones


class SpreadConfig(KeyedConfig):
    """How an editor spreads facts over layers: ``KeyedConfig`` and the following.

    Attributes:
        context_starts: first words of the texts that prompts are read behind.
        context_length: their number of tokens.
    """

    value_clamp: float = Field(default=0.75, gt=0, allow_inf_nan=False)
    context_starts: tuple[str, ...] = ("The", "Therefore", "Because", "I", "You")
    context_length: int = Field(default=10, ge=2)


class SpreadEditor(KeyedEditor[Any]):
    """An editor that writes all facts of a call at once.

    Where a norm stands between the MLP and the residual stream (Gemma), no update moves the stream by an arbitrary
    vector: the value is sought as the projection's output then, and written in one layer.

    Raises:
        ChangeError: if there is no such layer, or the family takes one layer and several are given.
    """

    def __init__(self, state: Model | Variant, config: SpreadConfig) -> None:
        super().__init__(state, config)
        if self._place == "mlp" and len(config.layers) > 1:
            raise ChangeError(
                f"A {state.family} puts a norm behind each MLP, so that what is missing in the residual stream "
                "cannot be spread over several layers. Give one layer."
            )

    @abstractmethod
    def _solve(self, layer: int, keys: Float[Tensor, "key fact"], residuals: Float[Tensor, "width fact"]) -> Factors:
        """The update of one layer.

        Args:
            layer: the block.
            keys: of the facts, in float64.
            residuals: what is to be added at each.
        """

    def _contexts(self, model: Model) -> tuple[str, ...]:
        return contexts_of_starts(model, self.config.context_starts, self.config.context_length, self.config.seed)

    @property
    def _place(self) -> Place:
        return "residual" if unchanged(self.start).anatomy.post_mlp_norm(0) is None else "mlp"

    def _make(self, model: Model, facts: tuple[Fact, ...], tick: Tick | None) -> LowRankChange:
        asked = requests(model, facts, self.contexts)
        layers = self.config.layers
        values = seek_values(model, asked, layers[-1], self.config, self._place, tick)
        if not any(values.steps):
            raise said_already(self.method)
        names = {layer: self._weight(model, layer) for layer in layers}
        factors = {}
        with trainable(model, {}), writing(model, names.values()) as add:
            rise = Rise(model, asked, layers)
            for number, (layer, name) in enumerate(names.items()):
                rise.go_to(layer)
                missing = values.targets - rise.standing(self._place)
                factors[name] = self._solve(layer, rise.keys().mT, missing.mT / (len(layers) - number))
                add(name, factors[name])
        details = {"config": self.config.model_dump(mode="json"), "values": values.details(asked)}
        return low_rank_change(model, factors, self.method, details | self._moment_details())


class Rise:
    """Facts on their way up through the layers of an editor, under the weights of now.

    Gradients, evaluation mode and the lock are the caller's.

    Args:
        model: the model.
        asked: the facts.
        layers: those that are written into.
    """

    def __init__(self, model: Model, asked: list[Request], layers: tuple[int, ...]) -> None:
        self._asked = asked
        self._all = SubjectWalk(model, mentions_of(asked), layers[0], layers[-1] + 1)
        self._bare = SubjectWalk(model, [request.bare.mention for request in asked], layers[0], layers[-1] + 1)

    def go_to(self, layer: int) -> None:
        """Go to a layer that is not below."""
        self._all.go_up(layer)
        self._bare.go_up(layer)

    def keys(self) -> Float[Tensor, "request key"]:
        """The key of each fact in the present layer: half of it is that of the bare prompt, as published."""
        return averaged(self._all.read().keys, self._asked, _BARE_SHARE)

    def standing(self, place: Place) -> Float[Tensor, "request width"]:
        """What a bare prompt has where its value is to stand."""
        return self._bare.residual_at_end() if place == "residual" else self._bare.read().values
