"""Facts from what a caller holds in memory: a list, a pandas table, a ``datasets.Dataset``.

Each row is a fact with a fact's fields, or a record of a published data set, which its keys tell. Neither pandas nor
datasets is imported here: a caller who has a table has imported what it is of.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

from mechmask.errors import FactError
from mechmask.facts.readers.dataframe import is_dataframe, read_dataframe
from mechmask.facts.readers.published import from_records, the_format
from mechmask.facts.readers.text import Entries

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset as HubDataset


_IN_ORDER = ("subject", "prompt", "old", "new")  # what a tuple holds


def is_dataset(thing: object) -> TypeGuard[HubDataset]:
    """Whether ``thing`` is a data set of Hugging Face's library ``datasets``."""
    library = sys.modules.get("datasets")  # or a module of the caller's own that has this name
    kinds = (getattr(library, name, None) for name in ("Dataset", "IterableDataset"))
    return any(isinstance(kind, type) and hasattr(kind, "with_format") and isinstance(thing, kind) for kind in kinds)


def is_table(thing: object) -> TypeGuard[pd.DataFrame | HubDataset]:
    """Whether ``thing`` has rows: a pandas table or a ``datasets.Dataset``."""
    return is_dataframe(thing) or is_dataset(thing)


def read_rows(table: pd.DataFrame | HubDataset) -> Entries:
    """The rows of a table as mappings, without cells that hold nothing."""
    if is_dataframe(table):
        return read_dataframe(table)
    return Entries([_without_none(row) for row in table.with_format(None)])  # pyright: ignore[reportAttributeAccessIssue]


def read_memory(facts: object, format: str | None = None) -> Entries:
    """The facts of a list, a table or a ``datasets.Dataset``.

    Args:
        facts: facts, mappings with a fact's fields, tuples ``(subject, prompt, old, new)``, or records of a published
            data set.
        format: the data set's name; by the first record where none is given.

    Raises:
        FactError: if ``facts`` is none of these, or its records can be read in several ways.
    """
    if is_table(facts):
        read = read_rows(facts)
    elif isinstance(facts, Mapping) and facts and all(map(is_dataset, facts.values())):
        splits = ", ".join(map(repr, facts))
        raise FactError(
            f"The data set has the splits {splits}. Give one of them, such as dataset[{next(iter(facts))!r}]."
        )
    elif isinstance(facts, Mapping | str | bytes) or not isinstance(facts, Iterable):
        raise FactError(
            f"A fact set cannot be made of an object of type {type(facts).__name__}. "
            "Give a list of facts or a pandas DataFrame; load_facts reads a file."
        )
    else:
        read = Entries([_of_tuple(entry) for entry in facts])
    if not read.entries:
        return read
    name = format or the_format(read.entries[0], "The table" if is_table(facts) else "The list")
    if name is None:
        return read
    published = from_records(read.entries, name)
    return Entries(published.entries, [*read.problems, *published.problems], published.left_out)


def _of_tuple(entry: Any) -> Any:
    """``(subject, prompt, old, new)`` as a mapping; anything else as it is."""
    if isinstance(entry, tuple) and not hasattr(entry, "_fields") and len(entry) == len(_IN_ORDER):
        return dict(zip(_IN_ORDER, entry, strict=True))
    return entry


def _without_none(value: Any) -> Any:
    """A row without what it has not: columns of a data set are there for every row."""
    if isinstance(value, Mapping):
        return {name: _without_none(inner) for name, inner in value.items() if inner is not None}
    return [_without_none(inner) for inner in value] if isinstance(value, list) else value
