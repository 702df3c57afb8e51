"""Facts as token routes: each candidate value as the tokens that follow the prompt.

Prompt and value are tokenized together, as the model would meet them, and the boundary is found by character offsets.
A value that cannot be told from the prompt or from its rival at the level of tokens is refused, because every number
that follows would be about something else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from mechmask.errors import RouteError, one_message
from mechmask.facts.fact import Example, Fact


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


@dataclass(frozen=True)
class _Tokens:
    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]  # characters of each
    n_before: int  # special tokens that the tokenizer puts before the text


def encode_contests(
    tokenizer: PreTrainedTokenizerBase, facts: Iterable[Fact], phrasing: int = 0
) -> list[Contest | None]:
    """The contest of every fact under one of its phrasings, in the order of the facts, whatever their ids.

    Args:
        tokenizer: a fast tokenizer; its padding side and its special tokens at the end play no part.
        facts: the facts.
        phrasing: 0 for the prompt, 1 and up for the paraphrases.

    Returns:
        One entry for each fact: ``None`` where it has no such phrasing.

    Raises:
        RouteError: listing every fact that is refused, with the cause: values that cannot be told apart as tokens or
            merge with the prompt, text that the tokenizer does not know, a BOS that the tokenizer adds itself.
    """
    facts = list(facts)
    texts = [text for fact in facts if phrasing < len(fact.phrasings) for text in _texts(fact, phrasing)]
    tokens = iter(_tokenize(tokenizer, texts))
    contests: list[Contest | None] = []
    problems: list[str] = []
    for fact in facts:
        if phrasing >= len(fact.phrasings):
            contests.append(None)
            continue
        prompt = next(tokens)
        joined = {route: next(tokens) for route in fact.values}
        try:
            contests.append(_contest(tokenizer, fact, fact.phrasings[phrasing], prompt, joined))
        except RouteError as error:
            problems.append(str(error))
    if problems:
        raise RouteError(one_message("the token routes", problems))
    return contests


def encode_examples(tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example]) -> list[EncodedExample]:
    """Training examples as token ids.

    Raises:
        RouteError: listing every example whose prompt or value has no tokens, whose value merges with its prompt, or
            whose text the tokenizer does not know.
    """
    tokens = iter(_tokenize(tokenizer, [text for e in examples for text in (e.prompt, f"{e.prompt} {e.value}")]))
    encoded, problems = [], []
    for example in examples:
        prompt, joined = next(tokens), next(tokens)
        label = example.fact_id or example.prompt
        try:
            _refuse_prompt_tokens(tokenizer, example.prompt, prompt, label)
            value = _value_ids(tokenizer, label, example.prompt, example.value, prompt, joined)
            encoded.append(EncodedExample(label, prompt.ids, value))
        except RouteError as error:
            problems.append(str(error))
    if problems:
        raise RouteError(one_message("the training examples", problems))
    return encoded


@dataclass(frozen=True)
class Mention:
    """A text that names a subject, as token ids.

    Attributes:
        ids: of the whole text, leading special tokens included.
        position: index in ``ids`` of the subject's last token.
    """

    ids: tuple[int, ...]
    position: int


def encode_mentions(
    tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], subjects: Sequence[str], begin: int = 0
) -> list[Mention]:
    """Texts with the place of the last mention of a subject in each.

    Args:
        tokenizer: a fast tokenizer.
        texts: what is tokenized, each as it is.
        subjects: the subject of each text, as it is written there.
        begin: the character of every text before which no mention counts.

    Raises:
        RouteError: listing every text that does not hold its subject, or holds text that the tokenizer does not know.
    """
    mentions, problems = [], []
    for text, subject, tokens in zip(texts, subjects, _tokenize(tokenizer, list(texts)), strict=True):
        try:
            _refuse_prompt_tokens(tokenizer, text, tokens, subject)
            position = _last_mention(subject, text, tokens, begin)
            if position is None:
                raise _unnamed(subject, text)
            mentions.append(Mention(tokens.ids, position))
        except RouteError as error:
            problems.append(str(error))
    if problems:
        raise RouteError(one_message("the subjects", problems))
    return mentions


def encode_beginnings(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Texts as token ids that a model goes on from: without what the tokenizer puts at the end of a text.

    Args:
        tokenizer: a fast tokenizer.
        texts: the texts.
    """
    return [tokens.ids for tokens in _tokenize(tokenizer, list(texts))]


