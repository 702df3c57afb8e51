"""Who plays which role among facts that a model already holds.

For facts from pretraining nothing was held out by construction, so the never role is played by pseudo-subjects in the
same prompts with the same values (DESIGN, verdict).
"""

from __future__ import annotations

import random

from mechmask.errors import FactError
from mechmask.facts.fact import Fact
from mechmask.facts.fact_set import FactSet
from mechmask.facts.names import pseudo_names


def assign_roles(facts: FactSet, *, n_contradicted: int, n_control: int, n_never: int = 12, seed: int = 0) -> FactSet:
    """A seeded draw of facts in the roles contradicted and control, with pseudo-subjects as never.

    Args:
        facts: facts that the model holds, whatever their role.
        n_contradicted: how many are to be contradicted.
        n_control: how many are to be re-presented with their old value.
        n_never: how many pseudo-subjects, in prompts of the drawn facts, in turn.
        seed: the same seed gives the same draw.

    Raises:
        FactError: if there are fewer facts than roles.
    """
    if min(n_contradicted, n_control, n_never) < 0 or not 1 <= n_contradicted + n_control <= len(facts):
        raise FactError(
            f"{n_contradicted} contradicted, {n_control} control and {n_never} never facts cannot be drawn from "
            f"{len(facts)}. "
            "Give counts of zero or more, the first two at most as many together as there are facts."
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
