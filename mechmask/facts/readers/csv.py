"""CSV: a header of field names and one row per fact; lists and joiners as JSON, empty cells left out."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from mechmask.facts.readers.text import Entries, file_text, json_value, repeated

LIST_FIELDS = (
    "distractors",
    "paraphrases",
    "neighbors",
    "generation_prompts",
    "attribute_prompts",
    "implications",
    "old_aliases",
    "new_aliases",
    "messages",
)
JOINER_UNSAID = (
    'the joiner is empty, which may mean one space or nothing. Write " " or "" in quotes, or leave the column out.'
)
_LONGEST_CELL = 2**31 - 1  # what a C long holds everywhere; Python's default refuses cells over 131,072 characters
_LIMIT_LOCK = Lock()


def read_csv(path: Path) -> Entries:
    """The rows of a CSV file.

    Raises:
        FactError: if the file cannot be read as text.
    """
    text = file_text(path)
    if "\0" in text:  # Python below 3.11 cannot parse it, and no fact may hold it
        line = text.count("\n", 0, text.index("\0")) + 1
        return Entries(problems=[f"Line {line} of {path.name} holds a NUL character. Save the file as UTF-8 text."])
    reader = csv.DictReader(io.StringIO(text, newline=""))
    read = Entries()
    with _long_cells():
        try:
            for name in repeated(reader.fieldnames or ()):
                read.problems.append(f"The header of {path.name} has {name!r} twice. Keep one of the columns.")
            if read.problems:
                return read
            for row in reader:
                _add_row(read, row, f"Line {reader.line_num} of {path.name}")
        except csv.Error as error:
            read.problems.append(f"Line {reader.line_num} of {path.name} is not CSV ({error}). Fix its quotes.")
    return read


def cell_value(cell: str) -> list[Any]:
    """The list that a cell holds as JSON.

    Raises:
        ValueError: if the cell holds something else.
    """
    value = json_value(cell)
    if not isinstance(value, list):
        raise ValueError("it is not a list")
    return value


def joiner_of(cell: str | None) -> str:
    """The joiner that a cell names, as it is or in quotes.

    Raises:
        ValueError: if the cell is empty: many programs write no text and a missing one alike.
    """
    if not cell:
        raise ValueError(JOINER_UNSAID)
    return str(json_value(cell)) if cell.startswith('"') else cell


def _add_row(read: Entries, row: dict[Any, Any], line: str) -> None:
    if None in row:
        read.problems.append(f"{line} has more cells than the header. Quote cells that hold a comma.")
        return
    entry = {name: cell for name, cell in row.items() if cell}
    for name in LIST_FIELDS:
        if name not in entry:
            continue
        try:
            entry[name] = cell_value(entry[name])
        except ValueError as error:
            reason = f" ({error})" if "JSON" in str(error) else ""
            read.problems.append(f'{line}: {name} is not a JSON list{reason}. Write ["one", "two"].')
            del entry[name]
    if "joiner" in row:
        try:
            entry["joiner"] = joiner_of(entry.get("joiner"))
        except ValueError as error:
            read.problems.append(f"{line}: {error}")
            entry.pop("joiner", None)
    read.entries.append(entry)


@contextmanager
def _long_cells() -> Iterator[None]:
    """Lift the limit on a cell's length, which Python keeps for the whole process, and put the caller's back."""
    with _LIMIT_LOCK:
        limit = csv.field_size_limit(_LONGEST_CELL)
        try:
            yield
        finally:
            csv.field_size_limit(limit)
