"""``open_results``: whatever kind of results a directory holds, opened without a model and without torch."""

from __future__ import annotations

from pathlib import Path

from mechmask.errors import StudyError
from mechmask.study.calibration_results import CARD as CALIBRATION
from mechmask.study.calibration_results import Calibration, open_calibration
from mechmask.study.card import CARD, read_card
from mechmask.study.draws import CARD as DRAWS
from mechmask.study.draws import DrawnResults
from mechmask.study.editing.results import EditResults
from mechmask.study.pages.several import StudiesBelow
from mechmask.study.paper_parts import PARTS
from mechmask.study.paper_results import PaperResults
from mechmask.study.results import StudyResults
from mechmask.study.sweep_results import SWEEP_CARD, SweepResults

Results = StudyResults | EditResults | DrawnResults | SweepResults | PaperResults | Calibration | StudiesBelow


def open_results(directory: str | Path) -> Results:
    """The results in a directory, of whichever kind they are.

    Args:
        directory: of a study, of draws, of a sweep, of the paper's experiments or of a calibration, or one above
            several studies, such as the demo's. It is only read.

    Returns:
        As ``open_study``, ``open_edits``, ``open_draws``, ``SweepResults``, ``PaperResults`` and ``open_calibration``
        give them; of several studies, what ``mechmask.draw.report`` can write a page of.

    Raises:
        StudyError: if it holds no results, or a file of it is damaged; the message names the file.
    """
    root = Path(directory)
    if (root / CARD).is_file():
        study = StudyResults(root)
        return EditResults(root) if study.protocol == "editing" else study
    if (root / DRAWS).is_file():
        return DrawnResults(root)
    if (root / SWEEP_CARD).is_file():
        return SweepResults(root)
    if any((root / part / DRAWS).is_file() for part in PARTS):
        return PaperResults(root)
    if (root / CALIBRATION).is_file():
        return open_calibration(root)
    return _several(root)


def _several(root: Path) -> StudiesBelow:
    """The studies that lie below a directory which holds none itself."""
    below = sorted(path.parent for path in root.rglob(CARD)) if root.is_dir() else []
    if not below:
        read_card(root)  # which refuses, and knows what earlier versions wrote
    if any((study.parent / "calibration.md").is_file() for study in below):
        raise StudyError(
            f"{root} holds a calibration that does not say which draws chose and which judged: an earlier mechmask ran "
            "it. Run the calibration again with the same directory: what is finished is kept."
        )
    return StudiesBelow(root, {study.relative_to(root).as_posix(): _one(study) for study in below})


def _one(root: Path) -> StudyResults:
    study = StudyResults(root)
    return EditResults(root) if study.protocol == "editing" else study
