"""What facts, neighbors and examples share: frozen records of text that complain in sentences.

pydantic checks the types; its messages are put into mechmask's words here, so that none of them (nor a link to
pydantic's pages) reaches a reader. A text that no file or tokenizer can carry is refused, whatever the field.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from mechmask.errors import FactError, known_names, one_message

_UNREADABLE = re.compile("[\0\ud800-\udfff]")


class _Sentences(type(BaseModel)):
    """Makes a record's constructor raise ``FactError``; type checkers go on seeing the fields as parameters."""

    if not TYPE_CHECKING:

        def __call__(cls, *args: Any, **fields: Any) -> Any:
            try:
                return super().__call__(*args, **fields)
            except ValidationError as error:
                problems = field_problems(cls.__name__, cls, error)
                raise FactError(one_message(f"this {cls.__name__}", problems)) from None


class Record(BaseModel, metaclass=_Sentences):
    """A frozen record that takes no unknown field."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __dir__(self) -> list[str]:
        """The fields and methods of the record, and of pydantic's only those that make copies."""
        inherited = set(dir(BaseModel))
        defined = {name for name in dir(type(self)) if name not in inherited and not name.startswith("_")}
        return sorted({*defined, *type(self).model_fields, "model_copy", "model_dump", "model_dump_json"})


def field_problems(where: str, record: type[BaseModel], error: ValidationError) -> list[str]:
    """What pydantic refused, one sentence a field.

    Args:
        where: what the sentence is about, such as ``Fact 3``.
        record: the class that was asked for; its fields are named where one is not known.
        error: what pydantic raised.
    """
    return [f"{where}: {_field_problem(record, item)}" for item in error.errors(include_url=False)]


def unreadable_texts(what: str, texts: Iterable[tuple[str, str]]) -> list[str]:
    """One sentence for each text that holds a character which no file or tokenizer carries unchanged."""
    problems = []
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
    if details["type"] == "literal_error":
        return f"the field {field!r} cannot be {given}. Give one of {details['ctx']['expected']}."
    if details["type"] == "tuple_type":
        return f"the field {field!r} is of type {kind}, not a list. Give a list."
    if details["type"] in ("model_type", "dict_type"):
        return f"{f'the field {field!r}' if field else 'it'} is of type {kind}. Give a mapping of fields."
    return f"the field {field!r} is not usable: {str(details['msg']).lower()}. Fix it."
