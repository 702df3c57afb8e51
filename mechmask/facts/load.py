"""Fact files by format: a new format is one reader and one line in ``FORMATS``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mechmask.errors import FactError
from mechmask.facts.fact_set import FactSet, read_csv, read_jsonl

FORMATS: dict[str, Callable[[Path], FactSet]] = {"jsonl": read_jsonl, "csv": read_csv}


def load_facts(path: str | Path, format: str = "auto") -> FactSet:
    """The facts of a file.

    Args:
        path: a JSONL or CSV file with a fact's fields.
        format: ``jsonl``, ``csv``, or ``auto``: by the file's ending.

    Raises:
        FactError: if the format is not known, or listing every problem of the file in one message.
    """
    path = Path(path)
    name = path.suffix.lstrip(".").lower() if format == "auto" else format
    if name not in FORMATS:
        raise FactError(
            f"{path.name} is in no known format ({name or 'no ending'}). Pass format= one of {', '.join(FORMATS)}."
        )
    return FORMATS[name](path)
