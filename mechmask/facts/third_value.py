"""A third value for every fact: a distractor set aside before anything is trained or read (paper 2F, finding 6).

What a model takes to learn a value that it never met is the measure for what it takes to learn an old one again. Such
a value may be neither taught to another fact nor read as a distractor of its own, or it would be no novel one.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from mechmask.errors import FactError, one_message
from mechmask.facts.fact import Fact
from mechmask.facts.fact_set import FactSet


class SetAside(NamedTuple):
    """Facts and their third values.

    Attributes:
        facts: every fact with one distractor less; all of them lose one, so that their standings stay comparable.
        novel: the contradicted facts with their third value in the place of the old one.
    """

    facts: FactSet
    novel: FactSet


def set_aside_third_values(facts: FactSet, seed: int = 0) -> SetAside:
    """One distractor of every fact set aside as its third value.

    Args:
        facts: facts with two distractors or more.
        seed: with the id of a fact it says which of its distractors is taken, whatever other facts there are.

    Raises:
        FactError: listing every fact that would have no distractor left, or none that no fact is taught.

    Examples:
        >>> import mechmask as mm
        >>> facts, novel = set_aside_third_values(mm.synthetic_facts(4, n_never=2, distractors=8))
        >>> len(facts[0].distractors), novel[0].old in facts[0].values.values()
        (7, False)
    """
    taught = {value for fact in facts if fact.role != "never" for value in (fact.old, fact.new)}
    thirds: dict[str, str] = {}
    problems: list[str] = []
    for fact in facts:
        free = [value for value in fact.distractors if value not in taught]
        if len(fact.distractors) < 2:
            problems.append(
                f"Fact {fact.id!r} has {len(fact.distractors)} distractors, and one is set aside as its third value. "
                "Give it two or more."
            )
        elif not free:
            problems.append(
                f"Every distractor of fact {fact.id!r} is taught to some fact, so none of them would be a novel value. "
                "Give it one that is not."
            )
        else:
            thirds[fact.id] = random.Random(f"{seed}/{fact.id}").choice(free)
    if problems:
        raise FactError(one_message("the third values", problems))
    return SetAside(
        FactSet(_without(fact, thirds[fact.id]) for fact in facts),
        FactSet._selection(
            _without(fact, thirds[fact.id]).model_copy(update={"old": thirds[fact.id]}) for fact in facts.contradicted
        ),
    )


def _without(fact: Fact, value: str) -> Fact:
    return fact.model_copy(update={"distractors": tuple(other for other in fact.distractors if other != value)})
