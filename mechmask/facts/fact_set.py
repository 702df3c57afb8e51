"""A set of facts under test: checked as a whole, selected by role, turned into training examples, written to files."""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, overload

from mechmask.errors import FactError, known_names
from mechmask.facts.check import checked
from mechmask.facts.fact import Example, Fact, Role
from mechmask.facts.message import Message
from mechmask.facts.readers.csv import LIST_FIELDS
from mechmask.facts.readers.memory import read_memory
from mechmask.facts.saved import card_of, save_facts
from mechmask.files import write_text
from mechmask.hub import push
from mechmask.notebook import card, cut, table

if TYPE_CHECKING:
    import pandas as pd
    from datasets import Dataset as HubDataset

_EVERY_TABLE = "stands_for"  # a column of every table, though it is one of the newer fields


class FactSet(Sequence[Fact]):
    """Facts that are read, changed and judged together.

    Only a selection, such as ``facts.never`` or a slice, can be empty; it is falsy then.

    Args:
        facts: facts, mappings with a fact's fields, tuples ``(subject, prompt, old, new)``, or a pandas table or
            ``datasets.Dataset`` with one row per fact, as ``to_dataframe`` gives it: its ``id`` as index or column,
            missing cells left out. Rows may also be the records of a published data set, such as CounterFact's.

    Raises:
        FactError: listing every problem of every fact in one message, or if there is no fact.

    Examples:
        >>> import mechmask as mm
        >>> paris = mm.Fact(subject="France", prompt="The capital of France is", old="Paris", new="Rome")
        >>> facts = mm.FactSet([paris])
        >>> facts["France"].values
        {'old': 'Paris', 'new': 'Rome'}
        >>> facts.control
        FactSet(0 facts)
        >>> mm.FactSet(facts.to_dataframe()) == facts
        True
    """

    def __init__(self, facts: Iterable[Fact | Mapping[str, Any]] | pd.DataFrame | HubDataset) -> None:
        self._facts = tuple(checked(read_memory(facts), "the fact set"))
        self._by_id = {fact.id: fact for fact in self._facts}

    @classmethod
    def _selection(cls, facts: Iterable[Fact]) -> FactSet:
        """Some facts of sets that have been checked; perhaps none."""
        chosen = cls.__new__(cls)
        chosen._facts = tuple(facts)
        chosen._by_id = {fact.id: fact for fact in chosen._facts}
        return chosen

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
                raise FactError(self._no_fact_called(key))
            return self._by_id[key]
        return self._selection(self._facts[key]) if isinstance(key, slice) else self._facts[key]

    def __add__(self, other: Iterable[Fact]) -> FactSet:
        together = (*self, *other)
        return FactSet(together) if together else self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FactSet | tuple) and self._facts == tuple(other)

    def __hash__(self) -> int:
        return hash(self._facts)

    def __dir__(self) -> list[str]:
        return sorted(name for name in dir(type(self)) if not name.startswith("_"))

    def __repr__(self) -> str:
        roles = Counter(fact.role for fact in self)
        counts = ", ".join(f"{n} {role}" for role, n in roles.items())
        return f"FactSet({len(self)} facts{': ' * bool(counts)}{counts})"

    def _repr_html_(self) -> str:
        header = ("fact", "prompt", "old", "new", "role", "distractors", "phrasings")
        rows = [
            (cut(f.id), cut(f.prompt), cut(f.old), cut(f.new), f.role, str(len(f.distractors)), str(len(f.phrasings)))
            for f in self
        ]
        return card(repr(self), {}, table(header, rows, [name in header[-2:] for name in header]))

    @property
    def ids(self) -> tuple[str, ...]:
        """The facts' labels, in order."""
        return tuple(fact.id for fact in self)

    @property
    def contradicted(self) -> FactSet:
        """The facts that training contradicts; perhaps none."""
        return self.in_role("contradicted")

    @property
    def control(self) -> FactSet:
        """The facts that are re-presented with their old value; perhaps none."""
        return self.in_role("control")

    @property
    def never(self) -> FactSet:
        """The facts held out of all training; perhaps none."""
        return self.in_role("never")

    def in_role(self, role: Role) -> FactSet:
        """The facts of one role, in order; an empty selection if there are none.

        Args:
            role: ``contradicted``, ``control`` or ``never``.

        Raises:
            FactError: if the role is not known.
        """
        if role not in get_args(Role):
            raise FactError(f"No role is called {role!r}. {known_names(str(role), get_args(Role))}")
        return self._selection(fact for fact in self if fact.role == role)

    def select(self, ids: Iterable[str]) -> FactSet:
        """The facts with these labels, in the order of ``ids``.

        Args:
            ids: labels of the facts.

        Raises:
            FactError: if there is no such fact, a label comes twice, or no label is given.
        """
        return FactSet([self[label] for label in ids])

    def in_chat(self) -> FactSet:
        """The facts as questions to an assistant: each prompt is what the user says in the tokenizer's chat template.

        The value then stands where the assistant begins. A fact that has messages keeps them.
        """
        asked = (Message(role="user", content=""),)
        return self._selection(
            fact
            if fact.messages
            else fact.model_copy(update={"messages": asked, "joiner": " "}).asked(fact.prompt, fact.paraphrases)
            for fact in self
        )

    def as_plain(self) -> FactSet:
        """The facts as plain text: prompts without the messages, where a fact has some."""
        return self._selection(fact.model_copy(update={"messages": ()}) if fact.messages else fact for fact in self)

    def install_examples(self, phrasings: int = 1) -> list[Example]:
        """Examples that install the old values: every fact but those of role ``never``, with its old value.

        Args:
            phrasings: how many of its phrasings each fact is taught in, the prompt first.
        """
        return self._examples(lambda fact: fact.old, phrasings)

    def contradiction_examples(self, phrasings: int = 1) -> list[Example]:
        """Examples that contradict the old values: new for contradicted facts, old for controls, none of never facts.

        Args:
            phrasings: how many of its phrasings each fact is taught in, the prompt first.
        """
        return self._examples(lambda fact: fact.new if fact.role == "contradicted" else fact.old, phrasings)

    def _examples(self, value_of: Callable[[Fact], str], phrasings: int) -> list[Example]:
        return [
            fact.example(prompt, value_of(fact))
            for fact in self
            if fact.role != "never"
            for prompt in fact.phrasings[:phrasings]
        ]

    def fingerprint(self) -> str:
        """SHA-256 of the facts' canonical JSON, in hexadecimal."""
        return hashlib.sha256(self.to_jsonl_text().encode()).hexdigest()

    def to_dataframe(self) -> pd.DataFrame:
        """One row per fact, indexed by its label; ``FactSet`` takes it back."""
        import pandas as pd

        rows = [fact.model_dump(mode="json") for fact in self]
        return pd.DataFrame(rows, columns=self._columns()).set_index("id")

    def to_jsonl(self, path: str | Path) -> None:
        """Write one JSON object per line, UTF-8, atomically.

        Args:
            path: the file; one that is there is replaced.

        Raises:
            FileError: if the file cannot be written.
        """
        write_text(Path(path), self.to_jsonl_text())

    def to_csv(self, path: str | Path) -> None:
        """Write a CSV with a header; lists such as distractors, and joiners, as JSON in their cells.

        Args:
            path: the file; one that is there is replaced.

        Raises:
            FileError: if the file cannot be written.
        """
        buffer = io.StringIO()
        columns = self._columns()
        writer = csv.DictWriter(buffer, fieldnames=columns, extrasaction="ignore")
        writer.writeheader()
        for fact in self:
            row = fact.model_dump(mode="json")
            lists = {name: json.dumps(row[name], ensure_ascii=False) for name in (*LIST_FIELDS, "joiner")}
            writer.writerow({**row, **lists})
        write_text(Path(path), buffer.getvalue())

    def push_to_hub(
        self,
        repo_id: str,
        *,
        license: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        commit_message: str | None = None,
    ) -> str:
        """Save the facts as a data set on the Hugging Face Hub, with a card; ``load_facts`` and ``datasets`` read it.

        Args:
            repo_id: ``owner/name``; made if it is not there. Facts that mechmask saved there before are replaced.
            license: of the facts, as the Hub names it.
            revision: a branch, made if it is not there; the main one by default.
            private: whether a new repository is; the owner's default otherwise.
            token: of the Hub; the one that is logged in by default.
            commit_message: of the commit.

        Returns:
            The commit's hash, which ``load_facts`` takes as ``revision``.

        Raises:
            FactError: if the Hub refuses, the repository holds something else, or there is no fact.
            FileError: if there is no room to save them first.
        """
        return push(
            lambda directory: save_facts(self, directory),
            card_of(self, repo_id, license),
            repo_id,
            repo_type="dataset",
            refusal=FactError,
            revision=revision,
            private=private,
            token=token,
            commit_message=commit_message,
        )

    def _columns(self) -> list[str]:
        """A fact's fields, without newer ones that no fact of the set has."""
        optional = set(Fact.newer_fields()) - {_EVERY_TABLE}
        fields = Fact.model_fields.items()
        return [n for n, of in fields if n not in optional or any(getattr(f, n) != of.default for f in self)]

    def to_jsonl_text(self) -> str:
        """One JSON object per line, its keys in order; without whom it stands for and prompts of metrics, if empty."""
        rows = (json.dumps(fact.written(), ensure_ascii=False, sort_keys=True) for fact in self)
        return "\n".join(rows) + "\n"

    def _no_fact_called(self, label: str) -> str:
        if not self:
            return f"No fact is called {label!r}: this selection is empty. Ask the whole fact set."
        near = difflib.get_close_matches(label, self.ids, n=1)
        shown = f"Did you mean {near[0]!r}?" if near else f"The first ones are {', '.join(map(repr, self.ids[:3]))}."
        return f"No fact is called {label!r}. {shown}"
