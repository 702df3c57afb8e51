"""``read_retention``: whether a model still says a value where stop words do not count, and what it says instead.

After Wen and Zhang (2025, "On the Retention of Edited Knowledge in Fine-tuned Language Models", sections 3.1, 3.3 and
C.4). A value is retained where its token is the likeliest of those that are no stop words; where the likeliest of all
is a stop word, it is taken as said and the test is repeated behind it. What else could be said falls into their four
categories by its first token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from mechmask.errors import ReadingError, one_message
from mechmask.facts.fact_set import FactSet
from mechmask.facts.stop_words import STOP_WORDS, is_stop_word
from mechmask.models.context import require_context
from mechmask.models.forward import next_logits
from mechmask.models.model import Model
from mechmask.models.routes import Contest
from mechmask.models.states import Variant, active
from mechmask.progress import progress_bar
from mechmask.read.scoring.contests import ContestSet, Facts
from mechmask.read.scoring.labels import provenance, token_texts

ROUTES = ("old", "new")
CATEGORIES = ("true", "edited", "related", "other")

_AT_ONCE = 32  # likeliest tokens that are looked at before all are
_MOST_PASSED = 10

IsStop = Callable[[int], bool]


def read_retention(
    model: Model | Variant,
    facts: Facts,
    *,
    related: Facts | None = None,
    stop_words: Iterable[str] = STOP_WORDS,
    batch_size: int = 64,
) -> xr.Dataset:
    """What the model says after every fact's prompt, stop words aside.

    Args:
        model: a model or a state (``change.on(model)``).
        facts: facts in any form that a reading takes: ``old`` is the true value, ``new`` the edited one.
        related: facts whose values count as related to those of a fact of the same relation, beside the facts that are
            read.
        stop_words: words that are passed over, in whatever case; so is what holds no letter or digit.
        batch_size: prompts per forward pass; affects memory only.

    Returns:
        ``retained[fact, route]`` of old and new: whether the value's first token that is no stop word is the likeliest
        of such tokens, after the prompt or after stop words that the model says greedily behind it (at most 10);
        ``answer[fact]``, the first token that is no stop word on the greedy path, empty where none came by then, and
        ``n_passed[fact]``, how many stop words stand before it; ``said[fact]``, the category of what is retained or
        else answered (below).

        Of the first token after the prompt (behind stop words with which old and new both begin, such as the space
        before a number): ``probability[fact, route]``; ``lead[fact, route]``, by how much that is above the probability
        of any other token, the paper's margin; and ``share[fact, category]``, which sums to 1: ``true`` and ``edited``
        (old and new), ``related`` (distractors, and values of other facts of the same relation) and ``other``. Where no
        value is related the last two are NaN, with ``n_related[fact]`` 0.

    Raises:
        FactError: listing every problem of the facts in one message.
        RouteError: if a value cannot be told from the prompt or from its rival; all facts in one message.
        ReadingError: listing every fact whose values begin with the same token or consist of stop words; or if the
            prompts do not fit into the model's context, or its output is not finite.
        ChangeError: if a state's change was made on another model.
    """
    with active(model) as now:
        contests = ContestSet.of(now, facts)
        require_context(now, contests.contests, "divergence")
        is_stop = _StopTokens(now.tokenizer, frozenset(word.lower() for word in stop_words))
        walks = [_Walk(contest, _targets(contest, is_stop)) for contest in contests]
        _require_told_apart(walks)
        beside = _related(contests, () if related is None else ContestSet.of(now, related))
        shares = np.full((len(walks), len(CATEGORIES)), np.nan)
        probability, lead = (np.full((len(walks), len(ROUTES)), np.nan) for _ in range(2))
        with now.inference():
            for number, logits in _first(now, walks, batch_size):
                walk = walks[number]
                probability[number], lead[number] = _first_token(logits, walk.firsts)
                shares[number] = _shares(logits, walk.firsts, beside[number])
                if walk.begun == walk.ids:
                    walk.take(logits, is_stop)
            _go_on(now, walks, is_stop, batch_size)
        about = provenance(now, model)
    answers = [token_texts(now.tokenizer, [walk.answer]).strip() if walk.answer is not None else "" for walk in walks]
    return contests.dataset(
        {
            "retained": (("route",), np.array([[walk.retained[route] for route in ROUTES] for walk in walks])),
            "answer": ((), np.array(answers)),
            "said": ((), np.array([_said(walk, tokens) for walk, tokens in zip(walks, beside, strict=True)])),
            "n_passed": ((), np.array([len(walk.passed) for walk in walks])),
            "probability": (("route",), probability),
            "lead": (("route",), lead),
            "share": (("category",), shares),
            "n_related": ((), np.array([len(tokens) for tokens in beside])),
        },
        route=list(ROUTES),
        category=list(CATEGORIES),
    ).assign_attrs(about)


def with_values_apart(model: Model, facts: FactSet, *, stop_words: Iterable[str] = STOP_WORDS) -> FactSet:
    """The facts whose values ``read_retention`` can tell apart, in their order.

    Args:
        model: whose tokens they are told by.
        facts: the facts.
        stop_words: as in ``read_retention``.

    Raises:
        RouteError: if a value cannot be told from the prompt or from its rival at all; all facts in one message.
        ReadingError: if no fact is left.
    """
    is_stop = _StopTokens(model.tokenizer, frozenset(word.lower() for word in stop_words))
    contests = ContestSet.of(model, facts)
    walks = [_Walk(contest, _targets(contest, is_stop)) for contest in contests]
    apart = [fact for fact, walk in zip(contests.facts, walks, strict=True) if not _problem(walk)]
    if not apart:
        raise ReadingError(
            f"The values of none of {len(walks)} facts can be told apart by the first token. Give others."
        )
    return FactSet(apart)


class _StopTokens:
    """Whether a token is a stop word; each is looked up once."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, words: frozenset[str]) -> None:
        self._tokenizer, self._words = tokenizer, words
        self._known: dict[int, bool] = {}

    def __call__(self, token: int) -> bool:
        if token not in self._known:
            self._known[token] = is_stop_word(str(self._tokenizer.decode([token])), self._words)
        return self._known[token]


