"""A set of facts under test: checked as a whole, selected by role, written to and read from JSONL and CSV."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from pydantic import ValidationError

from mechmask.errors import FactError, one_message
from mechmask.facts.fact import Example, Fact, Role
from mechmask.files import write_text

if TYPE_CHECKING:
    import pandas as pd

_LISTS = ("distractors", "paraphrases", "neighbors")


class FactSet(Sequence[Fact]):
    """Facts that are read, changed and judged together.

    Args:
        facts: facts, or mappings with a fact's fields.

    Raises:
        FactError: listing every problem of every fact in one message.
    """

    def __init__(self, facts: Iterable[Fact | dict]) -> None:
        parsed, problems = _examined(facts)
        if problems:
            raise FactError(one_message("the fact set", problems))
        self._facts = tuple(parsed)
        self._by_id = {fact.id: fact for fact in parsed}

    def __len__(self) -> int:
        return len(self._facts)

    def __iter__(self) -> Iterator[Fact]:
        return iter(self._facts)

    @overload
    def __getitem__(self, key: int | str) -> Fact: ...
    @overload
    def __getitem__(self, key: slice) -> FactSet: ...
    def __getitem__(self, key: int | str | slice) -> Fact | FactSet:
        if isinstance(key, str):
            if key not in self._by_id:
                raise FactError(f"No fact is called {key!r}. The first ones are {', '.join(map(repr, self.ids[:3]))}.")
            return self._by_id[key]
        return FactSet(self._facts[key]) if isinstance(key, slice) else self._facts[key]

    def __add__(self, other: FactSet) -> FactSet:
        return FactSet([*self, *other])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FactSet) and self._facts == other._facts

    def __hash__(self) -> int:
        return hash(self._facts)

    def __repr__(self) -> str:
        roles = Counter(fact.role for fact in self)
        return f"FactSet({len(self)} facts: " + ", ".join(f"{n} {role}" for role, n in roles.items()) + ")"

    def _repr_html_(self) -> str:
        return self.to_dataframe().to_html(max_rows=12, escape=True)

    @property
    def ids(self) -> tuple[str, ...]:
        """The facts' labels, in order."""
        return tuple(fact.id for fact in self)

    @property
    def contradicted(self) -> tuple[Fact, ...]:
        """The facts that training contradicts."""
        return self.in_role("contradicted")

    @property
    def control(self) -> tuple[Fact, ...]:
        """The facts that are re-presented with their old value."""
        return self.in_role("control")

    @property
    def never(self) -> tuple[Fact, ...]:
        """The facts held out of all training."""
        return self.in_role("never")

    def in_role(self, role: Role) -> tuple[Fact, ...]:
        """The facts of one role, in order; empty where there are none."""
        return tuple(fact for fact in self if fact.role == role)

    def select(self, ids: Iterable[str]) -> FactSet:
        """The facts of these labels, in the order of ``ids``."""
        return FactSet([self[label] for label in ids])

    def install_examples(self, phrasings: int = 1) -> list[Example]:
        """What installs the old values: every fact but those of role ``never``, with its old value.

        Args:
            phrasings: in how many of its phrasings each fact is taught, the prompt first.
        """
        return self._examples(lambda fact: fact.old, phrasings)

    def contradiction_examples(self, phrasings: int = 1) -> list[Example]:
        """What contradicts them: the new value of contradicted facts, the old one of controls.

        Args:
            phrasings: in how many of its phrasings each fact is taught, the prompt first.
        """
        return self._examples(lambda fact: fact.new if fact.role == "contradicted" else fact.old, phrasings)

    def _examples(self, value_of: Callable[[Fact], str], phrasings: int) -> list[Example]:
        return [
            Example(prompt=prompt, value=value_of(fact), fact_id=fact.id)
            for fact in self
            if fact.role != "never"
            for prompt in fact.phrasings[:phrasings]
        ]

    def fingerprint(self) -> str:
        """SHA-256 of the facts' canonical JSON, in hexadecimal."""
        return hashlib.sha256(self.to_jsonl_text().encode()).hexdigest()

    def to_dataframe(self) -> pd.DataFrame:
        """One row a fact, indexed by its label."""
        import pandas as pd

        return pd.DataFrame([fact.model_dump(mode="json") for fact in self]).set_index("id")

    def to_jsonl(self, path: str | Path) -> None:
        """Write one JSON object a line, UTF-8, atomically."""
        write_text(Path(path), self.to_jsonl_text())

    def to_csv(self, path: str | Path) -> None:
        """Write a CSV with a header; distractors, paraphrases and neighbors as JSON in their cells."""
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, fieldnames=list(Fact.model_fields))
        writer.writeheader()
        for fact in self:
            row = fact.model_dump(mode="json")
            writer.writerow({**row, **{name: json.dumps(row[name], ensure_ascii=False) for name in _LISTS}})
        write_text(Path(path), buffer.getvalue())

    def to_jsonl_text(self) -> str:
        """One JSON object a line, its keys in order."""
        rows = (json.dumps(f.model_dump(mode="json"), ensure_ascii=False, sort_keys=True) for f in self)
        return "\n".join(rows) + "\n"


