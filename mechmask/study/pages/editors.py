"""The one table of a study of editors on its page: an editor a row, in groups of columns that a screen holds."""

from __future__ import annotations

import pandas as pd

from mechmask.draw.page.content import Section, Sheet
from mechmask.study.editing.results import EditResults
from mechmask.study.pages.words import COLUMNS

_GROUPS = {
    "The field's scores: shares of facts and prompts, GE in bits": ("n", "took", "failed", "ES", "PS", "NS", "S", "GE"),
    "What became of the old values, in nats where it is no ratio or share, and the verdict on the group": (
        *("n", "erase_index", "EI*", "standing", "trace", "rebound", "commit_layer", "verdict", "why"),
        *("masked", "erased", "suppressed", "undecided"),
    ),
    "What it cost, and what else it changed": ("seconds", "memory_mib", "prepare_seconds", "kl", "perplexity_ratio"),
}


def editor_sections(results: EditResults, level: int = 2) -> list[Section]:
    """The table in groups of columns, and the facts that could not be edited.

    Args:
        results: of a study of editors.
        level: of the heading.
    """
    table = results.summary()
    sheets = []
    for what, columns in _GROUPS.items():
        wanted = [f"{name}{end}" for name in columns for end in ("", "_low", "_high")]
        part = table.loc[:, [name for name in wanted if name in table]].dropna(axis="columns", how="all")
        n = int(table["n"].max())
        sheets.append(Sheet(f"{what} (n = {n} facts; intervals in brackets, EI* at 90%).", part, COLUMNS))
    failures = results.failures()
    if len(failures):
        sheets.append(
            Sheet(f"Edits that failed (n = {len(failures)}), and what the editor said.", pd.DataFrame(failures))
        )
    return [Section("Every editor in numbers", sheets, level)]
