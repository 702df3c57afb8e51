"""``known_facts``: which facts a model holds, asked of the model and not of a list."""

from __future__ import annotations

from mechmask.errors import ReadingError
from mechmask.facts.fact_set import FactSet
from mechmask.models.forward import decoded
from mechmask.models.model import Model
from mechmask.models.states import Variant, active
from mechmask.read.scoring.contests import ContestSet, Facts, facts_of
from mechmask.read.scoring.unembed import lead


def known_facts(model: Model | Variant, facts: Facts, *, min_margin: float = 0.1, batch_size: int = 32) -> FactSet:
    """The facts whose old value greedy decoding would say, with room to spare.

    Args:
        model: a model or a state (``change.on(model)``).
        facts: facts whose ``old`` is the true value, in any form that a reading takes.
        min_margin: by how many nats every token of the old value has to lead every other token of the vocabulary,
            teacher-forced.
        batch_size: prompts per forward pass; affects memory only.

    Raises:
        FactError: listing every problem of the facts in one message.
        RouteError: if a value cannot be told from the prompt or from its rival; all facts in one message.
        ReadingError: if the model knows none of them.
        ChangeError: if a state's change was made on another model.
    """
    asked = facts_of(facts)
    holds = [True] * len(asked)
    with active(model) as now:
        contests = ContestSet.of(now, facts_of(asked, distractors=False))
        with now.inference():
            for batch in contests.batches(now, "sequence", batch_size):
                normed = decoded(now, batch)
                nodes, tokens = batch.asked(normed.device)
                ahead = lead(now.anatomy, normed[nodes], tokens)
                for query, nats in zip(batch.queries, ahead.tolist(), strict=True):
                    if query.route == "old":
                        holds[query.contest] &= nats >= min_margin
    known = [fact for fact, is_held in zip(asked, holds, strict=True) if is_held]
    if not known:
        raise ReadingError(
            f"{now.name} holds none of these {len(asked)} facts by {min_margin:g} nats. Install them first, or take "
            "another model."
        )
    return FactSet(known)
