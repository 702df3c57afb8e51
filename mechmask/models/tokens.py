"""Texts as tokens with the characters that each holds, and where in them a subject is named."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from mechmask.errors import RouteError, one_message


@dataclass(frozen=True)
class Tokens:
    """A text as token ids.

    Attributes:
        ids: of its tokens.
        spans: the characters that each holds.
        n_before: special tokens that the tokenizer puts before the text.
    """

    ids: tuple[int, ...]
    spans: tuple[tuple[int, int], ...]
    n_before: int


def tokenize(tokenizer: PreTrainedTokenizerBase, texts: Sequence[tuple[str, bool]]) -> list[Tokens]:
    """Each text as tokens.

    Args:
        tokenizer: a fast tokenizer.
        texts: each with whether it is whole: the tokenizer adds no special tokens to a text that is.
    """
    made: dict[int, Tokens] = {}
    for whole in (False, True):
        numbers = [number for number, (_, is_whole) in enumerate(texts) if is_whole == whole]
        if numbers:
            tokens = _encoded(tokenizer, [texts[number][0] for number in numbers], add_specials=not whole)
            made |= dict(zip(numbers, tokens, strict=True))
    return [made[number] for number in range(len(texts))]


def _encoded(tokenizer: PreTrainedTokenizerBase, texts: list[str], *, add_specials: bool) -> list[Tokens]:
    batch = tokenizer(
        texts,
        add_special_tokens=add_specials,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        padding=False,
        truncation=False,
    )
    if not add_specials:
        return [
            Tokens(tuple(ids), tuple(spans), n_before=0)
            for ids, spans in zip(batch["input_ids"], batch["offset_mapping"], strict=True)
        ]
    return [
        _without_trailing_specials(ids, spans, special)
        for ids, spans, special in zip(
            batch["input_ids"], batch["offset_mapping"], batch["special_tokens_mask"], strict=True
        )
    ]


def _without_trailing_specials(ids: list[int], spans: list[tuple[int, int]], special: list[int]) -> Tokens:
    end = len(ids)
    while end and special[end - 1]:
        end -= 1
    n_before = next((i for i, is_added in enumerate(special[:end]) if not is_added), end)
    return Tokens(tuple(ids[:end]), tuple(spans[:end]), n_before)


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
    plain = [(text, False) for text in texts]
    for text, subject, tokens in zip(texts, subjects, tokenize(tokenizer, plain), strict=True):
        try:
            refuse_prompt_tokens(tokenizer, text, tokens, subject)
            position = last_mention(subject, text, tokens, begin)
            if position is None:
                raise unnamed(subject, text)
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
    return [tokens.ids for tokens in tokenize(tokenizer, [(text, False) for text in texts])]


def last_mention(subject: str, text: str, tokens: Tokens, begin: int = 0) -> int | None:
    """The last token that holds the end of the subject's last mention: everything before the value has seen it."""
    whole_words = list(re.compile(rf"(?<!\w){re.escape(subject)}(?!\w)").finditer(text, begin))
    start = whole_words[-1].start() if whole_words else text.rfind(subject, begin)
    if start < 0:
        return None
    last_character = start + len(subject) - 1
    holders = [i for i, (first, stop) in enumerate(tokens.spans) if first <= last_character < stop]
    return holders[-1] if holders else None


def unnamed(subject: str, text: str) -> RouteError:
    """The error of a prompt that does not name its subject."""
    return RouteError(
        f"The subject {subject!r} does not occur in the prompt {text!r}. Write the subject as the prompt does."
    )


def refuse_prompt_tokens(tokenizer: PreTrainedTokenizerBase, text: str, prompt: Tokens, label: str) -> None:
    """A prompt may hold special tokens, as chat templates do, but not what the model would meet twice or not at all.

    Raises:
        RouteError: if it holds such a token, or none at all.
    """
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


def refuse_value_tokens(
    tokenizer: PreTrainedTokenizerBase, label: str, value: str, ids: tuple[int, ...], pieces: Sequence[str]
) -> None:
    """A value is text: a special token in it is one that no text has, or one that stands for any text.

    Raises:
        RouteError: if one of its tokens is.
    """
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
