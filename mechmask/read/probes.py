"""``read_probes``: the contest in phrasings that no training shows, where an old value may lead again."""

from __future__ import annotations

import numpy as np
import xarray as xr

from mechmask.facts.fact_set import FactSet
from mechmask.facts.probes import probed, probes
from mechmask.models.model import Model
from mechmask.models.states import Variant
from mechmask.read.logits import read_logits
from mechmask.read.scoring.contests import Facts, facts_of


def read_probes(model: Model | Variant, facts: Facts, *, batch_size: int = 32) -> xr.Dataset:
    """Old against new in every probe of every fact (``mechmask.facts.probes``).

    Args:
        model: a model or a state (``change.on(model)``).
        facts: facts in any form that a reading takes; distractors are not read.
        batch_size: prompts per forward pass; affects memory only.

    Returns:
        ``logprob[fact, probe, route]`` of the routes old and new and ``margin[fact, probe]`` in nats; NaN where a fact
        has no such paraphrase.

    Raises:
        FactError: listing every problem of the facts.
        RouteError: if a value cannot be told from a probe or from its rival.
        ReadingError: if the reading disagrees with the model's own output.
    """
    asked = facts_of(facts, distractors=False)
    texts = {fact.id: probes(fact) for fact in asked}
    names = list(dict.fromkeys(name for of in texts.values() for name in of))
    reading = read_logits(model, FactSet(probed(fact) for fact in asked), phrasings="all", batch_size=batch_size)
    parts = reading[["logprob", "margin"]].drop_vars("token", errors="ignore").isel(phrasing=slice(1, None))
    row = {fact: list(of) for fact, of in texts.items()}
    places = np.array([[row[f].index(name) if name in row[f] else -1 for name in names] for f in texts])
    at = xr.DataArray(places, dims=("fact", "probe"), coords={"fact": list(texts), "probe": names})
    return parts.isel(phrasing=at.clip(0)).where(at >= 0).assign_attrs(reading.attrs)
