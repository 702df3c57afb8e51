"""Paraphrases and neighbors for facts of any data set whose relations are ParaRel's (Elazar et al. 2021).

CounterFact's relations and known_1000's are, by the number of their Wikidata property, such as ``P19``.
"""

from __future__ import annotations

from pathlib import Path

from mechmask.errors import FactError, known_names, one_message
from mechmask.facts.fact import Fact, Implication, Neighbor
from mechmask.facts.fact_set import FactSet
from mechmask.facts.readers.pararel import N_NEIGHBORS, Relation, relations
from mechmask.facts.readers.text import Entries


def with_pararel(facts: FactSet, directory: str | Path, *, neighbors: int = N_NEIGHBORS) -> FactSet:
    """The facts with ParaRel's patterns as further paraphrases and its other subjects as further neighbors.

    Where the relation is asked in reverse too, the question is a further implication.

    A subject that the set has a fact of the same relation about is no neighbor: it may be contradicted too.

    Args:
        facts: facts of which some have a relation such as ``P19``; the others stay as they are.
        directory: ParaRel, as ``load_facts`` takes it.
        neighbors: up to how many neighbors a fact has afterwards; its own stay, and come first.

    Raises:
        FactError: if no fact is of a relation of ParaRel, or the directory cannot be read.
    """
    read = Entries()
    known = {relation.name: relation for relation in relations(Path(directory), read) if relation.templates}
    if read.problems:
        raise FactError(one_message(str(directory), read.problems))
    if not any(fact.relation in known for fact in facts):
        raise FactError(f"No fact is of a relation of ParaRel. {known_names(facts[0].relation, known)}")
    asked: dict[str, set[str]] = {}
    for fact in facts:
        asked.setdefault(fact.relation, set()).add(fact.subject)
    return FactSet(
        _with(fact, known[fact.relation], asked[fact.relation], neighbors) if fact.relation in known else fact
        for fact in facts
    )


def _with(fact: Fact, relation: Relation, asked: set[str], n: int) -> Fact:
    paraphrases = dict.fromkeys((*fact.paraphrases, *relation.prompts(fact.subject)))
    paraphrases.pop(fact.prompt, None)
    own = {neighbor.prompt for neighbor in fact.neighbors}
    found = relation.neighbors(fact.subject, fact.old, n + len(own), without=asked)
    more = [Neighbor(**one) for one in found if one["prompt"] not in own]
    together = (*fact.neighbors, *more[: max(0, n - len(fact.neighbors))])
    implied = dict.fromkeys(
        (*fact.implications, *(Implication(**one) for one in relation.implications(fact.subject, fact.new)))
    )
    update = {"paraphrases": tuple(paraphrases), "neighbors": together, "implications": tuple(implied)}
    return fact.model_copy(update=update)
