"""Where a study's facts come from, as tables of its file: invented ones, or those of the world that a model holds."""

from __future__ import annotations

from mechmask.configuration import Configuration
from mechmask.facts.fact_set import FactSet
from mechmask.facts.roles import assign_roles
from mechmask.facts.synthetic import synthetic_facts
from mechmask.facts.world import world_facts
from mechmask.models.model import Model
from mechmask.read.known import known_facts


class SyntheticTable(Configuration):
    """Facts about entities that do not exist.

    Attributes:
        n: facts that are taught: contradicted and control together.
        seed: draws names and values.
        n_contradicted: facts that are contradicted; half of n by default.
        n_control: facts that are re-presented with their old value; the rest of n by default.
        n_never: facts that are held out of all training; at least 12 by default.
        distractors: values for each fact that no training shows.
    """

    n: int = 24
    seed: int = 0
    n_contradicted: int | None = None
    n_control: int | None = None
    n_never: int | None = None
    distractors: int = 8

    def facts(self, draw: int = 0) -> FactSet:
        """The facts.

        Args:
            draw: added to the seed.
        """
        return synthetic_facts(**{**self.model_dump(), "seed": self.seed + draw})


class WorldTable(Configuration):
    """Well-known facts that the model holds.

    Attributes:
        n_contradicted: facts that are contradicted.
        n_control: facts that are re-presented with their old value.
        n_never: pseudo-subjects in the same prompts.
        seed: draws facts and counterfactuals.
        relations: only these, such as capital; all by default.
        min_margin: nats by which every token of the old value has to lead for a fact to count as held.
    """

    n_contradicted: int = 12
    n_control: int = 8
    n_never: int = 12
    seed: int = 0
    relations: tuple[str, ...] | None = None
    min_margin: float = 0.1

    def facts(self, model: Model, draw: int = 0) -> FactSet:
        """The facts, drawn from those that the model holds.

        Args:
            model: who has to hold them.
            draw: added to the seed.

        Raises:
            FactError: if it holds fewer than are asked for.
        """
        seed = self.seed + draw
        held = known_facts(model, world_facts(relations=self.relations, seed=seed), min_margin=self.min_margin)
        counts = self.model_dump(include={"n_contradicted", "n_control", "n_never"})
        return assign_roles(held, **counts, seed=seed)
