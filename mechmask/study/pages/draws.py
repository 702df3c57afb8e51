"""The page of several draws of one protocol: pooled with the draw as cluster where that can be, else draw by draw."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import pandas as pd
import xarray as xr

from mechmask.draw.page.content import Block, Document, FactRow, Section, Sheet
from mechmask.measure.names import state_name
from mechmask.measure.surprise import surprise_and_margin
from mechmask.study.draws import DrawnResults
from mechmask.study.pages.exhibit import Exhibit, counted, with_intervals
from mechmask.study.pages.exhibits import exhibits_of
from mechmask.study.pages.fact_rows import fact_section, list_section
from mechmask.study.pages.origin import closing
from mechmask.study.pages.study import fact_outcomes, notice_of, results_there, title_of
from mechmask.study.pages.words import COLUMNS
from mechmask.study.results import StudyResults
from mechmask.study.status import unfinished

_SURPRISE = "results/surprise"
OVERVIEW_COLUMNS = (
    "n",
    "index",
    "index_low",
    "index_high",
    "normalised",
    "normalised_low",
    "normalised_high",
    "verdict",
    "reason",
)


def draws_page(results: DrawnResults) -> Document:
    """The page of draws.

    Args:
        results: of them.

    Raises:
        StudyError: if something is damaged, or a result that is to be shown lacks in a draw.
    """
    first = next(iter(results))
    n = len(results.studies)
    missing = [f"{name}: {step}" for name, one in results.studies.items() for step in unfinished(one.directory)]
    return Document(
        f"{title_of(first.protocol, results.model_name)}, {n} draws",
        [
            f"{n} draws of facts or seeds of training, each a study of its own. Facts of one draw were trained "
            "together, so "
            "that means take each draw as one observation.",
            *said_of(results),
        ],
        [*drawn_sections(results), list_section(fact_rows(results.studies)), *ending(results.studies, "draw ")],
        notice_of(missing),
    )


def said_of(results: DrawnResults) -> list[str]:
    """What became of the facts of all draws, where the protocol judges them.

    Args:
        results: of the draws.
    """
    return [results.conclusion()] if "results/erase" in _shared(results) else []


def drawn_sections(results: DrawnResults, level: int = 2) -> list[Section]:
    """Every figure and table of draws.

    Args:
        results: of them.
        level: of the headings.
    """
    first, shared = next(iter(results)), _shared(results)

    @cache  # several exhibits show one result
    def read(name: str) -> xr.Dataset:
        return surprise_and_margin(results.erase) if name == _SURPRISE else results.reading(name)

    sections = []
    for exhibit in exhibits_of(first.protocol or "", shared):
        pools = (
            exhibit.pools and len(results.studies) > 1 and (exhibit.needs != (_SURPRISE,) or "results/erase" in shared)
        )
        sections.append(exhibit.section(read, level) if pools else _draw_by_draw(exhibit, results, level))
    if "results/erase" in shared and len(results.studies) > 1:
        sections.append(_by_draw(results, level))
    return sections


def fact_rows(studies: Mapping[str, StudyResults], part: str = "") -> list[FactRow]:
    """The facts of every study, each named by its study.

    Args:
        studies: such as draws, by name.
        part: what stands before the name.
    """
    rows = []
    for name, study in studies.items():
        section = fact_section(
            study.facts,
            fact_outcomes(study, results_there(study, unfinished(study.directory))),
            {fact: f"{part}{name}/{fact}" for fact in study.facts.ids},
        )
        rows += section.blocks[0].rows  # pyright: ignore[reportAttributeAccessIssue]
    return rows


def _shared(results: DrawnResults) -> list[str]:
    """The results that every draw has."""
    each = [results_there(study, unfinished(study.directory)) for study in results]
    return [name for name in each[0] if all(name in names for names in each)]


def _draw_by_draw(exhibit: Exhibit, results: DrawnResults, level: int) -> Section:
    """The exhibit of the first draw, and its table for all of them."""
    (name, first), *others = results.studies.items()
    alone = exhibit.section(first.reading, level)
    if not others:
        return alone
    blocks: list[Block] = list(alone.blocks)
    if exhibit.table is not None:
        make = exhibit.table
        tables = {key: make(*(one.reading(need) for need in exhibit.needs)) for key, one in results.studies.items()}
        table = with_intervals(pd.concat(tables, names=["draw"]))
        blocks = [block for block in blocks if not isinstance(block, Sheet)]
        if len(table):
            blocks.append(
                Sheet(
                    f"Each of the {len(tables)} draws alone. {exhibit.lists} ({counted(table)}; intervals in "
                    "brackets).",
                    table,
                    exhibit.names,
                )
            )
    return Section(f"{exhibit.heading} (draw {name})", blocks, level)


def _by_draw(results: DrawnResults, level: int) -> Section:
    table = results.by_draw().loc[:, list(OVERVIEW_COLUMNS)].rename(index=state_name)
    said = f"Each of the {len(results.studies)} draws alone, a row a change; n facts each, EI* with its 90% interval."
    return Section("Draw by draw", [Sheet(said, table, COLUMNS)], level)


def ending(studies: Mapping[str, StudyResults], what: str = "") -> list[Section]:
    """That of the first study, which says how each of them is run.

    Args:
        studies: such as draws, by name.
        what: stands before the name, such as "draw ".
    """
    first = next(iter(studies))
    heading = {
        "Where it comes from": f"Where {what}{first} comes from",
        "How to run it again": f"How to run {what}{first} again",
    }
    return [
        Section(heading.get(section.heading, section.heading), section.blocks, section.level)
        for section in closing(studies[first])
    ]
