"""``read_logits``: the contest at the model's output, every route of every fact.

One forward pass through the decoder for each batch of packed contests, then the unembedding at the positions where a
route's tokens are decided, and nowhere else.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from mechmask.measure.contest import with_standing
from mechmask.models.forward import decoded
from mechmask.models.model import Model
from mechmask.models.packing import Batch
from mechmask.models.states import Variant, active
from mechmask.read.scoring.asking import Template, as_asked, asking, in_both
from mechmask.read.scoring.check import require_identity
from mechmask.read.scoring.contests import ContestSet, Facts, Phrasings, facts_of
from mechmask.read.scoring.labels import Score, provenance, require_score
from mechmask.read.scoring.table import RouteTable
from mechmask.read.scoring.unembed import entropy, score_tokens


def read_logits(
    model: Model | Variant,
    facts: Facts,
    score: Score = "sequence",
    *,
    phrasings: Phrasings = "prompt",
    template: Template | None = None,
    batch_size: int = 32,
) -> xr.Dataset:
    """Log-probability of every route of every fact at the model's output.

    Args:
        model: a model or a state (``change.on(model)``).
        facts: a fact set, facts, mappings with their fields, a pandas table, or the path of a fact file.
        score: ``sequence`` (sum over the value's tokens, teacher-forced), ``mean`` (per token) or ``divergence`` (the
            token at which old and new differ; a distractor that has no token of its own there is NaN).
        phrasings: ``prompt`` reads the prompt; ``all`` adds a dimension ``phrasing`` over it and its paraphrases.
        template: ``plain`` reads every prompt as plain text, ``chat`` as the user's in the tokenizer's chat template,
            the value where the assistant begins; ``both`` adds a dimension ``template``. By default facts that have
            messages are read in the template, and others plain.
        batch_size: prompts per forward pass; affects memory only.

    Returns:
        ``logprob[fact, route]`` in nats (NaN where a fact has no such route); ``rank[fact, route]`` among distractors;
        ``margin``, ``standing``, ``ceiling`` ``[fact]`` in nats; ``entropy[fact]`` of the distribution in which old and
        new diverge, in nats; ``recalled[fact, route]``, whether greedy decoding says the value (its token that is
        scored, for ``divergence``); ``greedy[fact, value_token]`` (not for ``divergence``), the token ids that greedy
        decoding says as far as the routes go along and the first that none has, -1 after. With ``phrasings="all"`` each
        has ``phrasing`` too. ``value[fact, route]`` and ``token[fact, route]``, the tokens that the score reads with
        ``|`` between two, are coordinates (``token`` with ``phrasing`` where phrasings differ in it). By ``sequence``
        a value with aliases has the probability of all its spellings together (``attrs["aliases"]``); other scores
        read the first.

    Raises:
        FactError: listing every problem of the facts in one message.
        RouteError: if a value cannot be told from the prompt or from its rival; all facts in one message.
        ReadingError: if the score or the phrasings are not known, or the reading disagrees with the model's own output.
        ChangeError: if a state's change was made on another model.
    """
    require_score(score)
    if template == "both":
        return in_both(partial(read_logits, model, facts_of(facts), score, phrasings=phrasings, batch_size=batch_size))
    with active(model) as now:
        asked = as_asked(facts, template)
        contests = ContestSet.of(now, asked, phrasings, aliases=score == "sequence")
        output = OutputReading(now, contests, score)
        with now.inference():
            for batch in contests.batches(now, score, batch_size):
                output.add(batch, decoded(now, batch))
        (error,) = require_identity(now, output.table)
        about = provenance(now, model, score=score, **asking(now, asked))
        return output.dataset().assign_attrs(about, check_error_nats=error)


class OutputReading:
    """What ``read_logits`` reads, filled batch by batch.

    Args:
        model: what is read.
        contests: what is read of it.
        score: the score of a route.

    Attributes:
        table: log-probability of every route.
    """

    def __init__(self, model: Model, contests: ContestSet, score: Score) -> None:
        self._model = model
        self.table = RouteTable(model.tokenizer, contests, score)
        self._missed = np.zeros(self.table.n_tokens.shape, dtype=int)
        self._entropy = np.full(len(contests), np.nan)
        longest = max(len(ids) for contest in contests for ids in contest.routes.values())
        self._greedy = np.full((len(contests), longest), -1)

    def add(self, batch: Batch, normed: Float[Tensor, "node width"]) -> None:
        """Add what a forward pass gave at the nodes of a batch, the final norm applied."""
        anatomy, table = self._model.anatomy, self.table
        nodes, tokens = batch.asked(normed.device)
        scores = score_tokens(anatomy, normed, nodes, tokens)
        table.add(batch, scores.logprob.double().cpu().numpy())
        best = scores.best[nodes]
        for query, miss in zip(batch.queries, (best != tokens).tolist(), strict=True):
            self._missed[table.cell(query.contest, query.route)] += miss
        if self.table.score != "divergence":
            for contest, path in _greedy_paths(batch, best.tolist()).items():
                self._greedy[contest, : len(path)] = path
        diverging = torch.tensor(list(batch.divergence.values()), device=normed.device)
        self._entropy[list(batch.divergence)] = entropy(anatomy, normed[diverging]).cpu().numpy()

    def greedy_path(self, contest: int) -> list[int]:
        """The tokens that greedy decoding says, as far as a contest's routes go along and the first that none has."""
        return [token for token in self._greedy[contest].tolist() if token >= 0]

    def dataset(self) -> xr.Dataset:
        """What ``read_logits`` returns, but for its provenance."""
        recalled = self.table.by_route((self._missed == 0) & (self.table.n_tokens > 0), np.logical_or)
        more: dict[str, tuple] = {"recalled": (("route",), recalled), "entropy": ((), self._entropy, {"units": "nats"})}
        if self.table.score != "divergence":
            more["greedy"] = (("value_token",), self._greedy)
        reading = self.table.dataset()
        reading = reading.assign(self.table.contests.dataset(more).data_vars)
        return with_standing(reading.assign_attrs(score=self.table.score))


def _greedy_paths(batch: Batch, best: Sequence[int]) -> dict[int, list[int]]:
    """What greedy decoding says in each contest, followed along the routes' tokens and one beyond them."""
    paths: dict[int, list[int]] = {}
    along: dict[tuple[int, str], bool] = {}
    for query, top in sorted(zip(batch.queries, best, strict=True), key=lambda entry: entry[0].index):
        path = paths.setdefault(query.contest, [])
        if not along.get((query.contest, query.route), True):
            continue
        if len(path) == query.index:
            path.append(top)
        along[query.contest, query.route] = query.token == path[query.index]
    return paths