@dataclass
class _Walk:
    """The greedy path behind a prompt, as far as it leads over stop words.

    Attributes:
        contest: the fact's.
        targets: the token that stands for old and for new.
        passed: stop words that were said.
        retained: whether the value was met.
        answer: the first token that is no stop word.
        is_done: whether the path is at its end.
    """

    contest: Contest
    targets: Mapping[str, int | None]
    passed: list[int] = field(default_factory=list)
    retained: dict[str, bool] = field(default_factory=lambda: dict.fromkeys(ROUTES, False))
    answer: int | None = None
    is_done: bool = False

    @property
    def ids(self) -> list[int]:
        """What the model reads."""
        return [*self.contest.prompt, *self.passed]

    @property
    def begun(self) -> list[int]:
        """The prompt with what old and new both begin with."""
        return [*self.contest.prompt, *self.contest.routes["old"][: self.contest.n_common]]

    @property
    def firsts(self) -> list[int]:
        """The token of old and of new behind that."""
        return [self.contest.routes[route][self.contest.n_common] for route in ROUTES]

    def take(self, logits: Float[Tensor, " vocabulary"], is_stop: IsStop) -> None:
        """Test at this place, and go on behind a stop word."""
        greedy, best = _likeliest(logits, is_stop)
        for route, target in self.targets.items():
            self.retained[route] |= best == target
        if not is_stop(greedy):
            self.answer, self.is_done = greedy, True
        elif len(self.passed) == _MOST_PASSED:
            self.is_done = True
        else:
            self.passed.append(greedy)


def _targets(contest: Contest, is_stop: IsStop) -> dict[str, int | None]:
    """The first token of old and of new that is no stop word."""
    return {route: next((t for t in contest.routes[route] if not is_stop(t)), None) for route in ROUTES}


def _require_told_apart(walks: Sequence[_Walk]) -> None:
    problems = list(filter(None, map(_problem, walks)))
    if problems:
        raise ReadingError(one_message("the values of the facts", problems))


