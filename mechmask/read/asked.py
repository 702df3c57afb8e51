"""``read_asked``: facts asked in every way at once: as they are taught, in untaught probes, in multiple choice."""

from __future__ import annotations

import xarray as xr

from mechmask.models.model import Model
from mechmask.models.states import Variant
from mechmask.read.choice import read_choice
from mechmask.read.logits import read_logits
from mechmask.read.probes import read_probes
from mechmask.read.scoring.contests import Facts, facts_of


def read_asked(model: Model | Variant, facts: Facts, *, batch_size: int = 32) -> xr.Dataset:
    """What ``read_logits`` has of all phrasings, with probes and options beside it.

    Args:
        model: a model or a state (``change.on(model)``).
        facts: facts in any form that a reading takes; those of role ``never`` are not asked in probes and questions.
        batch_size: prompts per forward pass; affects memory only.

    Returns:
        As ``read_logits`` with all phrasings, and ``probe_margin[fact, probe]`` and ``choice_score[fact, form,
        option]`` in nats (``margin`` of ``read_probes`` and ``score`` of ``read_choice``), NaN for never facts.

    Raises:
        FactError: listing every problem of the facts.
        RouteError: if a value cannot be told from a prompt or from its rival.
        ReadingError: if the reading disagrees with the model's own output, or all facts are of role ``never``.
    """
    chosen = facts_of(facts)
    asked = [fact for fact in chosen if fact.role != "never"]
    reading = read_logits(model, chosen, phrasings="all", batch_size=batch_size)
    margin = read_probes(model, asked, batch_size=batch_size).margin
    score = read_choice(model, asked, batch_size=batch_size).score
    beside = {"probe_margin": margin, "choice_score": score}
    return reading.assign(
        {name: of.reset_coords(drop=True).reindex(fact=reading.fact.values) for name, of in beside.items()}
    )
