"""The published data sets: how the records of each are known, and who reads them.

A new data set of records is one reader and one line here; whatever holds its records (a JSON file, one record a line, a
pandas table, a ``datasets.Dataset``, a list) is then read by it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from mechmask.errors import FactError
from mechmask.facts.readers import counterfact, dyknow, hotpotqa, knowedit, known_1000, popqa, tofu, zsre
from mechmask.facts.readers.jsonl import json_lines
from mechmask.facts.readers.records import Where, record_name
from mechmask.facts.readers.text import Entries, file_text, json_value


class DataSet(NamedTuple):
    """One published form of a data set.

    Attributes:
        read: makes facts of its records; the second argument names a record by its number.
        keys: every record has all keys of one of these sets.
        is_one: tells its records where other people's tables have the same keys.
    """

    read: Callable[[Iterable[Any], Where], Entries]
    keys: tuple[frozenset[str], ...]
    is_one: Callable[[Mapping[str, Any]], bool] = lambda _: True


def _keys(*sets: str) -> tuple[frozenset[str], ...]:
    return tuple(frozenset(names.split()) for names in sets)


DATA_SETS: dict[str, DataSet] = {
    "counterfact": DataSet(counterfact.from_records, _keys("requested_rewrite")),
    "zsre_counterfactual": DataSet(zsre.counterfactual_from_records, _keys("subject src alt answers")),
    "zsre_true": DataSet(zsre.true_from_records, _keys("subject src alt answers")),
    "known_1000": DataSet(known_1000.from_records, _keys("known_id subject attribute prompt relation_id")),
    "popqa": DataSet(popqa.from_records, _keys("subj prop obj question", "question metadata golden_answers")),
    "hotpotqa": DataSet(hotpotqa.from_records, _keys("question answer type"), hotpotqa.is_record),
    "dyknow": DataSet(dyknow.from_records, _keys("questions answers domain element")),
    "tofu_entities": DataSet(tofu.from_records, _keys("idx question prefix entity")),
    "knowedit": DataSet(knowedit.from_records, _keys("prompt target_new")),
}


def formats_of(record: object) -> list[str]:
    """The names of the data sets that a record may be of, by its keys; none for a fact's own fields."""
    if not isinstance(record, Mapping):
        return []
    having = ((name, one) for name, one in DATA_SETS.items() if any(keys <= record.keys() for keys in one.keys))
    return [name for name, one in having if one.is_one(record)]


def the_format(record: object, what: str) -> str | None:
    """The one data set that a record can be of, or ``None``.

    Raises:
        FactError: if it can be read in several ways.
    """
    names = formats_of(record)
    if len(names) > 1:
        raise FactError(
            f"{what} can be read as {' or as '.join(names)}: its new values are the counterfactual ones (EasyEdit) or "
            "the true ones (ROME). Say which with load_facts(..., format=...)."
        )
    return names[0] if names else None


def read_json(path: Path, name: str | None = None) -> Entries:
    """A file of records: a JSON list, one record a line where it ends in ``.jsonl``, or DyKnow's tree.

    Args:
        path: the file.
        name: of the data set; by the first record where none is given.

    Raises:
        FactError: if the file cannot be read as text, or no data set has such records.
    """
    if path.suffix.lower() == ".jsonl":
        records, numbers, problems = json_lines(path)
        where = partial(_line_name, path.name, numbers)
    else:
        records, problems = _json_list(path)
        where = partial(_file_record_name, path.name)
    if not records:
        return Entries(problems=problems)
    name = name or the_format(records[0], path.name)
    if name is None:
        raise FactError(
            f"{path.name} holds records of no known data set. Say which with format=...: {', '.join(DATA_SETS)}; a "
            "file of your own facts ends in .jsonl or .csv."
        )
    read = DATA_SETS[name].read(records, where)
    return Entries(read.entries, [*problems, *read.problems], read.left_out)


def from_records(records: Sequence[Any], name: str) -> Entries:
    """Records of a data set that are in memory."""
    return DATA_SETS[name].read(records, record_name)


def _json_list(path: Path) -> tuple[list[Any], list[str]]:
    """The records of a JSON file, or why it has none."""
    try:
        value = json_value(file_text(path))
    except ValueError as error:
        if isinstance(error, FactError):
            raise
        return [], [f"{path.name} is not JSON ({error}). Give the file as it is published."]
    if dyknow.is_tree(value):
        return list(dyknow.records_of(value)), []
    if not isinstance(value, list):
        return [], [f"{path.name} does not hold a list of records. Give the file as it is published."]
    return value, []


def _file_record_name(file: str, number: int) -> str:
    return f"Record {number} of {file}"


def _line_name(file: str, numbers: Sequence[int], number: int) -> str:
    return f"Line {numbers[number - 1]} of {file}"
