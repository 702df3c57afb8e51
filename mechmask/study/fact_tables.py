"""Where a study's facts come from, as tables of its file: invented ones, or those of the world that a model holds."""

from __future__ import annotations

import random
from pathlib import Path

from pydantic import Field, model_validator

from mechmask.configuration import Configuration
from mechmask.errors import FactError
from mechmask.facts.fact_set import FactSet
from mechmask.facts.load import load_facts
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
    """Facts of the world that the model holds: those that come with mechmask, or those of a data set.

    Attributes:
        path: a file of facts, such as CounterFact's, in place of those that come with mechmask; relative to a study's
            file.
        format: of that file, as ``load_facts`` takes it.
        asked: of how many facts of the file it is asked whether the model holds them, drawn by the seed; of all by
            default.
        n_contradicted: facts that are contradicted.
        n_control: facts that are re-presented with their old value.
        n_never: pseudo-subjects in the same prompts.
        seed: draws facts and counterfactuals.
        relations: only these, such as capital; all by default.
        min_margin: nats by which every token of the old value has to lead for a fact to count as held.
    """

    path: Path | None = None
    format: str = "auto"
    asked: int | None = Field(default=None, ge=1)
    n_contradicted: int = 12
    n_control: int = 8
    n_never: int = 12
    seed: int = 0
    relations: tuple[str, ...] | None = None
    min_margin: float = 0.1

    @model_validator(mode="after")
    def _of_a_file(self) -> WorldTable:
        if self.path is None and (self.asked is not None or self.format != "auto"):
            raise ValueError("asked and format are of a file of facts. Give its path, or leave them out")
        return self

    def facts(self, model: Model, draw: int = 0) -> FactSet:
        """The facts, drawn from those that the model holds.

        Args:
            model: who has to hold them.
            draw: added to the seed.

        Raises:
            FactError: if it holds fewer than are asked for, the file cannot be read, or no fact is of these relations.
        """
        seed = self.seed + draw
        held = known_facts(model, self._all(seed), min_margin=self.min_margin)
        counts = self.model_dump(include={"n_contradicted", "n_control", "n_never"})
        return assign_roles(held, **counts, seed=seed)

    def _all(self, seed: int) -> FactSet:
        """The facts of which the model may hold some."""
        if self.path is None:
            return world_facts(relations=self.relations, seed=seed)
        facts = load_facts(self.path, self.format)
        there = [fact.id for fact in facts if self.relations is None or fact.relation in self.relations]
        if not there:
            relations = sorted({fact.relation for fact in facts})
            raise FactError(
                f"No fact of {self.path.name} is of the relations {', '.join(self.relations or ())}. It has "
                f"{', '.join(relations)}."
            )
        if self.asked is not None and self.asked < len(there):
            there = random.Random(seed).sample(there, self.asked)
        return facts.select(there)
