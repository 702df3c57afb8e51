"""Paraphrases and neighbors for facts of any data set whose relations are ParaRel's (Elazar et al. 2021).

CounterFact's relations and known_1000's are, by the number of their Wikidata property, such as ``P19``.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Container, Mapping
from itertools import islice
from pathlib import Path

from mechmask.errors import FactError, known_names, one_message
from mechmask.facts.fact import Fact, Implication, Neighbor
from mechmask.facts.fact_set import FactSet
from mechmask.facts.readers.pararel import N_NEIGHBORS, Relation, relations
from mechmask.facts.readers.text import Entries


def with_pararel(facts: FactSet, directory: str | Path, *, neighbors: int = N_NEIGHBORS) -> FactSet:
    """The facts with ParaRel's patterns as further paraphrases and its other subjects as further neighbors.

    Where the relation is asked in reverse too, the question is a further implication. Distractors that ParaRel has as
    true of the subject are left out.

    A subject that the set has a fact of the same relation about is no neighbor: it may be contradicted too. Nor is one
    of which the new value is true. No text is added that is a phrasing of another fact.

    Args:
        facts: facts of which some have a relation such as ``P19``; the others stay as they are.
        directory: ParaRel, as ``load_facts`` takes it.
        neighbors: up to how many neighbors a fact has afterwards; its own stay, and come first.

    Warns:
        UserWarning: if ParaRel has the new value of a fact as a true one of the subject. The fact is left out, and so
            are never-known facts that stand for it.

    Raises:
        FactError: if no fact is of a relation of ParaRel, none is left, or the directory cannot be read.
    """
    read = Entries()
    known = {relation.name: relation for relation in relations(Path(directory), read) if relation.templates}
    if read.problems:
        raise FactError(one_message(str(directory), read.problems))
    if not any(fact.relation in known for fact in facts):
        raise FactError(f"No fact is of a relation of ParaRel. {known_names(facts[0].relation, known)}")
    true = {
        fact.id for fact in facts if fact.relation in known and known[fact.relation].is_true(fact.subject, fact.new)
    }
    kept = [fact for fact in facts if fact.id not in true and fact.stands_for not in true]
    if not kept:
        raise FactError("Of every fact the new value is true, as ParaRel has it. Give new values that are not.")
    if true:
        warnings.warn(_left_out(facts, kept, true), stacklevel=2)
    return FactSet(_enriched(kept, known, neighbors))


def _left_out(facts: FactSet, kept: list[Fact], true: set[str]) -> str:
    n_more = len(facts) - len(kept) - len(true)
    more = f", and {n_more} that {'stands' if n_more == 1 else 'stand'} for {'it' if len(true) == 1 else 'them'}"
    named = ", ".join(map(repr, sorted(true)[:5])) + ", ..." * (len(true) > 5)
    return (
        f"{len(true)} of {len(facts)} facts {'was' if len(true) == 1 else 'were'} left out{more if n_more else ''}: "
        f"ParaRel has the new value as a true one of the subject ({named})."
    )


def _enriched(facts: list[Fact], known: Mapping[str, Relation], n: int) -> list[Fact]:
    owners = {phrasing: fact.id for fact in facts for phrasing in fact.phrasings}
    asked: dict[str, set[str]] = defaultdict(set)
    rephrased: list[Fact] = []
    for fact in facts:
        asked[fact.relation].add(fact.subject)
        rephrased.append(_rephrased(fact, known[fact.relation], owners) if fact.relation in known else fact)
    return [
        _beside(fact, known[fact.relation], asked[fact.relation], owners, n) if fact.relation in known else fact
        for fact in rephrased
    ]


def _rephrased(fact: Fact, relation: Relation, owners: dict[str, str]) -> Fact:
    """The fact with the paraphrases that no other one has, which become its own, and without true distractors."""
    free = (prompt for prompt in relation.prompts(fact.subject) if owners.setdefault(prompt, fact.id) == fact.id)
    paraphrases = dict.fromkeys((*fact.paraphrases, *free))
    paraphrases.pop(fact.prompt, None)
    wrong = tuple(value for value in fact.distractors if not relation.is_true(fact.subject, value))
    return fact.model_copy(update={"paraphrases": tuple(paraphrases), "distractors": wrong})


def _beside(fact: Fact, relation: Relation, asked: set[str], owners: Container[str], n: int) -> Fact:
    """The fact with neighbors and implications."""
    taken = {neighbor.prompt for neighbor in fact.neighbors}
    found = relation.neighbors(fact.subject, fact.old, fact.new, without=asked)
    more = (Neighbor(**one) for one in found if one["prompt"] not in taken and one["prompt"] not in owners)
    together = (*fact.neighbors, *islice(more, max(0, n - len(fact.neighbors))))
    implied = (Implication(**one) for one in relation.implications(fact.subject, fact.new))
    implications = tuple(dict.fromkeys((*fact.implications, *implied)))
    return fact.model_copy(update={"neighbors": together, "implications": implications})
