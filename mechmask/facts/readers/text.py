"""A fact file as text and its JSON as values, where whatever can go wrong becomes a sentence."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mechmask.errors import FactError


@dataclass(frozen=True)
class Entries:
    """What was read of a file, a table or a list.

    Attributes:
        entries: facts or mappings with a fact's fields, one a fact, not yet checked.
        problems: one sentence for each line that could not be read.
        left_out: for each record that is sound and yet no fact can be made of, the reason in a few words.
    """

    entries: list[Any] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def file_text(path: Path) -> str:
    """The whole file, as UTF-8 with or without byte order mark.

    Raises:
        FactError: if the file cannot be read or is not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FactError(f"{path.name} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from error
    except OSError as error:
        raise FactError(f"Cannot read {path}: {error.strerror}. Check the path.") from error
    except ValueError as error:  # a NUL or half a surrogate pair in the path
        raise FactError(f"Cannot read {str(path)!r}: no file can have this name. Check the path.") from error


def json_value(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: with the reason in a few words, whatever the text: no JSON, nested beyond Python's recursion limit,
            a number of more digits than Python parses, or an object that has a key twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except json.JSONDecodeError as error:
        raise ValueError(error.msg) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    except _RepeatedKeyError:
        raise
    except ValueError as error:
        raise ValueError("a number has too many digits") from error


def repeated(names: Sequence[str]) -> list[str]:
    """The names that occur more than once: of two columns with one name, one would win silently."""
    return [name for name, count in Counter(names).items() if count > 1]


class _RepeatedKeyError(ValueError):
    pass


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for key, value in pairs:
        if key in members:
            raise _RepeatedKeyError(f"the key {key!r} occurs twice")
        members[key] = value
    return members
