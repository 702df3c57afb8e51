"""An exhibit: a figure, a table, or both, of the same results, with the sentence that says what they show."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from mechmask.draw.page.content import Block, Plate, Section, Sheet
from mechmask.draw.style import percent
from mechmask.study.pages.words import COLUMNS, level_in


def with_intervals(table: pd.DataFrame) -> pd.DataFrame:
    """A table whose ``low`` and ``high`` are known as the ends of its first column, so that they share its cell.

    Args:
        table: as an overview gives it.
    """
    first = str(table.columns[0])
    return table.rename(columns={"low": f"{first}_low", "high": f"{first}_high"})


def counted(table: pd.DataFrame) -> str:
    """Of how many observations the rows of a table are, such as "n = 6" or "n = 2 to 6"; else how many rows there are.

    Args:
        table: with a column ``n``, or ``n_graded``, where it counts them.
    """
    counts = next((table[name] for name in ("n", "n_graded") if name in table), None)
    if counts is None:
        return f"n = {len(table)} rows"
    least, most = int(counts.min()), int(counts.max())
    return f"n = {least}" if least == most else f"n = {least} to {most}"


@dataclass(frozen=True)
class Exhibit:
    """A figure, a table, or both, of the same results.

    Attributes:
        heading: what it is about.
        needs: names of the results that it shows, which the functions below take in this order.
        say: what it shows, in a sentence with interval and n.
        figure: draws it, where there is a figure.
        shows: what is drawn, for a reader who does not see it.
        table: makes it, where there is a table; one without rows is left out.
        lists: what the table's rows and columns are.
        pools: whether results of several draws of facts, joined, can be shown as those of one.
    """

    heading: str
    needs: tuple[str, ...]
    say: Callable[..., str]
    figure: Callable[..., Figure] | None = None
    shows: str = ""
    table: Callable[..., pd.DataFrame] | None = None
    lists: str = ""
    pools: bool = True
    names: Mapping[str, str] = field(default_factory=lambda: COLUMNS)

    def section(self, read: Callable[[str], xr.Dataset], level: int = 2) -> Section:
        """It as a part of a page.

        Args:
            read: gives a result by its name.
            level: of the heading.
        """
        results = [read(name) for name in self.needs]
        blocks: list[Block] = []
        said = self.say(*results)
        if self.figure is not None:
            make = self.figure
            blocks.append(Plate(said, f"{self.shows} {said}", lambda: make(*results)))
        table = self.table(*results) if self.table is not None else None
        if table is not None and len(table):
            table = with_intervals(table)
            ends = f"intervals in brackets are {percent(level_in(results[0]))} where not said otherwise"
            told = f"{self.lists} ({counted(table)}; {ends})."
            blocks.append(Sheet(told if self.figure is not None else f"{said} {told}", table, self.names))
        return Section(self.heading, blocks, level)
