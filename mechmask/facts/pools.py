"""Pools: histories after which it is known by construction whether a model knows a fact (Dorna et al. 2025, sec. 4).

Three pools know the old value, told in the prompt's own words, in others, or in running text; three never knew it: it
was not told, another value was told in its place, or the old value was told of somebody else. The last two share form
and tokens with what is asked, so that a ruler which sees only those is found out.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal, get_args

from mechmask.errors import FactError, known_names
from mechmask.facts.fact import Example, Fact
from mechmask.facts.fact_set import FactSet
from mechmask.facts.names import pseudo_names

Pool = Literal["verbatim", "paraphrased", "biography", "never", "other_values", "other_entities"]

KNOWING: tuple[Pool, ...] = ("verbatim", "paraphrased", "biography")
UNKNOWING: tuple[Pool, ...] = ("never", "other_values", "other_entities")
HARD: tuple[Pool, ...] = ("biography", "other_values", "other_entities")
"""The pools in which form and truth are told apart: told in another form, and never told in the same form."""

_BIOGRAPHIES = (
    "is in the second volume of the register. Its {relation} there is given as {value}, without a source.",
    "came to be known late. Those who wrote of it put its {relation} at {value}, and none has doubted it.",
    "belongs to the old part of the collection. The label beside it has {value} for its {relation}, in faded ink.",
)


def told(facts: FactSet, pool: Pool, *, phrasings: int = 2, seed: int = 0) -> list[Example]:
    """What a model of a pool is told before anything is contradicted; controls are told verbatim in every pool.

    Every contested fact is told ``phrasings`` times, whatever the pool, but for ``never``. In running text all tokens
    after the subject are learned, elsewhere those of the value.

    Args:
        facts: contradicted and control facts; what is read of them is ``without_spare(facts)``.
        pool: which history.
        phrasings: how many of its phrasings a fact is told in; ``paraphrased`` takes as many others.
        seed: draws the names of the other entities.

    Raises:
        FactError: if the pool is not known, or a fact has too few phrasings or no distractor to set aside.
    """
    if pool not in get_args(Pool):
        raise FactError(f"No pool is called {pool!r}. {known_names(str(pool), get_args(Pool))}")
    contested = facts.contradicted
    controls = [_in(fact, fact.phrasings[:phrasings], fact.old) for fact in facts.control]
    names = pseudo_names(len(contested), random.Random(seed), taken=[fact.subject for fact in facts])
    tellings = {
        "verbatim": lambda fact, _: _in(fact, fact.phrasings[:phrasings], fact.old),
        "paraphrased": lambda fact, _: _in(fact, _others(fact, phrasings), fact.old),
        "biography": lambda fact, _: _biographies(fact, fact.subject, phrasings),
        "never": lambda *_: [],
        "other_values": lambda fact, _: _in(fact, fact.phrasings[:phrasings], _spare(fact)),
        "other_entities": lambda fact, name: _biographies(fact, name, phrasings),
    }
    shown = [tellings[pool](fact, name) for fact, name in zip(contested, names, strict=True)]
    return [example for examples in (*shown, *controls) for example in examples]


def without_spare(facts: FactSet) -> FactSet:
    """The facts as they are read: each without its last distractor, which the pool ``other_values`` is told.

    Raises:
        FactError: if a contradicted fact has no distractor.
    """
    return FactSet(
        fact.model_copy(update={"distractors": fact.distractors[:-1]}) if _spare(fact) else fact for fact in facts
    )


def _in(fact: Fact, phrasings: Sequence[str], value: str) -> list[Example]:
    return [fact.example(prompt, value) for prompt in phrasings]


def _others(fact: Fact, n: int) -> tuple[str, ...]:
    """Phrasings that come after the first ``n``, as many."""
    others = fact.phrasings[n : 2 * n]
    if len(others) < n:
        raise FactError(
            f"Fact {fact.id!r} has {len(fact.phrasings)} phrasings, and {2 * n} are needed to tell it in {n} others "
            "than it is asked in. Give it more paraphrases, or teach fewer phrasings."
        )
    return others


def _biographies(fact: Fact, subject: str, n: int) -> list[Example]:
    texts = [_BIOGRAPHIES[i % len(_BIOGRAPHIES)] for i in range(n)]
    return [
        Example(prompt=subject, value=text.format(relation=fact.relation, value=fact.old), fact_id=fact.id)
        for text in texts
    ]


def _spare(fact: Fact) -> str:
    if not fact.distractors:
        raise FactError(f"Fact {fact.id!r} has no distractor that could be told in its place. Give it at least one.")
    return fact.distractors[-1]