def _problem(walk: _Walk) -> str:
    """Why the values of a fact cannot be told apart; empty where they can."""
    old, new = walk.targets.values()
    if old is None or new is None:
        return (
            f"A value of fact {walk.contest.fact_id!r} consists of stop words, so nothing tells whether it is said. "
            "Leave the fact out, or name other stop words."
        )
    if old == new:
        return (
            f"The values of fact {walk.contest.fact_id!r} begin with the same token, and retention is told by the "
            "first that is no stop word. Leave the fact out, or give it another new value."
        )
    return ""


def _said(walk: _Walk, related: set[int]) -> str:
    """What is said, as a category; a value that is retained at some place counts before what is answered at the end."""
    for route, category in zip(ROUTES, CATEGORIES, strict=False):
        if walk.retained[route]:
            return category
    return "related" if walk.answer in related else "other"


def _related(contests: ContestSet, others: ContestSet | tuple[()]) -> list[set[int]]:
    """First tokens of each fact's distractors and of all values of its relation, without those of old and new."""
    by_relation: dict[str, set[tuple[int, ...]]] = {}
    for some in (contests, *([others] if others else [])):
        for fact, contest in zip(some.facts, some, strict=True):
            if fact.relation:
                by_relation.setdefault(fact.relation, set()).update(contest.routes.values())
    related = []
    for fact, contest in zip(contests.facts, contests, strict=True):
        n = contest.n_common
        begin, own = contest.routes["old"][:n], {contest.routes[route][n] for route in ROUTES}
        values = {*contest.routes.values(), *by_relation.get(fact.relation, ())}
        related.append({ids[n] for ids in values if ids[:n] == begin and len(ids) > n} - own)
    return related


def _first(model: Model, walks: Sequence[_Walk], batch_size: int) -> Iterator[tuple[int, Float[Tensor, " vocabulary"]]]:
    """The logits where old and new part, by walk."""
    starts = range(0, len(walks), batch_size)
    with progress_bar("reading", len(starts)) as tick:
        for start in starts:
            some = walks[start : start + batch_size]
            yield from enumerate(_finite(model, [walk.begun for walk in some]), start)
            tick()


def _go_on(model: Model, walks: Sequence[_Walk], is_stop: IsStop, batch_size: int) -> None:
    """Every path to its end."""
    while unfinished := [walk for walk in walks if not walk.is_done]:
        for start in range(0, len(unfinished), batch_size):
            some = unfinished[start : start + batch_size]
            for walk, logits in zip(some, _finite(model, [walk.ids for walk in some]), strict=True):
                walk.take(logits, is_stop)


def _finite(model: Model, texts: Sequence[Sequence[int]]) -> Float[Tensor, "text vocabulary"]:
    logits = next_logits(model, texts)
    if not logits.isfinite().all():
        raise ReadingError(f"The output of {model.name} is not finite. Check the weights or the change.")
    return logits


def _likeliest(logits: Float[Tensor, " vocabulary"], is_stop: IsStop) -> tuple[int, int | None]:
    """The likeliest token, and the likeliest that is no stop word; ``None`` where there is none."""
    for n in (min(_AT_ONCE, len(logits)), len(logits)):
        ranked = logits.topk(n).indices.tolist()
        found = next((token for token in ranked if not is_stop(token)), None)
        if found is not None or n == len(logits):
            return ranked[0], found
    raise AssertionError


def _first_token(logits: Float[Tensor, " vocabulary"], tokens: Sequence[int]) -> tuple[list[float], list[float]]:
    """Probability of each token, and by how much it is above that of any other."""
    probabilities = logits.double().softmax(-1)
    first, second = probabilities.topk(2).values.tolist()
    own = [probabilities[token].item() for token in tokens]
    return own, [p - (second if p == first else first) for p in own]


def _shares(logits: Float[Tensor, " vocabulary"], tokens: Sequence[int], related: set[int]) -> list[float]:
    """Probability of each category."""
    probabilities = logits.double().softmax(-1)
    true, edited = (probabilities[token].item() for token in tokens)
    if not related:
        return [true, edited, np.nan, np.nan]
    beside = probabilities[torch.tensor(sorted(related), device=logits.device)].sum().item()
    return [true, edited, beside, max(0.0, 1.0 - true - edited - beside)]
