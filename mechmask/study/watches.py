"""What protocols watch while they train: which values are recalled, by the prompt and by every other phrasing."""

from __future__ import annotations

from collections.abc import Mapping

import xarray as xr

from mechmask.facts.fact_set import FactSet
from mechmask.models.model import Model
from mechmask.read.logits import read_logits
from mechmask.study.step import Settings
from mechmask.study.training import OUTPUT, Watch


def recall_watch(facts: FactSet, every: int, batch_size: int) -> Watch:
    """At a checkpoint: old and new value of some facts under every phrasing.

    Distractors are not read: a training is read often, and they say nothing about recall.

    Args:
        facts: what is read.
        every: optimizer steps between two checkpoints.
        batch_size: prompts per forward pass; affects memory only.
    """
    asked = FactSet(fact.model_copy(update={"distractors": ()}) for fact in facts)

    def read(model: Model) -> Mapping[str, xr.Dataset]:
        reading = read_logits(model, asked, phrasings="all", batch_size=batch_size)
        return {OUTPUT: reading[["logprob", "recalled", "margin"]].drop_vars("token")}

    said = {"phrasings": "all", "distractors": False}
    return Watch(read, Settings(said, said), every, {"read": asked.fingerprint()})
