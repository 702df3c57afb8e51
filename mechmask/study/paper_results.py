"""``PaperResults``: what a run of the paper's experiments found, opened without a model and without torch."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mechmask.errors import StudyError, known_names
from mechmask.study.draws import CARD, DrawnResults
from mechmask.study.findings import CLAIMS
from mechmask.study.findings.finding import Finding, findings_of, findings_table, verdict_counts
from mechmask.study.paper_parts import PARTS
from mechmask.study.report import figures_of_first_draw
from mechmask.study.step import unsealed
from mechmask.study.tabled import Results, Tables

if TYPE_CHECKING:
    from mechmask.draw.page.content import Document

REPORT, FINDINGS, PAPER_CARD = "report.md", "findings.csv", "paper.json"


class PaperResults(Results):
    """What a run of the paper's experiments found, opened without a model and without torch.

    Args:
        directory: of the run.

    Raises:
        StudyError: if no part in it is finished, or its parts are of different models.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        if not self.parts:
            raise StudyError(
                f"{self.directory} holds no finished part of a paper study. Run it, or give the directory of one."
            )
        models = {part.fingerprint: name for name, part in self.parts.items()}
        if len(models) > 1:
            raise StudyError(
                f"The parts in {self.directory} are of different models ({', '.join(models.values())}), so that no "
                "report can be made of them. Run each model in a directory of its own."
            )

    def __repr__(self) -> str:
        return f"PaperResults({str(self.directory)!r}, {', '.join(self.parts)})"

    @cached_property
    def parts(self) -> dict[str, DrawnResults]:
        """The draws of every part that is finished, by its name."""
        return {name: DrawnResults(self.directory / name) for name in PARTS if (self.directory / name / CARD).is_file()}

    @property
    def model_name(self) -> str:
        """The name of the model that was studied."""
        return next(iter(self.parts.values())).model_name

    @property
    def config(self) -> dict[str, Any] | None:
        """The configuration of the whole, as JSON values; ``None`` of a run that did not record it.

        Raises:
            StudyError: if its file is damaged.
        """
        path = self.directory / PAPER_CARD
        if not path.is_file():
            return None
        try:
            return unsealed(path.read_bytes().decode("utf-8"))["config"]
        except (OSError, ValueError, KeyError) as error:
            raise StudyError(f"{path} is damaged ({error}). Run the study again: what is finished is kept.") from error

    @cached_property
    def findings(self) -> list[Finding]:
        """Every claim of the paper beside this run's number."""
        return findings_of(CLAIMS, self.parts)

    def figures(self, part: str) -> list[Path]:
        """The figures of a part's first draw, as PNG.

        Args:
            part: its name.

        Raises:
            StudyError: if it is not finished.
        """
        if part not in self.parts:
            raise StudyError(f"{self.directory} holds no finished part {part!r}. {known_names(part, self.parts)}")
        return figures_of_first_draw(part, self.parts[part])

    def summary(self) -> pd.DataFrame:
        """The findings, a row each: the paper's number, this run's with its interval and n, and the verdict."""
        return findings_table(self.findings)

    def conclusion(self) -> str:
        """How many claims agree, disagree, are undecided, or were not measured."""
        counts = verdict_counts(self.findings)
        return f"Of {len(self.findings)} claims of the paper, {counts}. {self.directory / REPORT} says which."

    def tables(self) -> Tables:
        """Every table by its name, to be made when it is asked for."""
        return {"summary": self.summary}

    def page(self) -> Document:
        """What the report page of the run holds; ``mechmask.draw.report`` writes it.

        Raises:
            StudyError: if something is damaged.
        """
        from mechmask.study.pages.paper import paper_page

        return paper_page(self)
