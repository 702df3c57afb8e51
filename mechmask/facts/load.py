"""From whatever a caller has to facts and examples: files by format, tables, lists.

A new file format is one reader in ``facts/readers/`` and one line in ``FORMATS``; a new data set of records, which is
read wherever its records lie, one line in ``readers.published.DATA_SETS``.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from mechmask.errors import FactError, known_names, one_message
from mechmask.facts.check import checked
from mechmask.facts.fact import Example, Fact
from mechmask.facts.fact_set import FactSet
from mechmask.facts.readers.csv import read_csv
from mechmask.facts.readers.jsonl import read_jsonl
from mechmask.facts.readers.memory import is_table, read_memory
from mechmask.facts.readers.pararel import is_pararel, read_pararel
from mechmask.facts.readers.published import DATA_SETS, formats_of, read_json, the_format
from mechmask.facts.readers.text import Entries
from mechmask.facts.record import field_problems, unreadable_texts
from mechmask.facts.saved import facts_file, is_saved
from mechmask.hub import is_id, located

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset as HubDataset

FORMATS: dict[str, Callable[[Path], Entries]] = {
    "jsonl": read_jsonl,
    "csv": read_csv,
    "pararel": read_pararel,
    **{name: partial(read_json, name=name) for name in DATA_SETS},
}
_ENDINGS = ("jsonl", "csv", "json")


def load_facts(
    path: str | Path | Sequence[Mapping[str, Any]] | pd.DataFrame | HubDataset,
    format: str = "auto",
    *,
    revision: str | None = None,
    token: str | bool | None = None,
) -> FactSet:
    """The facts of a file, of the records of a data set, or of a repository on the Hugging Face Hub.

    Args:
        path: a JSONL or CSV file with a fact's fields; the file of a data set as it is published (JSON, or one record a
            line); the directory of ParaRel; the id ``owner/name`` of a repository that ``FactSet.push_to_hub`` made,
            where there is no such path; or records in memory: a list, a pandas table, a ``datasets.Dataset``.
        format: ``jsonl`` or ``csv`` for a file of your own facts; ``counterfact`` (Meng et al. 2022),
            ``zsre_counterfactual`` or ``zsre_true`` (Levy et al. 2017; edited towards the counterfactual, as in
            EasyEdit, or the true answer, as in ROME), ``known_1000`` (Meng et al. 2022), ``pararel`` (Elazar et al.
            2021), ``popqa`` (Mallen et al. 2023), ``hotpotqa`` (Yang et al. 2018), ``dyknow`` (Mousavi et al. 2024),
            ``tofu_entities`` (Maini et al. 2024), ``knowedit`` (Zhang et al. 2024); or ``auto``: by the file's ending
            and the keys of its first record.
        revision: branch, tag or commit on the Hub.
        token: of the Hub; the one that is logged in by default.

    Warns:
        UserWarning: if no facts can be made of some sound records of a published file, naming how many and why: their
            new value is a true one, say, or an earlier record has the same prompt. They are left out.

    Raises:
        FactError: if the format is not known or cannot be told, or listing every problem of the file in one message.

    Examples:
        >>> import mechmask as mm
        >>> facts = mm.synthetic_facts(4, n_never=2)
        >>> facts.to_jsonl("facts.jsonl")
        >>> mm.load_facts("facts.jsonl") == facts
        True
    """
    if format not in ("auto", *FORMATS):
        raise FactError(f"No format of fact files is called {format!r}. {known_names(format, ['auto', *FORMATS])}")
    if not isinstance(path, str | Path):
        if revision is not None:
            raise FactError("Records in memory have no revisions. Leave revision out.")
        return FactSet._selection(checked(read_memory(path, _of_records(format)), "the fact set"))
    path = _place(path, format, revision, token)
    if format == "auto" and is_saved(path):
        return _saved(path)
    with _collector_paused():
        return FactSet._selection(checked(_reader(path, format)(path), path.name))


def as_fact_set(
    facts: FactSet | Sequence[Fact | Mapping[str, Any]] | pd.DataFrame | HubDataset | str | Path,
) -> FactSet:
    """A fact set from anything that a reading or an edit accepts as facts, checked as ``FactSet`` checks.

    Args:
        facts: a fact set, which is returned as it is; facts or mappings with their fields; one fact; a pandas table or
            a ``datasets.Dataset``; records of a published data set in any of these; or the path of a fact file.

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
    examples: Sequence[Example | Fact | Mapping[str, Any]] | FactSet | pd.DataFrame | HubDataset | str | Path,
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
    if isinstance(examples, FactSet | Fact | str | Path) or is_table(examples):
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


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Keep Python's cyclic garbage collector from going over the facts again and again while they become more.

    Half of the time of 20,000 records of CounterFact went there; no fact holds a cycle.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _of_records(format: str) -> str | None:
    """The data set whose records are in memory; ``None`` where their keys tell."""
    if format == "auto":
        return None
    if format not in DATA_SETS:
        raise FactError(f"Records in memory have no format {format!r}. {known_names(format, ['auto', *DATA_SETS])}")
    return format


def _reader(path: Path, format: str) -> Callable[[Path], Entries]:
    if format != "auto":
        return FORMATS[format]
    ending = path.suffix.lstrip(".").lower()
    if is_pararel(path):
        return read_pararel
    if ending == "jsonl":
        return _read_lines
    if ending in _ENDINGS:
        return read_csv if ending == "csv" else read_json
    endings, has = " or ".join(f".{end}" for end in _ENDINGS), f"ends in .{ending}" if ending else "has no ending"
    raise FactError(
        f"The format of {path.name} is not known: it {has}. Give a file that ends in {endings}, the directory of "
        f"ParaRel, or say which format it has: {', '.join(FORMATS)}."
    )


def _read_lines(path: Path) -> Entries:
    """One object a line: own facts, or records of a data set."""
    read = read_jsonl(path)
    name = the_format(read.entries[0], path.name) if read.entries else None
    return read if name is None else read_json(path, name)


def _place(path: str | Path, format: str, revision: str | None, token: str | bool | None) -> Path:
    """The path, or where it names none but may name a repository, the snapshot of that."""
    names_a_file = format != "auto" or Path(path).suffix.lstrip(".").lower() in _ENDINGS
    if revision is None and (names_a_file or isinstance(path, Path) or not is_id(path)):
        return Path(path)
    return located(path, "facts", repo_type="dataset", refusal=FactError, revision=revision, token=token)


def _saved(directory: Path) -> FactSet:
    """Facts that ``FactSet.push_to_hub`` wrote, as they were."""
    path, fingerprint = facts_file(directory)
    facts = load_facts(path, "jsonl")
    if facts.fingerprint() != fingerprint:
        raise FactError(
            f"The facts in {directory} are not those of the fingerprint {fingerprint} that it names. Push them again."
        )
    return facts


def _is_fact(entry: object) -> bool:
    if not isinstance(entry, Mapping):
        return isinstance(entry, Fact)
    return "value" not in entry and ("old" in entry or bool(formats_of(entry)))


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
