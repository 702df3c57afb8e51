"""The page of one study: what was found, its exhibits, its facts, and where all of it comes from.

Of a study that has not come to its end, what is there is shown and what is missing is named; one that has no result yet
is refused. What is damaged is refused as everywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from mechmask.draw.page.content import Document, Outcome, Section
from mechmask.errors import StudyError
from mechmask.measure.names import state_name
from mechmask.study.editing.results import EditResults
from mechmask.study.pages.editors import editor_sections
from mechmask.study.pages.exhibits import EXHIBITS, exhibits_of
from mechmask.study.pages.explorer import explorer_section
from mechmask.study.pages.fact_rows import NUMBERS, fact_section, numbers_of, outcomes_of
from mechmask.study.pages.origin import closing
from mechmask.study.pages.own import own_sections
from mechmask.study.results import StudyResults
from mechmask.study.status import unfinished

_DEPTH = "results/depth"
_TITLES = {
    "mask": "Is it gone? A contradiction, followed at every layer",
    "correction": "Facts that the model knows, corrected",
    "twins": "Facts that the model was taught, corrected beside a twin",
    "dose": "How much it takes: doses of a correction",
    "precision": "The verdict with weights in coarser types",
    "contrast": "Edits beside fine-tuning",
    "reactance": "Does a stronger prior resist its correction?",
    "reacquisition": "How fast old values come back",
    "renewal": "Old values in another context",
    "elasticity": "Do contradicted facts come back the easier?",
    "retention": "What later training leaves of edits",
    "editing": "Editors side by side",
    "calibrate": "One draw of a calibration",
}


def study_page(results: StudyResults) -> Document:
    """The page of a study.

    Args:
        results: of it.

    Raises:
        StudyError: if it has no result yet, or something is damaged.
    """
    missing = unfinished(results.directory)
    there = results_there(results, missing)
    if not there:
        raise StudyError(
            f"{results.directory} has no result to report yet. Run the study to its end with the same directory; "
            f"'mechmask status {results.directory}' says how far it is."
        )
    sections = [*exhibit_sections(results, there), fact_section(results.facts, fact_outcomes(results, there))]
    return Document(
        title_of(results.protocol, results.model_name),
        found(results, there),
        [*sections, *closing(results)],
        notice_of(missing),
    )


def title_of(protocol: str | None, model: str) -> str:
    """What a page is called.

    Args:
        protocol: of the study.
        model: its name.
    """
    return f"{_TITLES.get(protocol or '', 'A study')}: {model}"


def found(results: StudyResults, there: Iterable[str]) -> list[str]:
    """What was found, in the study's own sentences, where it judges facts.

    Args:
        results: of a study.
        there: its results.
    """
    wanted = (
        {"results/editing", "results/verdicts", "results/cost"}
        if isinstance(results, EditResults)
        else {"results/erase"}
    )
    return [results.conclusion()] if wanted <= set(there) else []


def notice_of(missing: Iterable[str]) -> str:
    """What a study that has not come to its end lacks; empty where it has.

    Args:
        missing: names of its steps.
    """
    names = list(missing)
    if not names:
        return ""
    shown = ", ".join([*names[:8], *([f"and {len(names) - 8} more"] if len(names) > 8 else [])])
    return (
        f"This study has not come to its end: {len(names)} of its steps are missing or out of date ({shown}). What is "
        "finished is shown; run the study again with the same directory for the rest."
    )


def results_there(results: StudyResults, missing: Iterable[str] = ()) -> list[str]:
    """The names of the results that can be shown.

    Args:
        results: of a study.
        missing: steps that are missing or out of date.
    """
    left_out = set(missing)
    names = [
        path.relative_to(results.directory).as_posix() for path in sorted((results.directory / "results").glob("[!.]*"))
    ]
    return [name for name in names if name not in left_out]


def exhibit_sections(results: StudyResults, there: list[str], level: int = 2) -> list[Section]:
    """Every figure and table of a study.

    Args:
        results: of it.
        there: its results.
        level: of the headings.
    """
    first = editor_sections(results, level) if isinstance(results, EditResults) and found(results, there) else []
    read = cache(results.reading)  # several exhibits show one result
    shown = [one.section(read, level) for one in exhibits_of(results.protocol or "", there)]
    looked_at = [explorer_section(read(_DEPTH), level)] if _DEPTH in there and results.protocol != "calibrate" else []
    rest = (
        [] if results.protocol in EXHIBITS and results.protocol != "calibrate" else own_sections(results, there, level)
    )
    return [*first, *shown, *looked_at, *rest]


def fact_outcomes(results: StudyResults, there: Iterable[str]) -> dict[str, list[Outcome]]:
    """What became of every fact, by its label.

    Args:
        results: of a study.
        there: its results.
    """
    outcomes: dict[str, list[Outcome]] = {}
    for name in there:
        if name == "results/erase":
            of_result = outcomes_of(results.erase)
        elif name in NUMBERS:
            of_result = numbers_of(name, results.reading(name))
        elif name == "results/verdicts" and isinstance(results, EditResults):
            of_result = _failures(results)
        else:
            continue
        for fact, more in of_result.items():
            outcomes.setdefault(fact, []).extend(more)
    return outcomes


def _failures(results: EditResults) -> dict[str, list[Outcome]]:
    """What an editor said of facts that it could not edit."""
    failed: dict[str, list[Outcome]] = {}
    for (state, fact), row in results.failures().iterrows():  # pyright: ignore[reportGeneralTypeIssues]
        failed.setdefault(str(fact), []).append(
            Outcome(f"{state_name(state)} could not edit it", "", str(row["failure"]))
        )
    return failed
