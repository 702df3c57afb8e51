"""The page of a sweep: its cells beside each other, which study is what, and the facts of all of them."""

from __future__ import annotations

from mechmask import draw
from mechmask.draw.page.content import Document, Plate, Section, Sheet
from mechmask.draw.style import percent
from mechmask.measure.names import state_name
from mechmask.study.pages.draws import OVERVIEW_COLUMNS, ending, fact_rows
from mechmask.study.pages.exhibit import counted
from mechmask.study.pages.fact_rows import list_section
from mechmask.study.pages.words import COLUMNS
from mechmask.study.sweep_results import SweepResults


def sweep_page(results: SweepResults) -> Document:
    """The page of a sweep.

    Args:
        results: of it.

    Raises:
        StudyError: if something is damaged, or its protocol judges no facts.
    """
    n, gathered = len(results.studies), results.gathered
    overview = results.overview().loc[:, list(OVERVIEW_COLUMNS)].rename(index=state_name, level="state")
    said = (
        f"Each cell of {' x '.join(results.between) or 'draws and seeds'}, {counted(overview)} facts, with the "
        f"{percent(gathered.attrs['interval_level'])} interval of EI*; a draw of facts is one observation."
    )
    shows = f"A row for each cell and change: EI* by verdict, and verdicts on single facts. {said}"
    cells = [
        Plate(said, shows, lambda: draw.sweep(gathered)),
        Sheet(f"The same, a row a cell and change ({counted(overview)}; intervals in brackets).", overview, COLUMNS),
    ]
    listed = Sheet(f"The {n} studies that are finished, each in a directory of its own (n = {n}).", results.labels())
    return Document(
        f"A sweep of {n} studies: {' x '.join(results.axes)}",
        [results.conclusion()],
        [
            Section("What was found where", cells),
            Section("Which study is what", [listed]),
            list_section(fact_rows(results.studies)),
            *ending(results.studies),
        ],
        _notice(results.missing),
    )


def _notice(missing: list[str]) -> str:
    if not missing:
        return ""
    shown = ", ".join([*missing[:8], *([f"and {len(missing) - 8} more"] if len(missing) > 8 else [])])
    return f"{len(missing)} studies of this sweep are not finished ({shown}). Run it again with the same directory."
