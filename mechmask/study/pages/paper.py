"""The page of all experiments of the paper: every claim beside the run's number, then each part as draws show it."""

from __future__ import annotations

from collections.abc import Sequence

from mechmask.draw.page.content import Code, Document, Paragraph, Section, Sheet
from mechmask.study.findings.finding import Finding, findings_table, verdict_counts
from mechmask.study.pages.draws import drawn_sections, fact_rows, said_of
from mechmask.study.pages.fact_rows import list_section
from mechmask.study.pages.origin import citation, origin, origin_section
from mechmask.study.pages.study import notice_of
from mechmask.study.pages.toml_text import nameless, toml_text, without_none
from mechmask.study.paper_parts import PARTS
from mechmask.study.paper_results import PaperResults
from mechmask.study.report import HOW_CLAIMS_ARE_READ, TITLES, shown_number
from mechmask.study.status import unfinished

_OF_A_PART = ("facts", "protocol", "seeds", "reference model", "lens", "backend")  # of its origin, what parts differ in
_COLUMNS = ["facts", "claim", "paper", "measured", "this run", "agrees if", "verdict", "note"]


def paper_page(results: PaperResults) -> Document:
    """The page of the paper's experiments.

    Args:
        results: of them.

    Raises:
        StudyError: if something is damaged.
    """
    first = next(iter(results.parts.values()))
    missing = [
        f"{part}/{draw}: {step}"
        for part, draws in results.parts.items()
        for draw, one in draws.studies.items()
        for step in unfinished(one.directory)
    ]
    claims = [
        _claims(f"{number}. {title}", [one for one in results.findings if one.claim.finding == number])
        for number, title in TITLES.items()
    ]
    parts = [section for name in results.parts for section in _part(results, name)]
    rows = [row for name, draws in results.parts.items() for row in fact_rows(draws.studies, f"{name}/")]
    return Document(
        f"The paper on {first.model_name}",
        [f"Of {len(results.findings)} claims of the paper, {verdict_counts(results.findings)}.", HOW_CLAIMS_ARE_READ],
        [*(one for one in claims if one.blocks), *parts, list_section(rows), *_ending(results)],
        notice_of(missing),
    )


def _claims(heading: str, findings: Sequence[Finding]) -> Section:
    if not findings:
        return Section(heading, [])
    table = findings_table(findings)
    table["this run"] = [shown_number(one) for one in findings]
    columns = _COLUMNS if table["note"].any() else _COLUMNS[:-1]
    said = f"{len(findings)} claims, each beside this run's number with its interval and n: {verdict_counts(findings)}."
    return Section(heading, [Sheet(said, table[columns].set_index("facts"))])


def _part(results: PaperResults, name: str) -> list[Section]:
    draws, part = results.parts[name], PARTS[name]
    how = "that the model knows" if part.facts == "known" else "that it was taught"
    said = f"{len(draws.studies)} draws of facts {how}."
    head = Section(f"Part: {name.replace('_', ' ')}", [Paragraph(text) for text in (said, *said_of(draws))])
    return [head, *drawn_sections(draws, level=3)]


def _ending(results: PaperResults) -> list[Section]:
    first = next(iter(next(iter(results.parts.values()))))
    drawn = {name: ", ".join(draws.studies) for name, draws in results.parts.items()}
    shared = {name: text for name, text in origin(first).items() if name not in _OF_A_PART}
    parts = {f"draws of {name.replace('_', ' ')}": numbers for name, numbers in drawn.items()}
    return [origin_section({**shared, **parts}), citation(), _run_again(results)]


def _run_again(results: PaperResults) -> Section:
    config = results.config
    if config is None:
        said = (
            "The configuration of the whole was not recorded by the version that ran it. Each draw keeps its own, and "
            "its "
            "facts: mechmask report on the directory of a draw says how to run that one again."
        )
        return Section("How to run it again", [Paragraph(said)])
    first = next(iter(next(iter(results.parts.values()))))
    model = {
        "source": results.model_name,
        "dtype": str(first.card["model"].get("dtype", "auto")).removeprefix("torch."),
    }
    nested = {name: "none" if name in PARTS and value is None else value for name, value in config.items()}
    study = {
        name: without_none(value, nameless(PARTS[name].protocol))
        if name in PARTS and isinstance(value, dict)
        else value
        for name, value in without_none(nested).items()
    }
    text = toml_text({"model": model, "study": {"protocol": "paper", **study}})
    said = "Save this file and name the model as it is called where you run it; draws and seeds stand in the file."
    return Section(
        "How to run it again",
        [Code(said, text, "paper.toml"), Code("Then:", "mechmask study paper.toml --out runs/again\n")],
    )
