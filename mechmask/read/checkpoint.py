"""``read_logits_and_depth``: what a training checkpoint is asked, by one forward pass.

The pass that reads every fact at the output is watched on its way: where some of the facts are read at every layer too,
their residual stream comes from it, instead of from a pass, a self-check and a fingerprint of their own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor

from mechmask.errors import ReadingError
from mechmask.facts.fact_set import FactSet
from mechmask.models.model import Model
from mechmask.models.packing import Batch
from mechmask.models.states import Variant, active, unchanged
from mechmask.read.backends import Backend, BackendName, backend_of
from mechmask.read.depth import DepthReading, read_depth
from mechmask.read.lenses.lens import Lens, lens_of
from mechmask.read.logits import OutputReading, read_logits
from mechmask.read.scoring.check import require_identity
from mechmask.read.scoring.contests import ContestSet, Facts, facts_of
from mechmask.read.scoring.forward import decoded
from mechmask.read.scoring.labels import SCORES, Score, provenance, require_choice, require_score

_Asked = tuple[int, str, int]  # a contest's number, a route, the index of one of its tokens


def read_logits_and_depth(
    model: Model | Variant,
    facts: Facts,
    *,
    depth_facts: Facts | None = None,
    lens: str | Lens = "logit",
    score: Score = "sequence",
    depth_score: Score = "divergence",
    backend: BackendName | Backend = "transformer_lens",
    batch_size: int = 32,
) -> tuple[xr.Dataset, xr.Dataset]:
    """The output reading of some facts and the depth reading of some of them, by one forward pass.

    Args:
        model: a model or a state (``change.on(model)``).
        facts: what is read at the output; facts in any form that a reading takes.
        depth_facts: which of them are read at every layer; all by default.
        lens: how a layer is read, as in ``read_depth``.
        score: the score of the output reading.
        depth_score: the score of the depth reading.
        backend: who watches the residual stream, as in ``read_depth``.
        batch_size: prompts per forward pass; affects memory only.

    Returns:
        What ``read_logits(model, facts, score)`` and ``read_depth(model, depth_facts, lens, depth_score)`` return:
        ``logprob[fact, route]`` and ``logprob[fact, route, layer]`` in nats.

    Raises:
        FactError: listing every problem of the facts in one message.
        RouteError: if a value cannot be told from the prompt or from its rival; all facts in one message.
        ReadingError: if a fact of ``depth_facts`` is not among ``facts``, lens, scores or backend are not known, the
            backend was made over another model, or a reading disagrees with the model's own output.
        ChangeError: if a state's change was made on another model.
    """
    require_score(score)
    require_choice("depth_score", depth_score, SCORES)
    facts = facts_of(facts)
    deeper = facts if depth_facts is None else _among(facts, facts_of(depth_facts))
    chosen = lens_of(lens, unchanged(model))
    contests = ContestSet.of(unchanged(model), facts)
    whole = _shared_score(unchanged(model), contests, (score, depth_score))
    if whole is None:
        output = read_logits(model, facts, score, batch_size=batch_size)
        return output, read_depth(model, deeper, chosen, depth_score, backend, batch_size=batch_size)
    numbers = {facts.ids.index(label): number for number, label in enumerate(deeper.ids)}
    with active(model) as now:
        watcher = backend_of(backend, now)
        output = OutputReading(now, contests, score)
        depth = DepthReading(now, contests.part(list(numbers)), depth_score, chosen, watcher)
        _read(now, output, depth, numbers, watcher, contests.batches(now, whole, batch_size))
        output_error, depth_error = require_identity(now, output.table, depth.table)
        about = provenance(now, model)
    return (
        output.dataset().assign_attrs(about, score=score, check_error_nats=output_error),
        depth.dataset().assign_attrs({**about, "score": depth_score, **depth.method}, check_error_nats=depth_error),
    )


def _among(facts: FactSet, deeper: FactSet) -> FactSet:
    others = [fact.id for fact in deeper if fact.id not in facts.ids or facts[fact.id] != fact]
    if others:
        raise ReadingError(
            f"Fact {others[0]!r} is to be read at every layer and is not among the facts that are read at the output. "
            "Give depth_facts that are some of facts, unchanged."
        )
    return deeper


def _shared_score(model: Model, contests: ContestSet, scores: tuple[Score, Score]) -> Score | None:
    """What the shared pass asks of a contest; ``None`` where a longer pass would turn the positions of a reading."""
    whole: Score = "divergence" if set(scores) == {"divergence"} else "sequence"
    threshold = model.rope_threshold
    if threshold is None:
        return whole
    sides = [contests.lengths(score) > threshold for score in (whole, *scores)]
    return whole if all(np.array_equal(side, sides[0]) for side in sides) else None


def _read(
    model: Model,
    output: OutputReading,
    depth: DepthReading,
    numbers: Mapping[int, int],
    backend: Backend,
    batches: Iterator[Batch],
) -> None:
    """Fill both readings.

    Args:
        model: what is read.
        output: of all contests.
        depth: of some of them.
        numbers: each of those by its number among all, with its number in the depth reading.
        backend: who watches the residual stream.
        batches: all contests.
    """
    at_output, at_layers = (_asked(model, reading) for reading in (output, depth))
    every = {number: number for number in range(len(output.table.contests))}
    with model.inference():
        for batch in batches:
            part, nodes = _part(batch, every, at_output)
            if numbers.keys().isdisjoint(batch.divergence):
                output.add(part, decoded(model, part))
                continue
            residuals = backend.residuals(batch)
            output.add(part, model.anatomy.final_norm(residuals[-1, nodes]))
            part, nodes = _part(batch, numbers, at_layers)
            depth.add(part, residuals[:, nodes])


def _asked(model: Model, reading: OutputReading | DepthReading) -> set[_Asked]:
    """What a reading would ask for in passes of its own."""
    contests = reading.table.contests
    batches = contests.batches(model, reading.table.score, len(contests))
    return {(query.contest, query.route, query.index) for batch in batches for query in batch.queries}


def _part(batch: Batch, numbers: Mapping[int, int], asked: Collection[_Asked]) -> tuple[Batch, Int[Tensor, " node"]]:
    """What one reading asks of a batch, contests and nodes numbered as it numbers them, and which nodes those are."""
    renumbered = [replace(query, contest=numbers[query.contest]) for query in batch.queries if query.contest in numbers]
    queries = [query for query in renumbered if (query.contest, query.route, query.index) in asked]
    diverging = {numbers[contest]: node for contest, node in batch.divergence.items() if contest in numbers}
    nodes = sorted({query.node for query in queries} | set(diverging.values()))
    place = {node: i for i, node in enumerate(nodes)}
    chosen = torch.tensor(nodes, dtype=torch.long, device=batch.rows.device)
    part = replace(
        batch,
        rows=batch.rows[chosen],
        columns=batch.columns[chosen],
        queries=tuple(replace(query, node=place[query.node]) for query in queries),
        divergence={contest: place[node] for contest, node in diverging.items()},
    )
    return part, chosen