def _texts(fact: Fact, phrasing: int) -> list[str]:
    prompt = fact.phrasings[phrasing]
    return [prompt, *(f"{prompt} {value}" for value in fact.values.values())]


def _tokenize(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[_Tokens]:
    if not texts:
        return []
    batch = tokenizer(
        texts, return_offsets_mapping=True, return_special_tokens_mask=True, padding=False, truncation=False
    )
    return [
        _without_trailing_specials(ids, spans, special)
        for ids, spans, special in zip(
            batch["input_ids"], batch["offset_mapping"], batch["special_tokens_mask"], strict=True
        )
    ]


def _without_trailing_specials(ids: list[int], spans: list[tuple[int, int]], special: list[int]) -> _Tokens:
    end = len(ids)
    while end and special[end - 1]:
        end -= 1
    n_before = next((i for i, is_added in enumerate(special[:end]) if not is_added), end)
    return _Tokens(tuple(ids[:end]), tuple(spans[:end]), n_before)


def _refuse_prompt_tokens(tokenizer: PreTrainedTokenizerBase, text: str, prompt: _Tokens, label: str) -> None:
    """A prompt may hold special tokens, as chat templates do, but not what the model would meet twice or not at all."""
    if not prompt.ids:
        raise RouteError(f"The prompt {text!r} of {label!r} has no tokens. Give a prompt that the model can read.")
    typed = list(zip(prompt.ids, prompt.spans, strict=True))[prompt.n_before :]
    added = prompt.ids[: prompt.n_before]
    for token, (start, stop) in typed:
        if token == tokenizer.bos_token_id and token in added:
            raise RouteError(
                f"The prompt {text!r} of {label!r} holds {text[start:stop]!r}, which the tokenizer puts before every "
                "text itself, so the model would meet it twice. Leave it out."
            )
        if _is_unknown(tokenizer, token):
            raise _unknown(f"The prompt {text!r} of {label!r}", text[start:stop])


def _refuse_value_tokens(
    tokenizer: PreTrainedTokenizerBase, label: str, value: str, ids: tuple[int, ...], pieces: Sequence[str]
) -> None:
    """A value is text: a special token in it is one that no text has, or one that stands for any text."""
    for token, piece in zip(ids, pieces, strict=True):
        if _is_unknown(tokenizer, token):
            raise _unknown(f"The value {value!r} of {label!r}", piece)
        if token in tokenizer.all_special_ids:
            raise RouteError(
                f"The value {value!r} of {label!r} holds the special token {piece.strip()!r}. Give the text that the "
                "model would say."
            )


def _is_unknown(tokenizer: PreTrainedTokenizerBase, token: int) -> bool:
    """GPT-2 names its end of text as the unknown token too, which then stands for itself."""
    return token == tokenizer.unk_token_id and token not in (tokenizer.bos_token_id, tokenizer.eos_token_id)


def _unknown(what: str, piece: str) -> RouteError:
    return RouteError(
        f"{what} holds {piece.strip()!r}, for which this tokenizer has the unknown token only, as for any other text "
        "that it lacks. Write it in characters that the tokenizer knows."
    )


def _value_ids(
    tokenizer: PreTrainedTokenizerBase, label: str, prompt_text: str, value: str, prompt: _Tokens, joined: _Tokens
) -> tuple[int, ...]:
    if not value.strip():
        raise RouteError(f"A value of {label!r} is empty. Give the text that the model would say.")
    boundary = len(prompt_text)
    n = len(prompt.ids)
    # spans are in order: where the prompt's tokens are the first ones, only the two beside the boundary can cross it
    merged = any(start < boundary < stop for start, stop in joined.spans[max(n - 1, 0) : n + 1])
    if merged or joined.ids[:n] != prompt.ids:
        raise RouteError(
            f"The value {value!r} of {label!r} merges with the prompt {prompt_text!r} in this tokenizer, so it "
            "has no tokens of its own. "
            "End the prompt at a word, or word the value differently."
        )
    if len(joined.ids) == n:
        raise RouteError(f"The value {value!r} of {label!r} has no tokens in this tokenizer. Give another value.")
    text = f"{prompt_text} {value}"
    ids = joined.ids[n:]
    _refuse_value_tokens(tokenizer, label, value, ids, [text[start:stop] for start, stop in joined.spans[n:]])
    return ids


def _contest(
    tokenizer: PreTrainedTokenizerBase, fact: Fact, text: str, prompt: _Tokens, joined: dict[str, _Tokens]
) -> Contest:
    _refuse_prompt_tokens(tokenizer, text, prompt, fact.id)
    routes = {
        route: _value_ids(tokenizer, fact.id, text, value, prompt, joined[route])
        for route, value in fact.values.items()
    }
    _refuse_prefixes(tokenizer, fact, routes)
    n_common = next(i for i, (old, new) in enumerate(zip(routes["old"], routes["new"], strict=False)) if old != new)
    return Contest(fact.id, prompt.ids, routes, n_common, _subject_position(fact, text, prompt))


def _refuse_prefixes(tokenizer: PreTrainedTokenizerBase, fact: Fact, routes: dict[str, tuple[int, ...]]) -> None:
    """Of two routes neither may begin with the other: their probabilities would not exclude each other."""
    for route, ids in routes.items():
        for rival, other in routes.items():
            if route == rival or ids != other[: len(ids)]:
                continue
            if ids == other:
                raise RouteError(
                    f"The values {fact.values[route]!r} ({route}) and {fact.values[rival]!r} ({rival}) of fact "
                    f"{fact.id!r} are the same tokens. "
                    "Give values that differ."
                )
            shared = f"{len(ids)} token{'s' * (len(ids) > 1)}"
            raise RouteError(
                f"The values {fact.values[route]!r} ({route}) and {fact.values[rival]!r} ({rival}) of fact "
                f"{fact.id!r} begin with the same {shared} "
                f"and the first ends there: {_text(tokenizer, ids)!r} is a prefix of {_text(tokenizer, other)!r}. "
                "Give values of which neither is a prefix of the other."
            )


def _text(tokenizer: PreTrainedTokenizerBase, ids: tuple[int, ...]) -> str:
    return str(tokenizer.decode(list(ids))).strip()


def _subject_position(fact: Fact, text: str, prompt: _Tokens) -> int | None:
    position = _last_mention(fact.subject, text, prompt)
    if position is None and text == fact.prompt and fact.subject not in text:
        raise _unnamed(fact.subject, text)
    return position


def _last_mention(subject: str, text: str, tokens: _Tokens, begin: int = 0) -> int | None:
    """The last token that holds the end of the subject's last mention: everything before the value has seen it."""
    whole_words = list(re.compile(rf"(?<!\w){re.escape(subject)}(?!\w)").finditer(text, begin))
    start = whole_words[-1].start() if whole_words else text.rfind(subject, begin)
    if start < 0:
        return None
    last_character = start + len(subject) - 1
    holders = [i for i, (first, stop) in enumerate(tokens.spans) if first <= last_character < stop]
    return holders[-1] if holders else None


def _unnamed(subject: str, text: str) -> RouteError:
    return RouteError(
        f"The subject {subject!r} does not occur in the prompt {text!r}. Write the subject as the prompt does."
    )
