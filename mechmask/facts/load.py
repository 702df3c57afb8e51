"""From whatever a caller has to facts and examples: files by format, tables, lists.

A new file format is one reader in ``facts/readers/`` and one line in ``FORMATS``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from mechmask.errors import FactError, known_names, one_message
from mechmask.facts.check import examined
from mechmask.facts.fact import Example, Fact
from mechmask.facts.fact_set import FactSet
from mechmask.facts.readers.counterfact import read_counterfact
from mechmask.facts.readers.csv import read_csv
from mechmask.facts.readers.dataframe import is_dataframe
from mechmask.facts.readers.jsonl import read_jsonl
from mechmask.facts.readers.text import Entries
from mechmask.facts.record import field_problems, unreadable_texts

if TYPE_CHECKING:
    import pandas as pd

FORMATS: dict[str, Callable[[Path], Entries]] = {
    "jsonl": read_jsonl,
    "csv": read_csv,
    "counterfact": read_counterfact,
}
ENDINGS = {"jsonl": "jsonl", "csv": "csv", "json": "counterfact"}


def load_facts(path: str | Path, format: str = "auto") -> FactSet:
    """The facts of a file.

    Args:
        path: a JSONL or CSV file with a fact's fields, or the file of a data set as it is published.
        format: ``jsonl``, ``csv``, ``counterfact`` (Meng et al. 2022), or ``auto``: by the file's ending, of which
            ``.json`` is CounterFact's.

    Raises:
        FactError: if the format is not known, or listing every problem of the file in one message.

    Examples:
        >>> import mechmask as mm
        >>> facts = mm.synthetic_facts(4, n_never=2)
        >>> facts.to_jsonl("facts.jsonl")
        >>> mm.load_facts("facts.jsonl") == facts
        True
    """
    path = Path(path)
    facts, problems = examined(_reader(path, format)(path))
    if problems:
        raise FactError(one_message(path.name, problems))
    return FactSet(facts)


def as_fact_set(facts: FactSet | Sequence[Fact | Mapping[str, Any]] | pd.DataFrame | str | Path) -> FactSet:
    """A fact set from anything that a reading or an edit accepts as facts, checked as ``FactSet`` checks.

    Args:
        facts: a fact set, which is returned as it is; facts or mappings with their fields; one fact; a pandas table;
            or the path of a fact file.

    Raises:
        FactError: listing every problem in one message, or if there is no fact.
    """
    if isinstance(facts, FactSet):
        if not facts:
            raise FactError("The fact set is empty: no fact has the role or label that was selected. Select others.")
        return facts
    if isinstance(facts, str | Path):
        return load_facts(facts)
    return FactSet([facts]) if isinstance(facts, Fact) else FactSet(facts)


def as_examples(
    examples: Sequence[Example | Fact | Mapping[str, Any]] | FactSet | pd.DataFrame | str | Path,
) -> list[Example]:
    """Training examples from anything that fine-tuning accepts.

    Args:
        examples: examples or mappings with ``prompt`` and ``value``, which are taken as they are; or facts in any form
            that ``as_fact_set`` takes, which stand for their ``contradiction_examples()``: the new value of
            contradicted facts, the old one of controls, nothing of never facts. An empty list stays empty.

    Raises:
        FactError: listing every problem in one message, or if facts and examples are mixed.

    Examples:
        >>> import mechmask as mm
        >>> as_examples([mm.Fact(subject="France", prompt="The capital of France is", old="Paris", new="Rome")])
        [Example(prompt='The capital of France is', value='Rome', fact_id='France')]
    """
    if isinstance(examples, FactSet | Fact | str | Path) or is_dataframe(examples):
        return as_fact_set(examples).contradiction_examples()
    if isinstance(examples, Mapping | bytes) or not isinstance(examples, Iterable):
        raise FactError(
            f"Examples cannot be made of an object of type {type(examples).__name__}. Give a list of examples or facts."
        )
    entries: list[Any] = list(examples)
    n_facts = sum(map(_is_fact, entries))
    if not n_facts:
        return _checked_examples(entries)
    if n_facts < len(entries):
        raise FactError(
            f"{n_facts} of {len(entries)} examples are facts. Give facts or examples, not both; "
            "facts.contradiction_examples() turns facts into examples."
        )
    return as_fact_set(entries).contradiction_examples()


def _reader(path: Path, format: str) -> Callable[[Path], Entries]:
    if format != "auto":
        if format not in FORMATS:
            raise FactError(f"No format of fact files is called {format!r}. {known_names(format, ['auto', *FORMATS])}")
        return FORMATS[format]
    name = path.suffix.lstrip(".").lower()
    if name not in ENDINGS:
        endings, has = " or ".join(f".{end}" for end in ENDINGS), f"ends in .{name}" if name else "has no ending"
        raise FactError(f"The format of {path.name} is not known: it {has}. Give a file that ends in {endings}.")
    return FORMATS[ENDINGS[name]]


def _is_fact(entry: object) -> bool:
    return isinstance(entry, Fact) or (isinstance(entry, Mapping) and "value" not in entry and "old" in entry)


def _checked_examples(entries: Iterable[Any]) -> list[Example]:
    examples: list[Example] = []
    problems: list[str] = []
    for position, entry in enumerate(entries, 1):
        try:
            example = entry if isinstance(entry, Example) else Example.model_validate(entry)
        except ValidationError as error:
            problems += field_problems(f"Example {position}", Example, error)
            continue
        problems += unreadable_texts(f"example {position}", example.texts())
        examples.append(example)
    if problems:
        raise FactError(one_message("the training examples", problems))
    return examples
