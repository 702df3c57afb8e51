"""What the arms of a relearning study are taught: old values, third values, and those of as many never-known facts.

What a model takes to learn a value that it never met is the measure for what it takes to learn an old one again (paper
2F, finding 6). Such a third value is a distractor set aside before anything is trained or read; it may be neither
taught to another fact nor read as a distractor, or it would be no novel one. Draws go by the facts' ids, so that the
order of a fact set changes nothing.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import NamedTuple

from mechmask.errors import FactError, one_message
from mechmask.facts.fact import Example, Fact
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
        seed: with the id of a fact (of the one that it stands for) it says which of its distractors is taken, whatever
            other facts there are.

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
            thirds[fact.id] = random.Random(f"{seed}/{fact.stands_for or fact.id}").choice(free)
    if problems:
        raise FactError(one_message("the third values", problems))
    return SetAside(
        FactSet(_without(fact, thirds[fact.id]) for fact in facts),
        FactSet._selection(
            _without(fact, thirds[fact.id]).model_copy(update={"old": thirds[fact.id], "old_aliases": ()})
            for fact in facts.contradicted
        ),
    )


class ArmFacts(NamedTuple):
    """The facts by what is done with them; their ``old`` is what is taught.

    Attributes:
        contradicted: those that were contradicted.
        novel: the same with a third value in the place of the old one.
        never: as many never-known facts.
        half: the half of the contradicted facts that is taught again where the other half is only read.
        other_half: that other half.
        never_half: as many never-known facts as ``half``.
    """

    contradicted: FactSet
    novel: FactSet
    never: FactSet
    half: FactSet
    other_half: FactSet
    never_half: FactSet

    def taught(self, arm: str) -> FactSet:
        """What an arm of that name is taught."""
        return {"novel": self.novel, "never": self.never}.get(arm, self.contradicted)


def arm_facts(facts: FactSet, novel: FactSet, seed: int) -> ArmFacts:
    """The facts of every arm.

    Args:
        facts: contradicted facts, and never-known ones: as many or more.
        novel: the contradicted facts with their third values.
        seed: draws the half that is taught again, and the never-known facts.
    """
    rng = random.Random(seed)
    n = len(facts.contradicted)
    drawn, never = (rng.sample(sorted(of.ids), n) for of in (facts.contradicted, facts.never))
    groups = (never, drawn[: n // 2], drawn[n // 2 :], never[: n // 2])
    return ArmFacts(facts.contradicted, novel, *(FactSet(f for f in facts if f.id in set(ids)) for ids in groups))


def lessons(facts: Iterable[Fact], phrasings: int = 1) -> list[Example]:
    """The values ``old`` of facts of any role as examples, those of never-known facts too.

    Args:
        facts: whose old values are taught.
        phrasings: how many of its phrasings each fact is taught in, the prompt first.
    """
    return [fact.example(prompt, fact.old) for fact in facts for prompt in fact.phrasings[:phrasings]]


def _without(fact: Fact, value: str) -> Fact:
    return fact.model_copy(update={"distractors": tuple(other for other in fact.distractors if other != value)})
