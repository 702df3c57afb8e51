"""What a report page holds: sections of sentences, figures, tables and facts, as plain labelled values.

Every figure and every table has a sentence that says what it shows, with interval and n. Text is text: whatever it
holds, the page shows it as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

import pandas as pd
import xarray as xr
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Paragraph:
    """A paragraph.

    Attributes:
        text: plain.
    """

    text: str


@dataclass(frozen=True)
class Plate:
    """A figure.

    Attributes:
        sentence: what it shows, with interval and n; stands below it.
        shows: what is drawn, for a reader who does not see it.
        make: draws it.
    """

    sentence: str
    shows: str
    make: Callable[[], Figure]


@dataclass(frozen=True)
class Explorer:
    """A view to pick facts and layers in, which ``mechmask.draw.interactive.contest_view_html`` makes.

    Attributes:
        sentence: what it shows, with n; stands below it.
        reading: as ``contest_view_html`` takes it, log-probabilities in nats.
    """

    sentence: str
    reading: xr.Dataset


@dataclass(frozen=True)
class Sheet:
    """A table.

    Attributes:
        sentence: what it shows, with interval and n; stands above it.
        table: as ``markdown_table`` takes it: ``name``, ``name_low`` and ``name_high`` become one cell.
        names: what columns are called on the page, where it is not their own name.
        digits: after the decimal point.
    """

    sentence: str
    table: pd.DataFrame
    names: Mapping[str, str] = field(default_factory=dict)
    digits: int = 2


class Outcome(NamedTuple):
    """What became of a fact in one place.

    Attributes:
        where: under which change, such as "driven on".
        verdict: ``masked``, ``erased``, ``suppressed`` or ``undecided``; empty where none falls.
        numbers: in words, with intervals and units.
    """

    where: str
    verdict: str
    numbers: str


class FactRow(NamedTuple):
    """A fact as the page lists it.

    Attributes:
        name: its label.
        role: contradicted, control or never.
        prompt: which ends just before the value.
        old: the old value.
        new: the new one.
        outcomes: what became of it.
    """

    name: str
    role: str
    prompt: str
    old: str
    new: str
    outcomes: Sequence[Outcome] = ()


@dataclass(frozen=True)
class FactList:
    """Facts to browse: a table that is searched and filtered where the page may run its script.

    Attributes:
        sentence: what it lists; stands above it.
        rows: the facts.
    """

    sentence: str
    rows: Sequence[FactRow]


@dataclass(frozen=True)
class Code:
    """Text to be copied, or saved as a file.

    Attributes:
        sentence: what it is for.
        text: the text.
        file: the name under which it can be saved; empty for none.
        folded: whether it is shown only when asked for.
    """

    sentence: str
    text: str
    file: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Terms:
    """Names and what they stand for, such as versions.

    Attributes:
        pairs: in order.
    """

    pairs: Mapping[str, str]


Block: TypeAlias = Paragraph | Plate | Explorer | Sheet | FactList | Code | Terms


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        heading: of the section.
        blocks: what stands in it, in order.
        level: 2 for a section, 3 for one within it.
    """

    heading: str
    blocks: Sequence[Block]
    level: int = 2


@dataclass(frozen=True)
class Document:
    """A page.

    Attributes:
        title: what it is about.
        lead: paragraphs above all sections: what was found, and what is missing.
        sections: in order.
        notice: what a reader has to know before all else, such as that a study is unfinished; empty for nothing.
    """

    title: str
    lead: Sequence[str]
    sections: Sequence[Section]
    notice: str = ""