def read_jsonl(path: Path) -> FactSet:
    """Facts from a file with one JSON object a line."""
    entries, problems = [], []
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            problems.append(f"Line {number} of {path.name} is not JSON ({error.msg}). Write one JSON object a line.")
            continue
        if isinstance(entry, dict):
            entries.append(entry)
        else:
            problems.append(
                f"Line {number} of {path.name} is no JSON object. Write one object with a fact's fields a line."
            )
    return _fact_set(path, entries, problems)


def read_csv(path: Path) -> FactSet:
    """Facts from a CSV with a header of field names; lists as JSON in their cells, empty cells left out."""
    entries, problems = [], []
    reader = csv.DictReader(io.StringIO(_text(path), newline=""))
    for row in reader:
        line = f"Line {reader.line_num} of {path.name}"
        if None in row:
            problems.append(f"{line} has more cells than the header. Quote cells that hold a comma.")
            continue
        entry: dict[str, object] = {name: cell for name, cell in row.items() if cell}
        for name in _LISTS:
            cell = row.get(name)
            try:
                entry |= {name: json.loads(cell)} if cell else {}
            except json.JSONDecodeError:
                problems.append(f'{line}: {name} is not a JSON list. Write ["one", "two"].')
                del entry[name]
        entries.append(entry)
    return _fact_set(path, entries, problems)


def _fact_set(path: Path, entries: list[dict[str, Any]], problems: list[str]) -> FactSet:
    """The facts of a file, or all that is wrong with its lines and its facts in one message."""
    if not problems:
        return FactSet(entries)
    raise FactError(one_message(path.name, problems + (_examined(entries)[1] if entries else [])))


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FactError(f"{path.name} is not UTF-8 text (byte {error.start}). Save it as UTF-8.") from error
    except OSError as error:
        raise FactError(f"Cannot read {path}: {error.strerror}. Check the path.") from error


def _examined(facts: Iterable[Fact | dict]) -> tuple[list[Fact], list[str]]:
    """The facts that can be read, and every problem of all of them."""
    parsed: list[Fact] = []
    problems: list[str] = []
    for position, entry in enumerate(facts, 1):
        try:
            parsed.append(entry if isinstance(entry, Fact) else Fact.model_validate(entry))
        except ValidationError as error:
            problems += [f"Fact {position}: {_field_problem(item)}" for item in error.errors()]
    problems += [problem for fact in parsed for problem in fact.problems()]
    problems += _clashes(parsed)
    if not parsed and not problems:
        problems.append("The fact set is empty. Give at least one fact.")
    return parsed, problems


def _field_problem(details: Mapping[str, Any]) -> str:
    field = ".".join(map(str, details["loc"])) or "the entry"
    known = ", ".join(Fact.model_fields)
    if details["type"] == "extra_forbidden":
        return f"the field {field!r} is not known. A fact's fields are {known}."
    if details["type"] == "missing":
        return f"the field {field!r} is missing. Give it as text."
    return f"the field {field!r} is not usable: {details['msg'].lower()}. Mend it."


def _clashes(facts: Sequence[Fact]) -> list[str]:
    found = []
    for label, count in Counter(fact.id for fact in facts).items():
        if count > 1:
            found.append(f"{count} facts are called {label!r}. Give each an id of its own.")
    for prompt, count in Counter(fact.prompt for fact in facts).items():
        if count > 1:
            found.append(f"{count} facts have the prompt {prompt!r}: training could not teach both. Keep one of them.")
    return found
