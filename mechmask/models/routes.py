"""Facts as token routes: each candidate value as the tokens that follow the prompt.

Prompt and value are tokenized together, as the model would meet them, and the boundary is found by character offsets.
A value that cannot be told from the prompt or from its rival at the level of tokens is refused, because every number
that follows would be about something else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from mechmask.errors import RouteError, one_message
from mechmask.facts.fact import Example, Fact
from mechmask.models.chat import Beginning, beginning
from mechmask.models.tokens import Tokens, last_mention, refuse_prompt_tokens, refuse_value_tokens, tokenize, unnamed

_ALIAS = "_alias_"  # between a route's name and the number of another spelling of its value


@dataclass(frozen=True)
class Contest:
    """The routes of one fact under one phrasing, as token ids.

    Attributes:
        fact_id: the fact's label.
        prompt: ids of the prompt, leading special tokens included.
        routes: route name to the ids of its value.
        n_common: how many value tokens old and new share before they diverge.
        subject_position: index in ``prompt`` of the subject's last token; ``None`` where a paraphrase does not name it.
    """

    fact_id: str
    prompt: tuple[int, ...]
    routes: dict[str, tuple[int, ...]]
    n_common: int
    subject_position: int | None


@dataclass(frozen=True)
class EncodedExample:
    """A training example as token ids: ``prompt`` is given, ``value`` is asked for."""

    fact_id: str
    prompt: tuple[int, ...]
    value: tuple[int, ...]


def encode_contests(
    tokenizer: PreTrainedTokenizerBase, facts: Iterable[Fact], phrasing: int = 0, *, aliases: bool = False
) -> list[Contest | None]:
    """The contest of every fact under one of its phrasings, in the order of the facts, whatever their ids.

    Args:
        tokenizer: a fast tokenizer; its padding side and its special tokens at the end play no part.
        facts: the facts.
        phrasing: 0 for the prompt, 1 and up for the paraphrases.
        aliases: whether every other spelling of old and new value is a route too, called ``old_alias_0`` and so on; a
            spelling that goes on from another one of its value is none, since the other's probability holds its own.

    Returns:
        One entry for each fact: ``None`` where it has no such phrasing.

    Raises:
        RouteError: listing every fact that is refused, with the cause: values that cannot be told apart as tokens or
            merge with the prompt, text that the tokenizer does not know, a BOS that the tokenizer adds itself.
    """
    facts = list(facts)
    asked = [fact.example(fact.phrasings[phrasing], fact.old) for fact in facts if phrasing < len(fact.phrasings)]
    before = iter(_beginnings(tokenizer, asked))
    routes = [_spelled(fact) if aliases else fact.values for fact in facts]
    read = [
        None if phrasing >= len(fact.phrasings) else (next(before), values)
        for fact, values in zip(facts, routes, strict=True)
    ]
    tokens = iter(tokenize(tokenizer, [text for one in read if one for text in _texts(*one)]))
    contests: list[Contest | None] = []
    problems: list[str] = []
    for fact, one in zip(facts, read, strict=True):
        if one is None:
            contests.append(None)
            continue
        begun, values = one
        prompt = next(tokens)
        joined = {route: next(tokens) for route in values}
        try:
            contests.append(_contest(tokenizer, fact, begun, prompt, values, joined))
        except RouteError as error:
            problems.append(str(error))
    if problems:
        raise RouteError(one_message("the token routes", problems))
    return contests


def alias_of(route: str) -> str:
    """The route of whose value a route is another spelling; itself where it is none."""
    return route.partition(_ALIAS)[0]


def is_alias(route: str) -> bool:
    """Whether a route is another spelling of a value."""
    return _ALIAS in route


def _spelled(fact: Fact) -> dict[str, str]:
    """Every spelling of every value: ``old``, then ``old_alias_0`` and so on."""
    return {
        f"{route}{_ALIAS}{number - 1}" if number else route: spelling
        for route, spellings in fact.spellings.items()
        for number, spelling in enumerate(spellings)
    }


def _beginnings(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]) -> list[Beginning]:
    """What stands before the value of each example.

    Raises:
        RouteError: listing every conversation that the tokenizer's chat template does not take.
    """
    begun, problems = [], []
    for example in examples:
        try:
            begun.append(beginning(tokenizer, example))
        except RouteError as error:
            problems.append(str(error))
    if problems:
        raise RouteError(one_message("the conversations", problems))
    return begun


def encode_examples(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]) -> list[EncodedExample]:
    """Training examples as token ids.

    Raises:
        RouteError: listing every example whose prompt or value has no tokens, whose value merges with its prompt, or
            whose text the tokenizer does not know.
    """
    before = _beginnings(tokenizer, examples)
    pairs = zip(before, examples, strict=True)
    tokens = iter(tokenize(tokenizer, [text for b, e in pairs for text in _texts(b, {"value": e.value})]))
    encoded, problems = [], []
    for begun, example in zip(before, examples, strict=True):
        prompt, joined = next(tokens), next(tokens)
        label = example.fact_id or example.prompt
        try:
            refuse_prompt_tokens(tokenizer, begun.text, prompt, label)
            value = _value_ids(tokenizer, label, begun, example.value, prompt, joined)
            encoded.append(EncodedExample(label, prompt.ids, value))
        except RouteError as error:
            problems.append(str(error))
    if problems:
        raise RouteError(one_message("the training examples", problems))
    return encoded


def _texts(before: Beginning, values: Mapping[str, str]) -> list[tuple[str, bool]]:
    """What stands before a value, then that with each value; and whether it holds its special tokens itself."""
    texts = [before.text, *(f"{before.text}{before.joiner}{value}" for value in values.values())]
    return [(text, before.is_whole) for text in texts]


def _value_ids(
    tokenizer: PreTrainedTokenizerBase, label: str, before: Beginning, value: str, prompt: Tokens, joined: Tokens
) -> tuple[int, ...]:
    if not value.strip():
        raise RouteError(f"A value of {label!r} is empty. Give the text that the model would say.")
    boundary = len(before.text)
    n = len(prompt.ids)
    # spans are in order: where the prompt's tokens are the first ones, only the two beside the boundary can cross it
    merged = any(start < boundary < stop for start, stop in joined.spans[max(n - 1, 0) : n + 1])
    if merged or joined.ids[:n] != prompt.ids:
        raise RouteError(
            f"The value {value!r} of {label!r} merges with the prompt {before.text!r} in this tokenizer, so it "
            "has no tokens of its own. "
            "End the prompt at a word, or word the value differently."
        )
    if len(joined.ids) == n:
        raise RouteError(f"The value {value!r} of {label!r} has no tokens in this tokenizer. Give another value.")
    text = f"{before.text}{before.joiner}{value}"
    ids = joined.ids[n:]
    refuse_value_tokens(tokenizer, label, value, ids, [text[start:stop] for start, stop in joined.spans[n:]])
    return ids


def _contest(
    tokenizer: PreTrainedTokenizerBase,
    fact: Fact,
    before: Beginning,
    prompt: Tokens,
    values: Mapping[str, str],
    joined: Mapping[str, Tokens],
) -> Contest:
    refuse_prompt_tokens(tokenizer, before.text, prompt, fact.id)
    routes = {
        route: _value_ids(tokenizer, fact.id, before, value, prompt, joined[route]) for route, value in values.items()
    }
    routes = _without_longer_spellings(routes)
    _refuse_prefixes(tokenizer, fact.id, values, routes)
    n_common = next(i for i, (old, new) in enumerate(zip(routes["old"], routes["new"], strict=False)) if old != new)
    return Contest(fact.id, prompt.ids, routes, n_common, _subject_position(fact, before.text, prompt))


def _without_longer_spellings(routes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The routes without aliases that go on from another spelling of their value: what says them has said it.

    A value that goes on from one of its aliases is cut to the alias, since whatever says the alias is right.
    """
    kept: dict[str, tuple[int, ...]] = {}
    for route, ids in routes.items():
        others = [of for other, of in routes.items() if other != route and alias_of(other) == alias_of(route)]
        begun = [of for of in others if ids[: len(of)] == of and of != ids]
        repeated = any(of == ids for other, of in kept.items() if alias_of(other) == alias_of(route))
        if route == alias_of(route):
            kept[route] = min([ids, *begun], key=len)
        elif not begun and not repeated and kept[alias_of(route)] != ids:
            kept[route] = ids
    return kept


