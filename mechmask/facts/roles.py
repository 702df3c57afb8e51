"""Roles for facts that a model already knows.

Nothing was held out of pretraining by construction, so the never-known facts are about pseudo-subjects: invented names
of about the same length in the same prompts with the same values, each standing in for one fact.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

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
        n_never: how many facts about pseudo-subjects to add, each in the prompts of one contradicted fact after the
            other (of one control where none is contradicted). A trace needs one for each contradicted fact, and what is
            known of its noise two for some.
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
    owners = [taught[i % (n_contradicted or len(taught))] for i in range(n_never)]
    names = _of_like_length([fact.subject for fact in owners], rng, taken=[fact.subject for fact in facts])
    return FactSet([*taught, *(_never_known(fact, name) for fact, name in zip(owners, names, strict=True))])


def _of_like_length(subjects: Sequence[str], rng: random.Random, taken: Sequence[str]) -> list[str]:
    """A pseudo-name for each subject, of those that were drawn the nearest in length that is free."""
    names = pseudo_names(4 * len(subjects), rng, taken=taken)
    chosen = []
    for subject in subjects:
        name = min(names, key=lambda name: abs(len(name) - len(subject)))
        names.remove(name)
        chosen.append(name)
    return chosen


def _never_known(fact: Fact, name: str) -> Fact:
    messages = tuple(
        message.model_copy(update={"content": message.content.replace(fact.subject, name)}) for message in fact.messages
    )
    return Fact(
        subject=name,
        prompt=fact.prompt.replace(fact.subject, name),
        paraphrases=tuple(phrasing.replace(fact.subject, name) for phrasing in fact.paraphrases),
        old_aliases=fact.old_aliases,
        new_aliases=fact.new_aliases,
        joiner=fact.joiner,
        messages=messages,
        old=fact.old,
        new=fact.new,
        role="never",
        distractors=fact.distractors,
        relation=fact.relation,
        stands_for=fact.id,
    )
