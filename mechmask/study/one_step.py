"""One-step relearning: each old value taught again by one optimizer step of its own, and read (paper 2F, finding 6).

A reading of a state as ``read_logits`` is, but of as many states as there are facts: each begins at the same place
and sees its fact alone, so that no fact is carried along by another one.
"""

from __future__ import annotations

import xarray as xr

from mechmask.errors import StudyError
from mechmask.facts.arms import lessons
from mechmask.facts.fact_set import FactSet
from mechmask.models.model import Model
from mechmask.models.states import Variant
from mechmask.progress import progress_bar
from mechmask.read.logits import read_logits
from mechmask.write.finetune import FinetuneConfig, Finetuning


def read_after_one_step(
    model: Model | Variant,
    facts: FactSet,
    *,
    config: FinetuneConfig,
    taught_phrasings: int = 1,
    batch_size: int = 32,
) -> xr.Dataset:
    """The contest of each fact after one optimizer step on its own old value.

    AdamW's first step has the same size for every weight, whatever its gradient: what differs between facts is the
    direction and what it finds there.

    Args:
        model: a state that was reached by such a training, which each step continues with a new optimizer; it is left
            as it was.
        facts: whose old values are taught.
        config: how; its number of steps plays no part.
        taught_phrasings: in how many of its phrasings a fact is taught, the prompt first.
        batch_size: phrasings per forward pass when reading; affects memory only.

    Returns:
        ``read_logits`` over all phrasings, ``logprob[fact, phrasing, route]`` in nats, each fact read after its own
        step.

    Raises:
        StudyError: if it is no model with one change on.
        ChangeError: if the configuration does not fit what was trained, or a loss is not a number.
    """
    if not isinstance(model, Variant) or not isinstance(model.model, Model):
        raise StudyError(
            f"{model.name} is no model with one change on, so that no step could continue it. Give a state that "
            "train() returned."
        )
    n_phrasings = max(len(fact.phrasings) for fact in facts)
    readings = []
    with progress_bar("one step each", len(facts)) as bar:
        for fact in facts:
            with Finetuning(model.model, lessons([fact], taught_phrasings), config, model) as tuning:
                tuning.advance(1)
                reading = read_logits(model.model, FactSet([fact]), phrasings="all", batch_size=batch_size)
            readings.append(_without_own_axes(reading, n_phrasings))
            bar(fact.id)
    options = {"join": "outer", "data_vars": "all", "combine_attrs": "drop_conflicts"}
    return xr.concat(readings, "fact", **options)  # pyright: ignore[reportReturnType,reportArgumentType,reportCallIssue]


def _without_own_axes(reading: xr.Dataset, n_phrasings: int) -> xr.Dataset:
    """What every fact has: the numbers of its contest; token ids have a length of their own."""
    kept = reading[["logprob", "recalled", "standing"]].drop_vars("token")
    return kept.assign(recalled=kept.recalled.astype(float)).reindex(phrasing=range(n_phrasings))
