"""A pandas table as facts: one row per fact, one column per field, missing cells left out.

Takes what ``FactSet.to_dataframe`` gives and what pandas reads from a fact set's CSV or JSONL. pandas is never imported
here: a caller who has a table has imported it.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeGuard

from mechmask.facts.readers.csv import JOINER_UNSAID, LIST_FIELDS, cell_value, joiner_of
from mechmask.facts.readers.text import Entries, repeated

if TYPE_CHECKING:
    import pandas as pd


def is_dataframe(thing: object) -> TypeGuard[pd.DataFrame]:
    """Whether ``thing`` is a pandas table."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(thing, pandas.DataFrame)


def read_dataframe(table: pd.DataFrame) -> Entries:
    """The rows of a table; a named index is a column, an index of texts without a name is the facts' ``id``."""
    unnamed = table.index.names == [None] and "id" not in table.columns
    if unnamed and len(table) and all(isinstance(label, str) for label in table.index):
        table = table.rename_axis("id")
    index = [] if None in table.index.names else list(map(str, table.index.names))
    names = [*index, *map(str, table.columns)]
    read = Entries(problems=[f"The table has {name!r} twice. Keep one of the columns." for name in repeated(names)])
    if read.problems:
        return read
    rows = (table.reset_index() if index else table).itertuples(index=False, name=None)
    for number, row in enumerate(rows, 1):
        entry = {name: cell for name, cell in zip(names, map(_plain, row), strict=True) if not _is_missing(cell)}
        _parse_lists(read, entry, number)
        if "joiner" in names:
            _parse_joiner(read, entry, number)
        read.entries.append(entry)
    return read


def _plain(cell: Any) -> Any:
    """Arrays (such as parquet files give) as lists, whatever they lie in."""
    if hasattr(cell, "tolist") and hasattr(cell, "dtype"):
        cell = cell.tolist()
    if isinstance(cell, dict):
        return {name: _plain(inner) for name, inner in cell.items() if inner is not None}
    return [_plain(inner) for inner in cell] if isinstance(cell, list) else cell


def _is_missing(cell: Any) -> bool:
    pandas = sys.modules["pandas"]
    return pandas.api.types.is_scalar(cell) and bool(pandas.isna(cell))


def _parse_lists(read: Entries, entry: dict[str, Any], number: int) -> None:
    """Cells that hold a list as JSON, as in a fact set's CSV; an empty one is left out."""
    for name in LIST_FIELDS:
        cell = entry.get(name)
        if not isinstance(cell, str):
            continue
        del entry[name]
        if not cell:
            continue
        try:
            entry[name] = cell_value(cell)
        except ValueError:
            read.problems.append(f"Fact {number}: {name} is not a list. Give a list, or one as JSON.")


def _parse_joiner(read: Entries, entry: dict[str, Any], number: int) -> None:
    """An empty text is nothing where pandas has it; a missing cell may be either, since files hold both alike."""
    joiner = entry.get("joiner")
    if joiner is None:
        read.problems.append(f"Fact {number}: {JOINER_UNSAID}")
    elif isinstance(joiner, str) and joiner:
        entry["joiner"] = joiner_of(joiner)
