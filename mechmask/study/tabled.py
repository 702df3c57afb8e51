"""What every kind of results shares that holds tables: in a notebook, in Markdown and in LaTeX they look alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import pandas as pd

from mechmask.errors import MechmaskError, StudyError, known_names
from mechmask.measure.tables import html_table, latex_table, markdown_table
from mechmask.notebook import card, sentence

_SENTENCES = ["remedy", "why"]  # which no column of a printed page holds

Tables = Mapping[str, Callable[[], pd.DataFrame]]


class Tabled(ABC):
    """Results with tables by name; the first is the one that is printed unless another is asked for."""

    _in_notebook = "summary"

    @abstractmethod
    def tables(self) -> Tables:
        """Every table by its name, to be made when it is asked for."""

    def conclusion(self) -> str:
        """The outcome in words; empty where there is nothing to say."""
        return ""

    def to_latex(self, digits: int = 2, *, table: str | None = None) -> str:
        """A table in LaTeX (booktabs), rounded, remedies left out; all text is escaped, see ``latex_table``.

        Args:
            digits: after the decimal point.
            table: its name; the first of them by default, which is ``summary`` where there is one.

        Raises:
            StudyError: if there is no table of that name, which names those that there are, or the study does not have
                what it is made of.
        """
        return latex_table(self._printed(table), digits)

    def _repr_html_(self) -> str:
        """What it is, the outcome in words and the table that says most; where there is none yet, why."""
        try:
            said = self.conclusion()
            table = html_table(_without_sentences(self.tables()[self._in_notebook]()))
        except MechmaskError as error:
            return card(repr(self), {}, sentence(error))
        return card(repr(self), {}, *([sentence(said)] if said else []), table)

    def _printed(self, name: str | None) -> pd.DataFrame:
        tables = self.tables()
        chosen = next(iter(tables)) if name is None else name
        if chosen not in tables:
            raise StudyError(f"There is no table {chosen!r}. {known_names(chosen, tables)}")
        return _without_sentences(tables[chosen]())


class Results(Tabled):
    """Results of a study, of draws or of a paper's experiments: their tables are methods, with names of their own."""

    def to_markdown(self, digits: int = 2, *, table: str | None = None) -> str:
        """A table in Markdown, rounded, remedies left out; an interval shares the cell of its estimate.

        Args:
            digits: after the decimal point.
            table: its name, that of the method which gives it; ``summary`` by default.

        Raises:
            StudyError: if there is no table of that name, or the study does not have what it is made of.
        """
        return markdown_table(self._printed(table), digits)


def _without_sentences(table: pd.DataFrame) -> pd.DataFrame:
    return table.drop(columns=_SENTENCES, errors="ignore")
