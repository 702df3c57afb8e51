"""Editors that write one value at one key of one layer, fact after fact: ROME and its kin (Meng et al. 2022).

Published code reads the key that gives the direction in contexts and the key at which the value stands exactly without;
Gupta et al. (2024, «Rebuilding ROME») hold that asymmetry responsible for edits that disable a model. Which keys an
editor reads is all that sets its kind apart.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from mechmask.facts.fact import Fact
from mechmask.models.model import Model
from mechmask.progress import Tick
from mechmask.write.contexts import contexts_of_lengths
from mechmask.write.keyed import KeyedConfig, KeyedEditor
from mechmask.write.keys import KeysAndValues, SubjectWalk, mentions_of
from mechmask.write.low_rank import Factors, LowRankChange, low_rank_change, writing
from mechmask.write.requests import Request, requests
from mechmask.write.solves import rank_one
from mechmask.write.values import said_already, seek_values
from mechmask.write.weights import trainable


class RankOneConfig(KeyedConfig):
    """How a rank-one editor edits: ``KeyedConfig`` and the following.

    Attributes:
        context_lengths: number of tokens and of texts that prompts are read behind
            (``context_template_length_params``).
        second_moment: ``estimated`` from text, or ``identity``, with which a library that is much used ships ROME: text
            is not protected then, and the result is not that of the paper's closed form (``mom2_adjustment: false``).
    """

    context_lengths: tuple[tuple[int, int], ...] = ((5, 10), (10, 10))
    second_moment: Literal["estimated", "identity"] = "estimated"


class Insertion(NamedTuple):
    """What a fact is written by, each in float64.

    Attributes:
        direction: the key that gives the direction ``[key]``.
        written: the key at which the value stands exactly ``[key]``.
        value: what stands there now ``[width]``.
    """

    direction: Float[Tensor, " key"]
    written: Float[Tensor, " key"]
    value: Float[Tensor, " width"]


class RankOneEditor(KeyedEditor[RankOneConfig]):
    """An editor that writes one fact after the other, each by an update of rank one in every layer."""

    @abstractmethod
    def _insertion(self, read: KeysAndValues) -> Insertion:
        """What a fact is written by.

        Args:
            read: of its prompts, the bare one first.
        """

    @property
    def _needs_moments(self) -> bool:
        return self.config.second_moment == "estimated"

    def _contexts(self, model: Model) -> tuple[str, ...]:
        return contexts_of_lengths(model, self.config.context_lengths, self.config.seed)

    def _make(self, model: Model, facts: tuple[Fact, ...], tick: Tick | None) -> LowRankChange:
        asked = requests(model, facts, self.contexts)
        names = {layer: self._weight(model, layer) for layer in self.config.layers}
        moments = self.moments if self._needs_moments else dict.fromkeys(names)
        written: dict[str, list[Factors]] = defaultdict(list)
        found = []
        with writing(model, names.values()) as add:
            for request in asked:
                for layer, name in names.items():
                    values = seek_values(model, [request], layer, self.config, "mlp")
                    found += [{**entry, "layer": layer} for entry in values.details([request])]
                    if not any(values.steps):
                        continue  # the model says the new value as it is
                    by = self._insertion(_read(model, request, layer))
                    factors = rank_one(by.direction, by.written, values.targets[0] - by.value, moments[layer])
                    add(name, factors)
                    written[name].append(factors)
                if tick is not None:
                    tick(request.fact_id)
        if not written:
            raise said_already(self.method)
        details = {"config": self.config.model_dump(mode="json"), "values": found, **self._moment_details()}
        together = {
            name: Factors(torch.cat([f.outputs for f in each], 1), torch.cat([f.inputs for f in each]))
            for name, each in written.items()
        }
        return low_rank_change(model, together, self.method, details)


def _read(model: Model, request: Request, layer: int) -> KeysAndValues:
    with trainable(model, {}):
        return SubjectWalk(model, mentions_of([request]), layer, layer + 1).read()
