"""JSONL: one JSON object with a fact's fields on each line."""

from __future__ import annotations

from pathlib import Path

from mechmask.facts.readers.text import Entries, file_text, json_value


def read_jsonl(path: Path) -> Entries:
    """The objects of a file with one JSON object per line; blank lines are skipped.

    Raises:
        FactError: if the file cannot be read as text.
    """
    read = Entries()
    for number, line in enumerate(file_text(path).split("\n"), 1):  # splitlines would cut at U+2028 too
        if not line.strip():
            continue
        try:
            entry = json_value(line)
        except ValueError as error:
            read.problems.append(f"Line {number} of {path.name} is not JSON ({error}). Write one JSON object per line.")
            continue
        if isinstance(entry, dict):
            read.entries.append(entry)
        else:
            read.problems.append(
                f"Line {number} of {path.name} is not a JSON object. Write one object with a fact's fields per line."
            )
    return read
