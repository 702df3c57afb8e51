"""What facts, neighbors and examples share: frozen records of text that complain in sentences.

pydantic checks the types; its messages are put into mechmask's words here, so that none of them (nor a link to
pydantic's pages) reaches a reader. A text that no file or tokenizer can carry is refused, whatever the field.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, ValidationError

from mechmask.configuration import Refusing
from mechmask.errors import FactError, known_names

_UNREADABLE = re.compile("[\0\ud800-\udfff]")


def field_problems(where: str, record: type[BaseModel], error: ValidationError) -> list[str]:
    """What pydantic refused, one sentence a field.

    Args:
        where: what the sentence is about, such as ``Fact 3``.
        record: the class that was asked for; its fields are named where one is not known.
        error: what pydantic raised.
    """
    return [f"{where}: {_field_problem(record, item)}" for item in error.errors(include_url=False)]


class Record(Refusing):
    """A frozen record that takes no unknown field."""

    # Fields that the record once did not have. At their default they are not written: fingerprints of facts and
    # examples stay, and studies are found by them.
    _NEWER: ClassVar[tuple[str, ...]] = ()

    refusal = FactError
    in_words = staticmethod(field_problems)

    def written(self) -> dict[str, Any]:
        """The fields as JSON has them, without newer ones at their default."""
        return self.model_dump(mode="json", exclude=self._absent())

    def _absent(self) -> set[str]:
        fields = type(self).model_fields
        return {name for name in self._NEWER if getattr(self, name) == fields[name].default}

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        absent = self._absent()
        return ((name, value) for name, value in super().__repr_args__() if name not in absent)

    @classmethod
    def newer_fields(cls) -> tuple[str, ...]:
        """Fields that are not written at their default."""
        return cls._NEWER


def unreadable_texts(what: str, texts: Iterable[tuple[str, str]]) -> list[str]:
    """One sentence for each text that holds a character which no file or tokenizer carries unchanged."""
    texts, problems = list(texts), []
    if not _UNREADABLE.search(" ".join(text for _, text in texts)):  # one search for all: most facts hold none
        return problems
    for name, text in texts:
        character = _UNREADABLE.search(text)
        if character is not None:
            kind = "a NUL character" if character[0] == "\0" else f"half of a surrogate pair ({character[0]!r})"
            problems.append(
                f"The {name} of {what} holds {kind} at position {character.start()}, which is not text. Remove it."
            )
    return problems


def _field_problem(record: type[BaseModel], details: Mapping[str, Any]) -> str:
    location: Sequence[str | int] = details["loc"]
    field, given = ".".join(map(str, location)), reprlib.repr(details["input"])
    kind = type(details["input"]).__name__
    if details["type"] == "extra_forbidden" and len(location) == 1:
        return f"the field {field!r} is not known. {known_names(field, record.model_fields)}"
    if details["type"] == "extra_forbidden":
        return f"the field {field!r} is not known. Remove it."
    if details["type"] == "missing":
        return f"the field {field!r} is missing. Give it as text."
    if details["type"] == "string_type":
        return f"the field {field!r} is of type {kind}, not text. Give it as text."
    if details["type"] == "blank":
        return f"the field {field!r} is blank. Give text that is not."
    if details["type"] == "literal_error":
        return f"the field {field!r} cannot be {given}. Give one of {details['ctx']['expected']}."
    if details["type"] == "tuple_type":
        return f"the field {field!r} is of type {kind}, not a list. Give a list."
    if details["type"] in ("model_type", "dict_type"):
        return f"{f'the field {field!r}' if field else 'it'} is of type {kind}. Give a mapping of fields."
    return f"the field {field!r} is not usable: {str(details['msg']).lower()}. Fix it."
