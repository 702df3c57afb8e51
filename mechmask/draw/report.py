"""The report page of a study: every table and figure with its sentence in one HTML file that opens offline."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Protocol, runtime_checkable

from mechmask.draw.page.content import Document
from mechmask.draw.page.document import document_html
from mechmask.errors import ReadingError
from mechmask.files import write_text
from mechmask.opener import opened


@runtime_checkable
class Reported(Protocol):
    """Results that can be shown on a page: those of every study, of draws, of the paper and of a calibration."""

    def page(self) -> Document:
        """What the page holds."""
        ...


def report(study: Reported | str | PathLike[str], path: str | PathLike[str]) -> Path:
    """Write the report of a study: one HTML file that opens offline, made without a model and without torch.

    It holds every figure and table of the study, each with a sentence that gives interval and n; the facts, to be
    searched and filtered; where everything comes from, how to cite it and how to run it again. What a study that has
    not come to its end lacks is named. The same results give the same bytes.

    Args:
        study: what a study returns, or ``mechmask.open_results`` gives; or the directory of one.
        path: of the file; what was there is replaced when the page is whole.

    Returns:
        The path that was written.

    Raises:
        StudyError: if the directory holds no results, or they are damaged; the message names the file.
        ReadingError: if ``study`` is something else, or ``path`` does not end in ``.html``.
        FileError: if the file cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() not in (".html", ".htm"):
        raise ReadingError(f"A report cannot be saved as {target.name!r}. Give a name that ends in .html.")
    results = opened(Path(study)) if isinstance(study, str | PathLike) else study
    if not isinstance(results, Reported):
        raise ReadingError(
            f"A report is made of a study's results or its directory, not of a {type(results).__name__}. Give what the "
            "study returned, or mechmask.open_results of its directory."
        )
    write_text(target, document_html(results.page()))
    return target
