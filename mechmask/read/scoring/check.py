"""Every reading proves itself: some of what it read is read again by the model's own forward pass, and has to agree.

Checked are, of every shape of batch, the longest contest, the shortest and one drawn at random. The plain pass shares
nothing with the reading: no packing, no mask, no chunked vocabulary, no hook, no lens. Rows of several lengths go
through it together, padded on the right: in a causal model nothing reaches a token from behind it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
import xxhash
from jaxtyping import Bool, Float
from torch import Tensor

from mechmask.errors import ReadingError
from mechmask.models.diagnosis import likely_cause
from mechmask.models.model import Model
from mechmask.models.routes import Contest
from mechmask.read.scoring.contests import ContestSet
from mechmask.read.scoring.table import RouteTable

# Nats a token. Sound readings of twelve tiny architectures and of SmolLM2-135M stay below 1e-4 in float32 and 0.04 in
# bfloat16 (the model rounds its logits, a reading does not). Broken on purpose: a skipped norm or softcap 0.07 and
# more, routes that see each other 0.006 to 0.08: a leak of the mask shows in float32, not surely in half precision.
TOLERANCE_NATS = {torch.float64: 5e-4, torch.float32: 5e-4, torch.float16: 0.05, torch.bfloat16: 0.25}


@dataclass(frozen=True)
class _Probe:
    """A number of a reading that is read again.

    Attributes:
        contest: what was read.
        route: which of its routes.
        tokens: the route's tokens up to the last one that counts.
        n: how many of them count.
        value: what the reading says, in nats.
    """

    contest: Contest
    route: str
    tokens: tuple[int, ...]
    n: int
    value: float

    @property
    def row(self) -> tuple[int, ...]:
        """What the model has to be given."""
        return self.contest.prompt + self.tokens[:-1]


def require_identity(model: Model, *tables: RouteTable) -> list[float]:
    """Refuse readings that differ from the model's own output at the last layer.

    Args:
        model: what was read.
        tables: readings of it; their probes share one plain pass.

    Returns:
        The largest error of each, in nats per token.

    Raises:
        ReadingError: if the error passes the tolerance for the model's dtype, or any number read is NaN.
    """
    for table in tables:
        _require_numbers(model, table.contests, np.asarray(np.isnan(table.at_output).any(axis=1)))
    probes: dict[int, list[_Probe]] = {}
    prompts: set[tuple[int, ...]] = set()
    for table in sorted(tables, key=lambda table: len(table.contests)):
        probes[id(table)] = _probes(model, table, prompts)
        prompts |= {probe.contest.prompt for probe in probes[id(table)]}
    rows = _plain_logits(model, [probe for some in probes.values() for probe in some])
    return [max(_error(model, probe, rows) for probe in probes[id(table)]) for table in tables]


def require_margin(
    model: Model, contests: ContestSet, margins: Float[np.ndarray, " contest"], masked: Bool[np.ndarray, " contest"]
) -> float:
    """Refuse margins at the output that differ from the model's own logits; return the largest error in nats.

    Args:
        model: what was read.
        contests: the contests that were read.
        margins: logit of new less logit of old where they diverge, in nats.
        masked: whether a contest was read in a batch with a mask of its own.

    Raises:
        ReadingError: if the error passes the tolerance for the model's dtype, or any margin is NaN.
    """
    _require_numbers(model, contests, np.isnan(margins))
    probes = [
        _Probe(contest, "new", contest.routes["new"][: contest.n_common + 1], 1, float(margins[number]))
        for number in _chosen(model, contests, "divergence", masked)
        for contest in [contests[number]]
    ]
    rows = _plain_logits(model, probes)
    errors = []
    for probe in probes:
        old, new = (probe.contest.routes[route][probe.contest.n_common] for route in ("old", "new"))
        logits = rows[probe.row][-1]
        plain = float(logits[new] - logits[old])
        errors.append(abs(plain - probe.value))
        if not errors[-1] <= 2 * TOLERANCE_NATS[model.dtype]:
            raise _disagreement(model, f"The margin of fact {probe.contest.fact_id!r}", "", probe.value, plain)
    return max(errors)


def _error(model: Model, probe: _Probe, rows: dict[tuple[int, ...], Tensor]) -> float:
    """The error of a log-probability in nats per token."""
    logprobs = rows[probe.row][-probe.n :].log_softmax(-1)
    tokens = torch.tensor(probe.tokens[-probe.n :], device=logprobs.device)
    plain = float(logprobs.gather(1, tokens[:, None]).sum())
    error = abs(plain - probe.value) / probe.n
    if not error <= TOLERANCE_NATS[model.dtype]:
        what = f"The reading of fact {probe.contest.fact_id!r}"
        raise _disagreement(model, what, f"{probe.route}: ", probe.value, plain, f", {error:.2g} a token")
    return error


def _disagreement(model: Model, what: str, which: str, value: float, plain: float, by: str = "") -> ReadingError:
    allowed = f"{by} where {TOLERANCE_NATS[model.dtype]:g} is allowed" if by else ""
    return ReadingError(
        f"{what} does not agree with the model's own output ({which}{value:.4f} against {plain:.4f} nats{allowed}), so "
        f"none of its numbers can be trusted. {likely_cause(model)}"
    )


def _require_numbers(model: Model, contests: ContestSet, unread: Bool[np.ndarray, " contest"]) -> None:
    """Refuse NaN by the first fact that is NaN by itself: a NaN reaches every fact that shares its row."""
    suspects = [contests[int(number)] for number in np.flatnonzero(unread)]
    if not suspects:
        return
    source = next((contest for contest in suspects if _is_nan_alone(model, contest)), suspects[0])
    raise ReadingError(
        f"The model's log-probabilities of fact {source.fact_id!r} are NaN. Check its weights, or its dtype, before it "
        "is read."
    )


def _is_nan_alone(model: Model, contest: Contest) -> bool:
    probes = [_Probe(contest, route, ids, len(ids), 0.0) for route, ids in contest.routes.items()]
    rows = _plain_logits(model, probes)
    return any(bool(rows[probe.row][-probe.n :].isnan().any()) for probe in probes)


def _probes(model: Model, table: RouteTable, preferred: Collection[tuple[int, ...]]) -> list[_Probe]:
    """Of the longest contest the last route, which has the most beside it that it must not see; of others any one."""
    probes = []
    generator = _generator(table.contests)
    for number in _chosen(model, table.contests, table.score, table.masked, preferred):
        contest = table.contests[number]
        routes = [route for route in contest.routes if table.n_tokens[table.cell(number, route)]]
        route = str(generator.choice(routes)) if probes else routes[-1]
        cell = table.cell(number, route)
        n, first = int(table.n_tokens[cell]), int(table.first_token[cell])
        probes.append(_Probe(contest, route, contest.routes[route][: first + n], n, float(table.at_output[cell])))
    return probes


def _chosen(
    model: Model,
    contests: ContestSet,
    score: str,
    masked: Bool[np.ndarray, " contest"],
    preferred: Collection[tuple[int, ...]] = (),
) -> list[int]:
    """The longest contest of each shape of batch, the shortest, and one at random.

    Of several that are as long, one whose prompt is preferred: the plain pass reads it anyway. Shapes are told apart by
    what a model could treat differently: a mask of its own or none, and a length on either side of the one beyond which
    it turns its positions differently.
    """
    lengths = contests.lengths(score)
    threshold = model.rope_threshold
    beyond = np.zeros_like(masked) if threshold is None else lengths > threshold
    generator = _generator(contests)
    chosen: list[int] = []
    for shape in sorted({(bool(a), bool(b)) for a, b in zip(masked, beyond, strict=True)}):
        members = np.flatnonzero((masked == shape[0]) & (beyond == shape[1]))
        for length in (lengths[members].max(), lengths[members].min()):
            ties = members[lengths[members] == length].tolist()
            chosen.append(next((i for i in ties if contests[i].prompt in preferred), ties[0]))
        chosen.append(int(generator.choice(members)))
    return list(dict.fromkeys(chosen))


def _generator(contests: ContestSet) -> np.random.Generator:
    """A generator that the tokens of the contests seed: a reading made twice is checked at the same places."""
    tokens = [token for c in contests for ids in (c.prompt, *c.routes.values()) for token in ids]
    return np.random.default_rng(xxhash.xxh3_64_intdigest(np.array(tokens, dtype="<i8").tobytes()))


def _plain_logits(model: Model, probes: Sequence[_Probe]) -> dict[tuple[int, ...], Float[Tensor, "token vocabulary"]]:
    """What the model's own forward pass says at the end of each probe's row, by the row, as far back as is asked."""
    needed: dict[tuple[int, ...], int] = {}
    for probe in probes:
        needed[probe.row] = max(probe.n, needed.get(probe.row, 0))
    if model.is_read_alone:
        with model.inference():
            return {row: _one_by_one(model, row, n) for row, n in needed.items()}
    passes: list[list[tuple[int, ...]]] = [sorted(needed, key=len)]
    if model.rope_threshold is not None:  # what such a model computes depends on the length of the whole pass
        passes = [list(rows) for _, rows in groupby(passes[0], key=len)]
    logits: dict[tuple[int, ...], Tensor] = {}
    with model.inference():
        for rows in passes:
            logits |= _one_pass(model, rows, needed)
    return logits


def _one_by_one(model: Model, row: tuple[int, ...], n: int) -> Float[Tensor, "token vocabulary"]:
    """The same at the last n places of a row, each by a pass over what stands before it and nothing else."""
    beginnings = [row[: len(row) - left] for left in reversed(range(n))]
    return torch.cat([_one_pass(model, [one], {one: 1})[one] for one in beginnings])


def _one_pass(
    model: Model, rows: Sequence[tuple[int, ...]], needed: Mapping[tuple[int, ...], int]
) -> dict[tuple[int, ...], Float[Tensor, "token vocabulary"]]:
    """Rows that begin another one are read there: in a causal model what follows plays no part."""
    read = [row for row in rows if not any(len(row) < len(other) and other[: len(row)] == row for other in rows)]
    length = max(map(len, read))
    asked = {row: range(len(row) - needed[row], len(row)) for row in rows}
    places = sorted({place for span in asked.values() for place in span})
    ids = torch.tensor([[*row, *[0] * (length - len(row))] for row in read], device=model.device)
    keep = torch.tensor(places, device=model.device)
    logits = model.module(input_ids=ids, use_cache=False, logits_to_keep=keep).logits.float()
    holders = {row: next(i for i, other in enumerate(read) if other[: len(row)] == row) for row in rows}
    return {row: logits[holders[row], [places.index(place) for place in asked[row]]] for row in rows}
