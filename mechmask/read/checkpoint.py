"""``read_logits_and_depth``: what a training checkpoint is asked, by one forward pass.

The pass that reads every fact at the output is watched on its way: where some of the facts are read at every layer too,
their residual stream comes from it, instead of from a pass, a self-check and a fingerprint of their own. Greedy
decoding goes on from the keys and values of that pass, instead of reading every prompt again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
import xarray as xr
from jaxtyping import Int
from torch import Tensor
from transformers import Cache, DynamicCache

from mechmask.errors import ReadingError
from mechmask.facts.fact_set import FactSet
from mechmask.models.decoding import continued, greedy
from mechmask.models.forward import decoded
from mechmask.models.model import Model
from mechmask.models.packing import Batch, scored_tokens
from mechmask.models.routes import Contest
from mechmask.models.states import Variant, active, unchanged
from mechmask.read.backends import Backend, BackendName, backend_of
from mechmask.read.depth import DepthReading, read_depth
from mechmask.read.generate import as_text, generate, longer_value
from mechmask.read.lenses.lens import Lens, lens_of
from mechmask.read.logits import OutputReading, read_logits
from mechmask.read.scoring.asking import asking
from mechmask.read.scoring.check import require_identity
from mechmask.read.scoring.contests import ContestSet, Facts, facts_of
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
    generation: bool = False,
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
        generation: whether the output reading also holds what greedy decoding says, as ``generate`` does.
        batch_size: prompts per forward pass; affects memory only.

    Returns:
        What ``read_logits(model, facts, score)`` and ``read_depth(model, depth_facts, lens, depth_score)`` return:
        ``logprob[fact, route]`` and ``logprob[fact, route, layer]`` in nats. With ``generation``, the first holds what
        ``generate(model, facts)`` returns as ``generation[fact]``.

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
        if generation:
            known = output if "greedy" in output else None
            output = output.assign(generation=generate(model, facts, reading=known))
        return output, read_depth(model, deeper, chosen, depth_score, backend, batch_size=batch_size)
    numbers = {facts.ids.index(label): number for number, label in enumerate(deeper.ids)}
    with active(model) as now:
        watcher = backend_of(backend, now)
        output = OutputReading(now, contests, score)
        depth = DepthReading(now, contests.part(list(numbers)), depth_score, chosen, watcher)
        decoding = _Decoding(now, output) if generation else None
        _read(now, output, depth, numbers, watcher, contests.batches(now, whole, batch_size), decoding)
        output_error, depth_error = require_identity(now, output.table, depth.table)
        about = provenance(now, model, **asking(now, facts))
    at_output = output.dataset().assign_attrs(about, score=score, check_error_nats=output_error)
    if decoding:
        at_output = at_output.assign(generation=as_text(model, contests.facts, decoding.tokens))
    return (
        at_output,
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
    if any(fact.old_aliases or fact.new_aliases for fact in contests.facts):  # routes of one reading and not the other
        return None
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
    decoding: _Decoding | None,
) -> None:
    """Fill both readings.

    Args:
        model: what is read.
        output: of all contests.
        depth: of some of them.
        numbers: each of those by its number among all, with its number in the depth reading.
        backend: who watches the residual stream.
        batches: all contests.
        decoding: goes on from each pass, if asked for.
    """
    at_output, at_layers = (_asked(reading) for reading in (output, depth))
    every = {number: number for number in range(len(output.table.contests))}
    goes_on = decoding is not None and _goes_on(model, output.table.score)
    with model.inference():
        for batch in batches:
            batch = replace(batch, past=DynamicCache() if goes_on else None)
            part, nodes = _part(batch, every, at_output)
            if numbers.keys().isdisjoint(batch.divergence):
                output.add(part, decoded(model, part))
            else:
                residuals = backend.residuals(batch)
                output.add(part, model.anatomy.final_norm(residuals[-1, nodes]))
                deeper, nodes = _part(batch, numbers, at_layers)
                depth.add(deeper, residuals[:, nodes])
            if decoding:
                decoding.go_on(part)


class _Decoding:
    """What greedy decoding says behind each prompt, as far as the longer of old and new value goes.

    Args:
        model: what decodes.
        output: its reading at the output, which met the first tokens of it.

    Attributes:
        tokens: what follows each prompt, by contest.
    """

    def __init__(self, model: Model, output: OutputReading) -> None:
        self._model = model
        self._output = output
        self.tokens: list[list[int]] = [[] for _ in output.table.contests]

    def go_on(self, batch: Batch) -> None:
        """Decode the contests of a batch that has been read."""
        contests = self._output.table.contests
        missing = {}
        for number in batch.divergence:
            path, wanted = self._output.greedy_path(number), longer_value(contests[number])
            self.tokens[number] = path[:wanted]
            if len(path) < wanted:
                missing[number] = wanted - len(path)
        if missing:
            for number, tokens in zip(missing, self._decoded(batch, missing), strict=True):
                self.tokens[number] += tokens

    def _decoded(self, batch: Batch, missing: Mapping[int, int]) -> list[list[int]]:
        """So many more tokens of each contest."""
        contests, n = self._output.table.contests, list(missing.values())
        if batch.past is None or not _is_filled(batch.past, self._model, batch):
            begun = [[*contests[number].prompt, *self.tokens[number]] for number in missing]
            return greedy(self._model, begun, n)
        nodes = [_last_node(batch, contests[number], number, self.tokens[number]) for number in missing]
        return continued(self._model, batch, batch.past, nodes, [self.tokens[number][-1] for number in missing], n)


def _last_node(batch: Batch, contest: Contest, number: int, path: Sequence[int]) -> int:
    """The node that decided the last token of a contest's greedy path."""
    before = tuple(path[:-1])
    return next(
        query.node
        for query in batch.queries
        if query.contest == number
        and query.index == len(before)
        and contest.routes[query.route][: len(before)] == before
    )


def _goes_on(model: Model, score: Score) -> bool:
    """Whether decoding can go on from a packed pass: the tokens of a route lie apart in its row."""
    return (
        score != "divergence"
        and not model.is_read_alone
        and model.rope_threshold is None
        and model.anatomy.sliding_window is None
    )


def _is_filled(past: Cache, model: Model, batch: Batch) -> bool:
    """Whether the pass left its keys and values: a backend that runs elsewhere, or its own inputs, does not."""
    lengths = [past.get_seq_length(number) for number in range(len(past.layers))]
    return lengths == [batch.input_ids.shape[1]] * model.n_layers


def _asked(reading: OutputReading | DepthReading) -> set[_Asked]:
    """What a reading asks for."""
    return {
        (number, route, index)
        for number, contest in enumerate(reading.table.contests)
        for route, indices in scored_tokens(contest, reading.table.score).items()
        for index in indices
    }


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
