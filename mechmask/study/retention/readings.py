"""What is read of an edited model on its way through a later training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import xarray as xr

from mechmask.facts.fact import Example
from mechmask.facts.fact_set import FactSet
from mechmask.models.model import Model
from mechmask.models.states import Variant
from mechmask.read.examples import read_examples
from mechmask.read.logits import read_logits
from mechmask.read.retention import read_retention
from mechmask.study.step import Settings
from mechmask.study.training import OUTPUT, Watch

_OF_RETENTION = ("retained", "said", "share", "answer", "n_passed")
_OF_CONTEST = ("logprob", "standing", "margin", "recalled")


def read_kept(
    model: Model | Variant, facts: FactSet, *, related: FactSet | None = None, batch_size: int = 32
) -> xr.Dataset:
    """The contest of old and new on the prompt, and what is said where stop words do not count.

    Args:
        model: a model or a state (``change.on(model)``).
        facts: the facts.
        related: as in ``read_retention``.
        batch_size: prompts per forward pass; affects memory only.

    Returns:
        ``logprob[fact, route]``, ``standing[fact]`` and ``margin[fact]`` in nats with ``recalled[fact, route]``, as
        ``read_logits`` has them; ``retained[fact, route]``, ``said[fact]``, ``answer[fact]``, ``n_passed[fact]`` and
        ``share[fact, category]``, as ``read_retention`` has them for old and new.

    Raises:
        ReadingError: if a reading disagrees with the model's own output, or values begin alike.
    """
    contest = read_logits(model, facts, batch_size=batch_size)
    kept = read_retention(model, facts, related=related, batch_size=batch_size)[list(_OF_RETENTION)]
    retained = kept.retained.reindex(route=contest.route, fill_value=False)
    return contest[list(_OF_CONTEST)].assign({**kept.drop_vars(["retained", "route"]).data_vars, "retained": retained})


def task_watch(facts: FactSet, related: FactSet, held_out: Sequence[Example], every: int, batch_size: int) -> Watch:
    """At a checkpoint: what is left of the facts, and how far the training is.

    Args:
        facts: what is read.
        related: facts whose values count as related, where they are of the same relation.
        held_out: examples of the task that say when it ends.
        every: optimizer steps between two checkpoints.
        batch_size: prompts per forward pass; affects memory only.
    """
    examples = tuple(held_out)

    def read(model: Model) -> Mapping[str, xr.Dataset]:
        task = read_examples(model, examples)
        loss = float((task.nll * task.n_tokens).sum() / task.n_tokens.sum())
        reading = read_kept(model, facts, related=related, batch_size=batch_size)
        return {OUTPUT: reading.assign(held_out_loss=loss, held_out_accuracy=float(task.exact.mean()))}

    said = {"held_out": [example.written() for example in examples]}
    return Watch(read, Settings(said, said), every, {"read": facts.fingerprint(), "related": related.fingerprint()})
