"""Records of a published data set: what is damaged becomes a sentence, what no fact can be made of a count.

Published files hold records that contradict themselves or repeat each other. Those are left out and counted, so that
the rest can be used; a record of another form than the data set's is a problem of the file, as everywhere.

Data sets spell one value in several ways, and aliases most of all: values that differ in case alone are one value here,
whatever they are compared for. Of facts of one's own nothing is guessed: there case counts (``Fact.problems``).
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mechmask.facts.readers.text import Entries

Draft = dict[str, Any]
"""A fact's fields; ``new`` and ``distractors`` may still lack. Beside them ``also_true``: values that are no rivals."""

Where = Callable[[int], str]
"""How a sentence names the record of a number, which begins at 1."""

NO_SUBJECT = "the prompt does not name the subject"
NO_VALUE = "a value is empty"
ONE_VALUE = "the new value is a true one"
WITHIN = "old or new value is the beginning of the other"
SAME_PROMPT = "an earlier record has the same prompt"


class NoFactError(Exception):
    """A record is sound, and no fact can be made of it; says why in a few words."""


def record_name(number: int) -> str:
    """How a record of a list or table is named."""
    return f"Record {number}"


def drafts(
    records: Iterable[Any], draft: Callable[[Mapping[str, Any]], Draft], title: str, where: Where
) -> tuple[list[Draft], Entries]:
    """The drafts of the records that can be facts, and what kept the others from it.

    Args:
        records: as they are published.
        draft: makes a draft of a record; raises ``NoFactError``, or any of the errors that Python raises where a key
            lacks or a type is wrong.
        title: the data set's name, for sentences.
        where: names a record by its number, which begins at 1.
    """
    read = Entries()
    made: list[Draft] = []
    prompts: set[str] = set()
    for number, record in enumerate(records, 1):
        try:
            one = _usable(draft(_mapping(record)), prompts)
        except NoFactError as reason:
            read.left_out.append(str(reason))
            continue
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            read.problems.append(
                f"{where(number)} is not one of {title} ({_reason(error)}). Give it as it is published; a file "
                "of your own facts ends in .jsonl or .csv."
            )
            continue
        prompts.add(one["prompt"])
        made.append(one)
    return made, read


def number_of(record: Mapping[str, Any], prompt: str, *keys: str) -> str:
    """What tells facts about one subject apart in their ids: a record's own number, else one that its prompt gives.

    Never its place in the file: a fact has one id in every selection and order of the records.

    Args:
        record: as it is published.
        prompt: of the fact.
        keys: where the record may have its number.
    """
    own = (record[key] for key in keys if record.get(key) is not None)
    return str(next(own, f"{zlib.crc32(prompt.encode('utf-8', 'replace')):08x}"))


def folded(value: str) -> str:
    """A value as it is compared: without its case."""
    return value.casefold()


def named(value: str, text: str) -> bool:
    """Whether a text names a value, as whole words in whatever case."""
    return folded(value) in folded(text) and re.search(rf"(?<!\w){re.escape(value)}(?!\w)", text, re.I) is not None


def text(record: Mapping[str, Any], key: str) -> str:
    """A text of a record, without white space around it.

    Raises:
        KeyError: if it lacks.
        TypeError: if it is no text.
    """
    return bare(record[key], key)


def texts(record: Mapping[str, Any], key: str) -> list[str]:
    """A list of texts, without white space around them and without empty ones; empty where the record has none.

    Raises:
        TypeError: if it is no list of texts.
    """
    found = record.get(key)
    if found is None:
        return []
    if not isinstance(found, list | tuple):
        raise TypeError(f"{key!r} is not a list")
    if not set(map(type, found)) <= {str}:
        raise TypeError(f"{key!r} is not a list of texts")
    return [one for one in map(str.strip, found) if one]


def bare(value: object, key: str) -> str:
    """A value that must be text, without white space around it.

    Raises:
        TypeError: if it is no text.
    """
    if not isinstance(value, str):
        raise TypeError(f"{key!r} is not text")
    return value.strip()


def _mapping(record: object) -> Mapping[str, Any]:
    if not isinstance(record, Mapping):
        raise TypeError("it is not an object")
    return record


def _usable(draft: Draft, prompts: set[str]) -> Draft:
    """The draft with each phrasing once.

    Raises:
        NoFactError: if no fact can be made of it.
    """
    values = [draft[route] for route in ("old", "new") if route in draft]
    if not all(values):
        raise NoFactError(NO_VALUE)
    if "new" in draft:
        old, new = (f"{folded(value)} " for value in values)
        if new.rstrip() in map(folded, (draft["old"], *draft.get("also_true", ()))):
            raise NoFactError(ONE_VALUE)
        if old.startswith(new) or new.startswith(old):
            raise NoFactError(WITHIN)  # as tokens they could not be told apart
    if not draft["subject"] or draft["subject"] not in draft["prompt"]:
        raise NoFactError(NO_SUBJECT)
    if draft["prompt"] in prompts:
        raise NoFactError(SAME_PROMPT)
    paraphrases = dict.fromkeys(draft.get("paraphrases", ()))
    paraphrases.pop(draft["prompt"], None)
    return {**draft, "paraphrases": list(paraphrases)}


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"{error.args[0]!r} is missing" if error.args else "a key is missing"
    return str(error) if type(error) in (TypeError, ValueError) and len(str(error)) < 80 else "its form is another"
