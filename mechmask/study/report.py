"""``report.md``: each finding of the paper beside a run's number, and the tables and figures that stand behind them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from mechmask import draw
from mechmask.measure.dose import dose_erased
from mechmask.measure.pool import pooled
from mechmask.measure.statistics import Interval
from mechmask.measure.surprise import magnitude_overview, surprise_and_margin
from mechmask.measure.tables import markdown_table
from mechmask.study.draws import DrawnResults
from mechmask.study.findings.finding import Finding, findings_table, verdict_counts
from mechmask.study.paper_parts import PARTS

TITLES = {
    1: "Contradiction masks rather than deletes",
    2: "The new route rises in proportion to the surprise",
    3: "The diagnostic discriminates: a localized edit deletes",
    4: "A stronger prior resists correction (reactance)",
    5: "The old route stays competitive deep into the network",
    6: "Masked content returns",
}
HOW_CLAIMS_ARE_READ = (
    "Each row is a claim of Compete, Don't Erase (Pødenphant Lund 2026), the number that the paper gives, and that of "
    "this "
    "run with its 95% interval (EI*: 90%). A run agrees where the whole interval lies where the claim puts the number, "
    "disagrees where all of it lies elsewhere, and is undecided otherwise. Facts of one draw are trained together, so "
    "that "
    "means take each draw as one observation; draws of known facts may have facts in common. Intervals are not "
    "adjusted for "
    "the number of claims."
)
_POOLED = {  # by protocol: drawn anew of all draws
    "correction": {"results/course": draw.trace},
    "twins": {"results/course": draw.trace},
    "mask": {"results/depth": draw.depth},
}
_OF_A_DRAW = {  # by protocol: as each draw has them among its own figures
    "dose": ("doses",),
    "precision": ("precision",),
    "contrast": ("contrast",),
    "reactance": ("reactance",),
    "reacquisition": ("reacquisition", "one_step"),
    "renewal": ("renewal",),
}


def _surprise_by_magnitude(results: DrawnResults) -> pd.DataFrame:
    return magnitude_overview(surprise_and_margin(results.erase))


def _doses_erased(results: DrawnResults) -> pd.DataFrame:
    """The dose at which the trace is gone, of the facts of all draws."""
    names = ["trace_before", "trace_after", "shared_error", "n_never"]
    doses = pooled({draw: table[names] for draw, table in results.each("results/doses").items()})
    return dose_erased(doses)[["dose", "low", "high", "n"]].to_dataframe()


_TABLES = {  # by protocol: of all draws
    "correction": {"Surprise at the onset by magnitude, in nats": _surprise_by_magnitude},
    "twins": {"Surprise at the onset by magnitude, in nats": _surprise_by_magnitude},
    "dose": {
        "The dose at which the group's trace is gone, in steps or as a multiple of the change (inf: not reached)": (
            _doses_erased
        )
    },
}


def paper_report(findings: Sequence[Finding], parts: Mapping[str, DrawnResults], root: Path) -> str:
    """The report; the figures that it shows are written below ``root``.

    Args:
        findings: every claim beside what the run says of it.
        parts: the parts that were run, by name.
        root: the directory of the run.
    """
    first = next(iter(parts.values()))
    sections = [
        f"# The paper on {first.model_name}",
        _marked(HOW_CLAIMS_ARE_READ),
        f"Of {len(findings)} claims, {verdict_counts(findings)}.",
    ]
    for number, title in TITLES.items():
        rows = [one for one in findings if one.claim.finding == number]
        if rows:
            sections += [f"## {number}. {title}", _table(rows)]
    for name, results in parts.items():
        sections += [f"## Part: {name}", *_said(results), *_tables(name, results), *_figures(name, results, root)]
    return "\n\n".join(sections) + "\n"


def _marked(text: str) -> str:
    """The same in Markdown."""
    for name in ("Compete, Don't Erase", "agrees", "disagrees", "undecided"):
        text = text.replace(f" {name} ", f" *{name}* ", 1)
    return text.replace("EI*", r"EI\*")


def _table(rows: Sequence[Finding]) -> str:
    shown = findings_table(rows)
    shown["this run"] = [shown_number(one) for one in rows]
    columns = ["facts", "claim", "paper", "measured", "this run", "agrees if", "verdict", "note"]
    if not shown["note"].any():
        columns.remove("note")
    return markdown_table(shown[columns].set_index("facts"))


def shown_number(one: Finding) -> str:
    """This run's number in a table: estimate, interval, unit and n.

    Args:
        one: a claim and what the run says of it.
    """
    if one.measured is None:
        return "-"
    interval, of, _ = one.measured
    return f"{_range(interval)} {one.claim.unit}, n = {interval.n} {of}"


def _range(interval: Interval) -> str:
    estimate, low, high, _ = interval
    return f"{estimate:.2f} [{low:.2f}, {high:.2f}]" if math.isfinite(low) else f"{estimate:.2f} (no interval)"


def _said(results: DrawnResults) -> list[str]:
    """What became of the facts of all draws, where a part judges them."""
    judged = all((study.directory / "results/erase").is_dir() for study in results)
    return [results.conclusion()] if judged else []


def _tables(part: str, results: DrawnResults) -> list[str]:
    """What a protocol's draws say together, as tables under a line each."""
    tables = {line: make(results) for line, make in _TABLES.get(PARTS[part].protocol, {}).items()}
    return [
        text for line, table in tables.items() if len(table) for text in (f"{line}:", markdown_table(table).rstrip())
    ]


def _figures(part: str, results: DrawnResults, root: Path) -> list[str]:
    """The figures of a part: those of all draws, written now, and those that its first draw has."""
    shown = []
    for name, make in _POOLED.get(PARTS[part].protocol, {}).items():
        path = Path("figures") / f"{part}_{name.rpartition('/')[2]}.png"
        (root / path.parent).mkdir(exist_ok=True)
        draw.save_figure(make(results.reading(name)), root / path)
        shown.append(f"![{part}, all draws]({path.as_posix()})")
    first = next(iter(results.studies))
    for path in figures_of_first_draw(part, results):
        shown.append(f"![{part}, draw {first}]({path.relative_to(root).as_posix()})")
    return shown


def figures_of_first_draw(part: str, results: DrawnResults) -> list[Path]:
    """The figures of a part's own protocol, those of its first draw.

    Args:
        part: its name.
        results: its draws.
    """
    figures = next(iter(results)).directory / "figures"
    return [path for name in _OF_A_DRAW.get(PARTS[part].protocol, ()) if (path := figures / f"{name}.png").is_file()]
