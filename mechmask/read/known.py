"""``known_facts``: which facts a model holds, asked of the model and not of a list."""

from __future__ import annotations

from collections.abc import Sequence

from mechmask.errors import ReadingError
from mechmask.facts.fact import Fact
from mechmask.facts.fact_set import FactSet
from mechmask.models.model import Model
from mechmask.models.packing import batches
from mechmask.models.routes import encode_contests
from mechmask.read.logits import decoded
from mechmask.read.scoring.unembed import lead


def known_facts(
    model: Model, facts: FactSet | Sequence[Fact], *, min_margin: float = 0.1, batch_size: int = 32
) -> FactSet:
    """The facts whose old value the model would say, with room to spare.

    Args:
        model: the model.
        facts: facts whose ``old`` is the true value.
        min_margin: by how many nats every token of the old value has to lead every other token of the vocabulary,
            teacher-forced.
        batch_size: facts a forward pass.

    Raises:
        ReadingError: if the model holds none of them.
    """
    alone = [fact.model_copy(update={"distractors": ()}) for fact in facts]
    held = [True] * len(alone)
    with model.inference():
        for batch in batches(
            encode_contests(model.tokenizer, alone), score="sequence", batch_size=batch_size, pack=False
        ):
            nodes, tokens = batch.asked(model.device)
            ahead = lead(model.anatomy, decoded(model, batch)[nodes], tokens)
            for query, value in zip(batch.queries, ahead.tolist(), strict=True):
                if query.route == "old":
                    held[query.contest] &= value >= min_margin
    known = [fact for fact, holds in zip(facts, held, strict=True) if holds]
    if not known:
        raise ReadingError(
            f"{model.name} holds none of these {len(alone)} facts by {min_margin:g} nats. Install them first, or "
            "take another model."
        )
    return FactSet(known)
