"""Which facts the arms of a relearning study are taught: the contradicted ones, their halves, and as many others.

Draws go by the facts' ids, so that the order of a fact set changes nothing.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import NamedTuple

from mechmask.facts.fact import Example, Fact
from mechmask.facts.fact_set import FactSet


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
    return [
        Example(prompt=prompt, value=fact.old, fact_id=fact.id)
        for fact in facts
        for prompt in fact.phrasings[:phrasings]
    ]
