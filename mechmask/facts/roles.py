"""Roles for facts that a model already knows.

Nothing was held out of pretraining by construction, so the never-known facts are about pseudo-subjects: invented names
in the same prompts with the same values.
"""

from __future__ import annotations

import random

from mechmask.errors import FactError
from mechmask.facts.fact import Fact
from mechmask.facts.fact_set import FactSet
from mechmask.facts.names import pseudo_names


def assign_roles(facts: FactSet, *, n_contradicted: int, n_control: int, n_never: int = 12, seed: int = 0) -> FactSet:
    """Draw contradicted and control facts at random, and add never-known facts about pseudo-subjects.

    Args:
        facts: facts that the model knows, whatever their role.
        n_contradicted: how many will be contradicted.
        n_control: how many will be re-presented with their old value.
        n_never: how many facts about pseudo-subjects to add, each in the prompts of one drawn fact after the other.
        seed: the same seed gives the same draw.

    Returns:
        The facts in the order contradicted, control, never.

    Raises:
        FactError: if a count is negative, no fact is drawn, or there are fewer facts than that.

    Examples:
        >>> import mechmask as mm
        >>> mm.assign_roles(mm.world_facts(relations=["capital"]), n_contradicted=3, n_control=2, n_never=4)
        FactSet(9 facts: 3 contradicted, 2 control, 4 never)
    """
    if min(n_contradicted, n_control, n_never) < 0 or not 1 <= n_contradicted + n_control <= len(facts):
        raise FactError(
            f"{n_contradicted} contradicted, {n_control} control and {n_never} never facts cannot be drawn from "
            f"{len(facts)}. Give counts of zero or more, the first two together between one and the number of facts."
        )
    rng = random.Random(seed)
    drawn = rng.sample(list(facts), n_contradicted + n_control)
    taught = [
        fact.model_copy(update={"role": "contradicted" if i < n_contradicted else "control"})
        for i, fact in enumerate(drawn)
    ]
    names = pseudo_names(n_never, rng, taken=[fact.subject for fact in facts])
    return FactSet([*taught, *(_never_known(drawn[i % len(drawn)], name) for i, name in enumerate(names))])


def _never_known(fact: Fact, name: str) -> Fact:
    return Fact(
        subject=name,
        prompt=fact.prompt.replace(fact.subject, name),
        paraphrases=tuple(phrasing.replace(fact.subject, name) for phrasing in fact.paraphrases),
        old=fact.old,
        new=fact.new,
        role="never",
        distractors=fact.distractors,
        relation=fact.relation,
    )
