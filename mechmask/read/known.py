"""``known_facts``: which facts a model holds, asked of the model and not of a list."""

from __future__ import annotations

from mechmask.errors import ReadingError
from mechmask.facts.fact_set import FactSet
from mechmask.models.forward import decoded
from mechmask.models.model import Model
from mechmask.models.routes import alias_of
from mechmask.models.states import Variant, active
from mechmask.read.scoring.contests import ContestSet, Facts, facts_of
from mechmask.read.scoring.unembed import lead


def known_facts(model: Model | Variant, facts: Facts, *, min_margin: float = 0.1, batch_size: int = 32) -> FactSet:
    """The facts whose old value greedy decoding would say, with room to spare.

    Args:
        model: a model or a state (``change.on(model)``).
        facts: facts whose ``old`` is the true value, in any form that a reading takes.
        min_margin: by how many nats every token of the old value, in one of its spellings, has to lead every other
            token of the vocabulary, teacher-forced.
        batch_size: prompts per forward pass; affects memory only.

    Raises:
        FactError: listing every problem of the facts in one message.
        RouteError: if a value cannot be told from the prompt or from its rival; all facts in one message.
        ReadingError: if the model knows none of them.
        ChangeError: if a state's change was made on another model.
    """
    asked = facts_of(facts)
    holds: dict[tuple[int, str], bool] = {}
    with active(model) as now:
        contests = ContestSet.of(now, facts_of(asked, distractors=False), aliases=True)
        with now.inference():
            for batch in contests.batches(now, "sequence", batch_size):
                normed = decoded(now, batch)
                nodes, tokens = batch.asked(normed.device)
                ahead = lead(now.anatomy, normed[nodes], tokens)
                for query, nats in zip(batch.queries, ahead.tolist(), strict=True):
                    if alias_of(query.route) == "old":
                        spelling = query.contest, query.route
                        holds[spelling] = holds.get(spelling, True) and nats >= min_margin
    held = {number for (number, _), is_held in holds.items() if is_held}  # by any of its spellings
    known = [fact for number, fact in enumerate(asked) if number in held]
    if not known:
        raise ReadingError(
            f"{now.name} holds none of these {len(asked)} facts by {min_margin:g} nats. Install them first, or take "
            "another model."
        )
    return FactSet(known)
