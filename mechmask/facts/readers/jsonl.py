"""JSONL: one JSON object with a fact's fields on each line."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from mechmask.facts.readers.text import Entries, file_text, json_value


class Lines(NamedTuple):
    """The JSON objects of a file.

    Attributes:
        records: the objects, one a line.
        numbers: the number of each one's line.
        problems: one sentence for each line that holds something else.
    """

    records: list[Any]
    numbers: list[int]
    problems: list[str]


def read_jsonl(path: Path) -> Entries:
    """The objects of a file with one JSON object per line; blank lines are skipped.

    Raises:
        FactError: if the file cannot be read as text.
    """
    records, _, problems = json_lines(path)
    return Entries(records, problems)


def json_lines(path: Path) -> Lines:
    """The objects of a file with one JSON object per line, and the lines that are none; blank lines are skipped.

    Raises:
        FactError: if the file cannot be read as text.
    """
    lines = Lines([], [], [])
    for number, line in enumerate(file_text(path).split("\n"), 1):  # splitlines would cut at U+2028 too
        if not line.strip():
            continue
        try:
            record = json_value(line)
        except ValueError as error:
            lines.problems.append(
                f"Line {number} of {path.name} is not JSON ({error}). Write one JSON object per line."
            )
            continue
        if isinstance(record, dict):
            lines.records.append(record)
            lines.numbers.append(number)
        else:
            lines.problems.append(
                f"Line {number} of {path.name} is not a JSON object. Write one object with a fact's fields per line."
            )
    return lines
