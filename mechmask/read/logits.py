"""``read_logits``: the contest at the model's output, every route of every fact.

One forward pass through the decoder for each batch of packed contests, then the unembedding at the positions where a
route's tokens are decided, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr

from mechmask.facts.fact import Fact
from mechmask.facts.fact_set import FactSet
from mechmask.measure.contest import with_standing
from mechmask.models.model import Model
from mechmask.models.packing import Batch, batches
from mechmask.models.routes import Contest
from mechmask.read.scoring.check import require_identity
from mechmask.read.scoring.contests import over_phrasings
from mechmask.read.scoring.labels import provenance, require_score
from mechmask.read.scoring.table import RouteTable
from mechmask.read.scoring.unembed import entropy, score_tokens


def read_logits(
    model: Model,
    facts: FactSet | Sequence[Fact],
    score: str = "sequence",
    *,
    phrasings: str = "prompt",
    batch_size: int = 32,
) -> xr.Dataset:
    """Log-probability of every route of every fact at the model's output.

    Args:
        model: the model, as it is now: an applied change counts.
        facts: the facts.
        score: ``sequence`` (sum over the value's tokens, teacher-forced), ``mean`` (per token) or ``divergence`` (the
            token at which old and new differ; a distractor that has no token of its own there is NaN).
        phrasings: ``prompt`` reads the prompt; ``all`` adds a dimension ``phrasing`` over it and its paraphrases.
        batch_size: prompts a forward pass. It bounds memory and changes nothing else.

    Returns:
        ``logprob[fact, route]`` in nats (NaN where a fact has no such route); ``rank[fact, route]`` among distractors;
        ``margin``, ``standing``, ``ceiling`` ``[fact]`` in nats; ``entropy[fact]`` of the distribution in which old and
        new diverge, in nats; ``recalled[fact, route]``, whether greedy decoding says the value (its token that is
        scored, for ``divergence``); ``greedy[fact, value_token]`` (not for ``divergence``), the token ids that greedy
        decoding says as far as the routes go along and the first that none has, -1 after. With ``phrasings="all"`` each
        has ``phrasing`` too. ``value[fact, route]`` and ``token[fact, route]``, the tokens that the score reads with
        ``|`` between two, are coordinates (``token`` with ``phrasing`` where phrasings differ in it).

    Raises:
        RouteError: if a value cannot be told from the prompt or from its rival; all facts in one message.
        ReadingError: if the score or the phrasings are not known, or the reading disagrees with the model's own output.
    """
    require_score(score)
    reading = over_phrasings(
        model, facts, phrasings, lambda facts, contests: _read(model, facts, contests, score, batch_size)
    )
    return with_standing(reading.assign_attrs(provenance(model, score=score), **reading.attrs))


def decoded(model: Model, batch: Batch) -> torch.Tensor:
    """What the unembedding reads at the nodes of a batch ``[node, width]``."""
    hidden = model.anatomy.decoder(**batch.inputs(model.device, model.dtype), use_cache=False).last_hidden_state
    return hidden[batch.rows.to(hidden.device), batch.columns.to(hidden.device)]


def may_pack(model: Model, contests: Sequence[Contest | None]) -> bool:
    """Whether routes can share a row: the attention takes any mask, and no route is longer than its window."""
    takes_masks = getattr(model.module.config, "_attn_implementation", "eager") in ("eager", "sdpa")
    longest = max(len(c.prompt) + len(ids) for c in contests if c is not None for ids in c.routes.values())
    window = model.anatomy.sliding_window
    return takes_masks and (window is None or longest <= window)


def _read(model: Model, facts: list[Fact], contests: list[Contest | None], score: str, batch_size: int) -> xr.Dataset:
    table = RouteTable(model.tokenizer, facts)
    missed = np.zeros(table.logprob.shape, dtype=int)
    uncertainty = np.full(len(facts), np.nan)
    greedy = np.full((len(facts), max(len(ids) for c in contests if c is not None for ids in c.routes.values())), -1)
    with model.inference():
        for batch in batches(contests, score=score, batch_size=batch_size, pack=may_pack(model, contests)):
            normed = decoded(model, batch)
            nodes, tokens = batch.asked(normed.device)
            scores = score_tokens(model.anatomy, normed, nodes, tokens)
            table.add(batch, scores.logprob.double().cpu().numpy())
            best = scores.best[nodes]
            for query, miss in zip(batch.queries, (best != tokens).tolist(), strict=True):
                missed[table.cell(query.contest, query.route)] += miss
            if score != "divergence":
                for contest, said in _greedy_paths(batch, best.tolist()).items():
                    greedy[contest, : len(said)] = said
            diverging = torch.tensor(list(batch.divergence.values()), device=normed.device)
            uncertainty[list(batch.divergence)] = entropy(model.anatomy, normed[diverging]).cpu().numpy()
    reading = table.dataset(score).assign(
        recalled=(("fact", "route"), (missed == 0) & (table.n_tokens > 0)),
        entropy=("fact", uncertainty, {"units": "nats"}),
    )
    if score != "divergence":
        reading["greedy"] = (("fact", "value_token"), greedy)
    return reading.assign_attrs(check_error_nats=require_identity(model, contests, table))


def _greedy_paths(batch: Batch, best: Sequence[int]) -> dict[int, list[int]]:
    """What greedy decoding says in each contest, followed along the routes' tokens and one beyond them."""
    paths: dict[int, list[int]] = {}
    along: dict[tuple[int, str], bool] = {}
    for query, top in sorted(zip(batch.queries, best, strict=True), key=lambda entry: entry[0].index):
        said = paths.setdefault(query.contest, [])
        if not along.get((query.contest, query.route), True):
            continue
        if len(said) == query.index:
            said.append(top)
        along[query.contest, query.route] = query.token == said[query.index]
    return paths