def _refuse_prefixes(
    tokenizer: PreTrainedTokenizerBase, label: str, values: Mapping[str, str], routes: Mapping[str, tuple[int, ...]]
) -> None:
    """Of two routes neither may begin with the other: their probabilities would not exclude each other."""
    for route, ids in routes.items():
        for rival, other in routes.items():
            if route == rival or ids != other[: len(ids)]:
                continue
            if ids == other:
                raise RouteError(
                    f"The values {values[route]!r} ({route}) and {values[rival]!r} ({rival}) of fact "
                    f"{label!r} are the same tokens. "
                    "Give values that differ."
                )
            shared = f"{len(ids)} token{'s' * (len(ids) > 1)}"
            raise RouteError(
                f"The values {values[route]!r} ({route}) and {values[rival]!r} ({rival}) of fact "
                f"{label!r} begin with the same {shared} "
                f"and the first ends there: {_text(tokenizer, ids)!r} is a prefix of {_text(tokenizer, other)!r}. "
                "Give values of which neither is a prefix of the other."
            )


def _text(tokenizer: PreTrainedTokenizerBase, ids: tuple[int, ...]) -> str:
    return str(tokenizer.decode(list(ids))).strip()


def _subject_position(fact: Fact, text: str, prompt: Tokens) -> int | None:
    position = last_mention(fact.subject, text, prompt)
    if position is None and fact.prompt in text and fact.subject not in text:
        raise unnamed(fact.subject, text)
    return position
