"""Several studies below one directory, such as the demo's: a page that holds each of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mechmask.draw.page.content import Document, FactList, Section
from mechmask.study.pages.fact_rows import list_section
from mechmask.study.pages.origin import citation
from mechmask.study.pages.study import study_page
from mechmask.study.results import StudyResults

_CITED = citation().heading


class StudiesBelow:
    """Several studies below one directory, opened without a model and without torch.

    Args:
        directory: above them.
        studies: by the path below it.
    """

    def __init__(self, directory: Path, studies: Mapping[str, StudyResults]) -> None:
        self.directory, self.studies = directory, dict(studies)

    def __repr__(self) -> str:
        return f"StudiesBelow({str(self.directory)!r}, {', '.join(self.studies)})"

    def page(self) -> Document:
        """The page of each study, one after the other, and all facts in one list."""
        pages = {name: study_page(study) for name, study in self.studies.items()}
        sections, rows = [], []
        for name, page in pages.items():
            sections.append(Section(f"{name}: {page.title}", []))
            for section in page.sections:
                lists = [block for block in section.blocks if isinstance(block, FactList)]
                rows += [row._replace(name=f"{name}/{row.name}") for block in lists for row in block.rows]
                if not lists and section.heading != _CITED:
                    sections.append(replace(section, level=3))
        models = dict.fromkeys(study.model_name for study in self.studies.values())
        return Document(
            f"{len(pages)} studies of {', '.join(models)}",
            [f"{name}: {text}" for name, page in pages.items() for text in page.lead],
            [*sections, list_section(rows), citation()],
            " ".join(f"{name}: {page.notice}" for name, page in pages.items() if page.notice),
        )
