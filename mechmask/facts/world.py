"""Well-known facts of the world with counterfactuals, written for this project (``world_facts.json``).

Each relation is a table of subjects and values with four phrasings; a fact's counterfactual, distractors and neighbors
are drawn from the same table. ``mechmask.known_facts`` tells which of the facts a model knows.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from importlib.resources import files
from typing import NamedTuple

from mechmask.errors import FactError, known_names
from mechmask.facts.fact import Fact, Neighbor
from mechmask.facts.fact_set import FactSet


class _Relation(NamedTuple):
    name: str
    templates: tuple[str, ...]
    values: dict[str, str]


def world_facts(
    *, relations: Sequence[str] | None = None, seed: int = 0, distractors: int = 8, neighbors: int = 4
) -> FactSet:
    """Facts that most language models have seen in pretraining, all of role ``contradicted``.

    ``mechmask.assign_roles`` turns some of them into controls and adds facts that were never known.

    Args:
        relations: only these, such as ``capital``; all by default.
        seed: the same seed draws the same counterfactuals, distractors and neighbors.
        distractors: how many other values of the relation each fact has, as far as the relation has so many.
        neighbors: how many prompts about other subjects of the relation, those that share the old value first.

    Raises:
        FactError: if a relation is not in the table, or a number is negative.

    Examples:
        >>> import mechmask as mm
        >>> fact = mm.world_facts(relations=["capital"])["France/capital"]
        >>> fact.prompt, fact.old
        ('The capital of France is', 'Paris')
    """
    table = {relation.name: relation for relation in _table()}
    unknown = [name for name in relations or () if name not in table]
    if unknown:
        raise FactError(f"No relation is called {', '.join(map(repr, unknown))}. {known_names(unknown[0], table)}")
    if min(distractors, neighbors) < 0:
        raise FactError(
            f"{distractors} distractors and {neighbors} neighbors cannot be drawn. Give counts of zero or more."
        )
    rng = random.Random(seed)
    chosen = [table[name] for name in relations or table]
    return FactSet(fact for relation in chosen for fact in _facts(relation, rng, distractors, neighbors))


def _table() -> Iterator[_Relation]:
    text = files("mechmask.facts").joinpath("world_facts.json").read_text(encoding="utf-8")
    for entry in json.loads(text)["relations"]:
        yield _Relation(entry["relation"], tuple(entry["templates"]), dict(entry["facts"]))


def _facts(relation: _Relation, rng: random.Random, n_distractors: int, n_neighbors: int) -> Iterator[Fact]:
    for subject, old in relation.values.items():
        others = sorted(set(relation.values.values()) - {old})
        rng.shuffle(others)
        phrasings = [template.format(subject) for template in relation.templates]
        yield Fact(
            subject=subject,
            prompt=phrasings[0],
            paraphrases=tuple(phrasings[1:]),
            old=old,
            new=others[0],
            distractors=tuple(others[1 : 1 + n_distractors]),
            neighbors=_neighbors(relation, subject, rng)[:n_neighbors],
            relation=relation.name,
        )


def _neighbors(relation: _Relation, subject: str, rng: random.Random) -> tuple[Neighbor, ...]:
    rest = [other for other in relation.values if other != subject]
    rng.shuffle(rest)
    rest.sort(key=lambda other: relation.values[other] != relation.values[subject])
    return tuple(Neighbor(prompt=relation.templates[0].format(other), value=relation.values[other]) for other in rest)
