"""The facts that ``mechmask edit`` changes: those of a file that the model knows, drawn by a seed, with their roles.

A fact that the model does not know has no old value to be masked or erased. A file such as CounterFact's holds tens of
thousands, so they are asked in the order of the draw, until enough are known.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

from mechmask.errors import FactError, ReadingError
from mechmask.facts.fact import Fact
from mechmask.facts.fact_set import FactSet
from mechmask.facts.roles import assign_roles
from mechmask.models.model import Model
from mechmask.progress import progress_bar
from mechmask.read.known import known_facts
from mechmask.study.editing.readings import can_be_asked

N_CONTROL = 8
N_BESIDE = 12  # pseudo-subjects beyond one for each fact: from them it is known how far apart two of a fact are
_TOGETHER = 64  # facts that are asked at once


def drawn_facts(model: Model, facts: FactSet, n: int, *, seed: int = 0, min_margin: float = 0.1) -> FactSet:
    """Facts that the model knows, at most so many, with controls and pseudo-subjects in their prompts.

    Args:
        model: who has to know them: greedy decoding says the old value.
        facts: of whatever role; those without a distractor, or whose values have no tokens of their own, are passed
            over.
        n: how many are contradicted at most; fewer where the model knows fewer.
        seed: draws facts and pseudo-subjects.
        min_margin: nats by which every token of the old value has to lead.

    Returns:
        Contradicted facts; up to eight controls, a quarter of what is known where that is less; for every contradicted
        fact a pseudo-subject, and twelve more.

    Raises:
        FactError: if ``n`` is below 1, or the model knows fewer than two of the facts.
    """
    if n < 1:
        raise FactError(f"{n} facts cannot be edited. Give one or more.")
    order = random.Random(seed).sample(list(facts), len(facts))
    known: list[Fact] = []
    n_asked = 0
    with progress_bar("asking", math.ceil(len(order) / _TOGETHER)) as bar:
        for some in _usable(model, order):
            n_asked += len(some)
            known += _held(model, some, min_margin)
            bar(f"{len(known)} known of {n_asked}")
            if len(known) >= n + N_CONTROL:
                bar.end_early(f"{len(known)} known of {n_asked}")
                break
    if len(known) < 2:
        raise FactError(
            f"{model.name} knows {len(known)} of the {n_asked} facts that could be asked, and it takes two: one to be "
            "edited and one beside it. Give facts with distractors that the model knows, or a model that knows them."
        )
    n_control = max(1, min(N_CONTROL, len(known) // 4))
    n_contradicted = min(n, len(known) - n_control)
    chosen = FactSet(known[: n_contradicted + n_control])
    return assign_roles(
        chosen, n_contradicted=n_contradicted, n_control=n_control, n_never=n_contradicted + N_BESIDE, seed=seed
    )


def _usable(model: Model, facts: list[Fact]) -> Iterator[list[Fact]]:
    """Some facts at a time that can be asked, in their order; never facts of a study are none that a model knows."""
    for start in range(0, len(facts), _TOGETHER):
        some = facts[start : start + _TOGETHER]
        yield [fact for fact in some if fact.role != "never" and fact.distractors and can_be_asked(model, fact)]


def _held(model: Model, facts: list[Fact], min_margin: float) -> list[Fact]:
    """Those that the model knows."""
    if not facts:
        return []
    try:
        return list(known_facts(model, facts, min_margin=min_margin))
    except ReadingError:  # it knows none of these
        return []
