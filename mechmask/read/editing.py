"""``read_editing``: an edit as the editing field reads it: its prompt, its paraphrases, its neighbors, what it implies.

Meng et al. (2022, ROME, section 3.4) compare values by the mean negative log-probability of their tokens, after the
edited prompt, its paraphrases and prompts about neighbors. Everything that the field counts from there on (successes,
magnitudes, accuracies, locality) is made of this reading by ``mechmask.measure.editing``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from jaxtyping import Int

from mechmask.errors import ReadingError
from mechmask.facts.fact import Fact
from mechmask.facts.fact_set import FactSet
from mechmask.models.forward import decoded
from mechmask.models.model import Model
from mechmask.models.routes import Contest, encode_examples
from mechmask.models.states import Variant, active
from mechmask.read.scoring.check import require_identity
from mechmask.read.scoring.contests import ContestSet, Facts, facts_of
from mechmask.read.scoring.labels import provenance, token_texts
from mechmask.read.scoring.table import RouteTable
from mechmask.read.scoring.unembed import score_tokens

_GROUPS = ("rewrite", "paraphrase", "neighborhood")


def read_editing(model: Model | Variant, facts: Facts, *, batch_size: int = 32) -> xr.Dataset:
    """What a model says of every fact's old and new value after every prompt that an edit is judged by.

    Prompts stand side by side along ``prompt``, those of one kind together: ``group[prompt]`` is ``rewrite`` (the
    fact's prompt), ``paraphrase``, ``neighborhood`` (there ``old`` is the neighbor's own value and ``new`` still the
    fact's), then the kinds of the facts' implications, such as ``reasoning`` and ``reverse`` (there ``new`` is what
    follows from the edit, and ``old`` is not read). A fact with fewer prompts of a kind has NaN in the remaining ones.
    At a neighbor whose own value is the new one there is nothing to compare, and ``new`` is not read.

    Args:
        model: a model or a state (``change.on(model)``).
        facts: facts in any form that a reading takes; distractors are not read.
        batch_size: prompts per forward pass; affects memory only.

    Returns:
        ``nll[fact, prompt, route]``, mean over the value's tokens of the negative log-probability in nats, each token
        after the prompt and the tokens before it; ``token_accuracy[fact, prompt, route]``, the share of the value's
        tokens that are the most probable ones there (teacher forcing); ``exact[fact, prompt, route]``, 1 where all of
        them are, which is where greedy decoding, left to itself, says the value's tokens, else 0; NaN where nothing was
        read. ``top_token[fact, prompt, route, value_token]``, the ids of the most probable tokens there, -1 beyond the
        value. Coordinates: ``group[prompt]``, ``text[fact, prompt]``, and ``value``, ``token`` (with ``|`` between two)
        and the count ``n_tokens``, each ``[fact, prompt, route]``.

    Raises:
        FactError: listing every problem of the facts in one message.
        RouteError: if a value merges with a prompt or the tokenizer lacks its text; all prompts in one message.
        ReadingError: if there is no fact, an implication is of a kind that names other prompts, or the reading
            disagrees with the model's own output.
        ChangeError: if a state's change was made on another model.
    """
    with active(model) as now:
        sheet = Sheet.of(facts_of(facts, distractors=False))
        contests = sheet.contests(now)
        table = RouteTable(now.tokenizer, contests, "mean")
        top = np.full((*table.logprob.shape, _longest(contests)), -1)
        with now.inference():
            for batch in contests.batches(now, table.score, batch_size):
                normed = decoded(now, batch)
                nodes, tokens = batch.asked(normed.device)
                scores = score_tokens(now.anatomy, normed, nodes, tokens)
                table.add(batch, scores.logprob.double().cpu().numpy())
                for query, best in zip(batch.queries, scores.best[nodes].tolist(), strict=True):
                    top[(*table.cell(query.contest, query.route), query.index)] = best
        (error,) = require_identity(now, table)
        reading = sheet.labelled(_dataset(now, table, top))
        return reading.assign_attrs(provenance(now, model, score="mean"), check_error_nats=error)


@dataclass(frozen=True)
class Question:
    """A prompt and the values that are read after it.

    Attributes:
        group: what kind of prompt it is.
        prompt: its text.
        values: route name to value.
    """

    group: str
    prompt: str
    values: Mapping[str, str]


def questions_of(fact: Fact) -> Iterator[Question]:
    """Every prompt by which an edit of a fact is judged, those of one group together.

    Raises:
        ReadingError: if an implication is of a kind that the other prompts have.
    """
    both = {"old": fact.old, "new": fact.new}
    yield Question("rewrite", fact.prompt, both)
    yield from (Question("paraphrase", text, both) for text in fact.paraphrases)
    for neighbor in fact.neighbors:
        apart = {} if neighbor.value == fact.new else {"new": fact.new}
        yield Question("neighborhood", neighbor.prompt, {"old": neighbor.value, **apart})
    for implied in fact.implications:
        if implied.kind in _GROUPS:
            raise ReadingError(
                f"An implication of fact {fact.id!r} is of the kind {implied.kind!r}, as other prompts of a fact are "
                "called here. Name how it follows, such as 'reasoning' or 'reverse'."
            )
        yield Question(implied.kind, implied.prompt, {"new": implied.value})


@dataclass(frozen=True)
class Sheet:
    """The questions of all facts and the column along ``prompt`` in which each stands.

    Attributes:
        facts: the facts.
        groups: the group of every column.
        rows: the questions of each fact by column.
    """

    facts: FactSet
    groups: tuple[str, ...]
    rows: tuple[Mapping[int, Question], ...]

    @classmethod
    def of(cls, facts: FactSet) -> Sheet:
        """The questions of some facts.

        Raises:
            ReadingError: if an implication is of a kind that the other prompts have.
        """
        asked = [list(questions_of(fact)) for fact in facts]
        most: dict[str, int] = dict.fromkeys(map(str, _GROUPS), 0)
        for of in asked:
            for group, n in Counter(question.group for question in of).items():
                most[group] = max(n, most.get(group, 0))
        groups = tuple(group for group, n in most.items() for _ in range(n))
        rows = []
        for of in asked:
            free = {group: iter([i for i, name in enumerate(groups) if name == group]) for group in most}
            rows.append({next(free[question.group]): question for question in of})
        return cls(facts, groups, tuple(rows))

    @property
    def places(self) -> tuple[tuple[int, int], ...]:
        """Fact and column of every question, fact by fact."""
        return tuple((number, column) for number, row in enumerate(self.rows) for column in row)

    def contests(self, model: Model) -> ContestSet:
        """Every question as token ids; the columns take the place of phrasings.

        Raises:
            RouteError: listing every prompt and value that cannot be read.
        """
        asked = [(self.facts[fact], self.rows[fact][column]) for fact, column in self.places]
        examples = dict.fromkeys(fact.example(q.prompt, value) for fact, q in asked for value in q.values.values())
        ids = dict(zip(examples, encode_examples(model.tokenizer, list(examples)), strict=True))
        contests = []
        for fact, question in asked:
            encoded = {r: ids[fact.example(question.prompt, value)] for r, value in question.values.items()}
            routes = {route: of.value for route, of in encoded.items()}
            prompt = next(iter(encoded.values())).prompt
            contests.append(Contest(fact.id, prompt, routes, _n_common(list(routes.values())), None))
        return ContestSet(self.facts, tuple(contests), self.places, len(self.groups))

    def labelled(self, reading: xr.Dataset) -> xr.Dataset:
        """The reading with its columns called ``prompt``, their groups, texts and values beside them."""
        texts = [[row[i].prompt if i in row else "" for i in range(len(self.groups))] for row in self.rows]
        values = [
            [[row[i].values.get(route, "") if i in row else "" for route in reading.route.values] for i in range(n)]
            for row, n in ((row, len(self.groups)) for row in self.rows)
        ]
        return reading.rename(phrasing="prompt").assign_coords(
            group=("prompt", list(self.groups)),
            text=(("fact", "prompt"), texts),
            value=(("fact", "prompt", "route"), values),
        )


def _n_common(values: Sequence[tuple[int, ...]]) -> int:
    """How many tokens the values have in common before they diverge."""
    return next(
        (i for i, tokens in enumerate(zip(*values, strict=False)) if len(set(tokens)) > 1), min(map(len, values))
    )


def _longest(contests: ContestSet) -> int:
    return max(len(ids) for contest in contests for ids in contest.routes.values())


def _dataset(model: Model, table: RouteTable, top: Int[np.ndarray, "contest route token"]) -> xr.Dataset:
    asked, texts = np.full(top.shape, -1), np.full(table.logprob.shape, "", dtype=object)
    values = {ids for contest in table.contests for ids in contest.routes.values()}
    spelled = {ids: token_texts(model.tokenizer, ids) for ids in values}
    for number, contest in enumerate(table.contests):
        for route, ids in contest.routes.items():
            cell = table.cell(number, route)
            asked[cell][: len(ids)] = ids
            texts[cell] = spelled[ids]
    count = np.where(table.n_tokens > 0, table.n_tokens, np.nan)
    n_right = ((top == asked) & (asked >= 0)).sum(-1)
    per_route = ("route",)
    reading = table.contests.dataset(
        {
            "nll": (per_route, -table.logprob / count, {"units": "nats"}),
            "token_accuracy": (per_route, n_right / count),
            "exact": (per_route, np.where(np.isnan(count), np.nan, n_right == table.n_tokens)),
            "top_token": (("route", "value_token"), top),
            "token": (per_route, texts.astype(str)),
            "n_tokens": (per_route, table.n_tokens),
        },
        route=table.routes,
    )
    reading["n_tokens"] = reading.n_tokens.clip(min=0)
    return reading.set_coords(["token", "n_tokens"])
