"""Facts from one template and a table: a relation's prompt, and a row for each subject."""

from __future__ import annotations

import random
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mechmask.errors import FactError, one_message
from mechmask.facts.check import checked
from mechmask.facts.fact import Fact
from mechmask.facts.fact_set import FactSet
from mechmask.facts.readers.memory import is_table, read_rows
from mechmask.facts.readers.text import Entries

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset as HubDataset

_COLUMNS = ("subject", "old", "new")


def facts_from_template(
    template: str,
    table: pd.DataFrame | HubDataset | Iterable[Mapping[str, Any] | Sequence[str]],
    *,
    paraphrases: Sequence[str] = (),
    n_distractors: int = 0,
    seed: int = 0,
    **fields: Any,
) -> FactSet:
    """One fact for each row of a table, its prompt a template with the row's subject in it.

    Args:
        template: the prompt, such as ``The capital of {subject} is``; any column of the table may be named in braces,
            and ``{{`` stands for a brace.
        table: a pandas table, a ``datasets.Dataset``, or a list of mappings or of tuples ``(subject, old, new)``. Its
            columns are a fact's fields, and whatever a template names.
        paraphrases: templates of other prompts.
        n_distractors: values that each fact is given from the other rows' old values, beside those of its own.
        seed: draws those.
        fields: fields that all facts share, such as ``relation="capital"`` or ``joiner=""``.

    Raises:
        FactError: listing every problem of every row in one message: a column that a template names is not there, a
            fact is not sound, too few other values are there.

    Examples:
        >>> import mechmask as mm
        >>> table = [("France", "Paris", "Rome"), ("Spain", "Madrid", "Oslo"), ("Italy", "Rome", "Bern")]
        >>> facts = mm.facts_from_template("The capital of {subject} is", table, relation="capital", n_distractors=1)
        >>> facts["Spain/capital"].prompt
        'The capital of Spain is'
        >>> facts["Spain/capital"].distractors
        ('Paris',)
    """
    named = {text: _columns(text) for text in (template, *paraphrases)}
    if "subject" not in named[template]:
        raise FactError(f"The template {template!r} has no {{subject}}. Write it where the subject stands.")
    rows = read_rows(table) if is_table(table) else Entries([_row(row) for row in table])
    used = {column for columns in named.values() for column in columns}
    entries, problems = [], list(rows.problems)
    for number, row in enumerate(rows.entries, 1):
        if not isinstance(row, Mapping):
            problems.append(f"Row {number} is of type {type(row).__name__}. Give a mapping, or (subject, old, new).")
            continue
        lacking = sorted(column for column in used if not isinstance(row.get(column), str | int | float))
        if lacking:
            problems.append(f"Row {number} lacks {', '.join(map(repr, lacking))}, which a template names. Add it.")
            continue
        kept = {name: value for name, value in row.items() if name in Fact.model_fields or name not in used}
        prompts = [_filled(text, row) for text in (template, *paraphrases)]
        own = tuple(kept.pop("paraphrases", ()))
        entries.append({**fields, **kept, "prompt": prompts[0], "paraphrases": (*prompts[1:], *own)})
    facts = checked(Entries(entries, problems, rows.left_out), "the table")
    return FactSet(_with_distractors(facts, n_distractors, seed) if n_distractors else facts)


def _row(row: object) -> object:
    """A tuple ``(subject, old, new)`` as a mapping; anything else as it is."""
    if isinstance(row, list | tuple) and len(row) == len(_COLUMNS):
        return dict(zip(_COLUMNS, row, strict=True))
    return row


def _columns(template: str) -> set[str]:
    """The columns that a template names."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise FactError(f"The template {template!r} cannot be read: {error}. Write {{{{ for a brace.") from None
    fields = [(name, form, conversion) for _, name, form, conversion in parts if name is not None]
    for name, form, conversion in fields:
        if not name.isidentifier() or form or conversion:
            raise FactError(
                f"The template {template!r} has {{{name}}} with more than a column's name in it. Write the name alone, "
                "or {{ for a brace."
            )
    return {name for name, _, _ in fields}


def _filled(template: str, row: Mapping[str, Any]) -> str:
    return "".join(
        text + ("" if name is None else str(row[name])) for text, name, _, _ in string.Formatter().parse(template)
    )


def _with_distractors(facts: Sequence[Fact], n: int, seed: int) -> list[Fact]:
    """Each fact with ``n`` more distractors: old values of others that are none of its own."""
    values = dict.fromkeys(fact.old for fact in facts)
    made, problems = [], []
    for fact in facts:
        own = {one for spellings in fact.spellings.values() for one in spellings}
        others = [value for value in values if value not in own]
        if len(others) < n:
            problems.append(f"Fact {fact.id!r} can be given {len(others)} other values of the table. Ask for fewer.")
            continue
        drawn = random.Random(f"{seed}/{fact.id}").sample(others, n)
        made.append(fact.model_copy(update={"distractors": (*fact.distractors, *drawn)}))
    if problems:
        raise FactError(one_message("the distractors", problems))
    return made
