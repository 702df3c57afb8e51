"""What of a study is done and what is not, as its directory says; no model and no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from mechmask.errors import StudyError
from mechmask.study.card import CARD, read_card
from mechmask.study.results import stale_input
from mechmask.study.step import MANIFEST, peek, require_whole

State = Literal["done", "under way", "missing", "damaged", "out of date"]


class StepStatus(NamedTuple):
    """One step of a study.

    Attributes:
        step: its name.
        state: ``done``; ``under way`` (a training that has checkpoints); ``missing``; ``damaged``; ``out of date``
            (made from steps that have been made anew since). What is not done is made when the study is run again.
        detail: how far it is, or what is wrong.
    """

    step: str
    state: State
    detail: str


def study_status(directory: str | Path) -> list[StepStatus]:
    """Every step that a study planned, and what became of it.

    Args:
        directory: of a study, or of several below one another, as of draws, of the paper's experiments and of the
            demo; it is only read.

    Returns:
        The steps; where there are several studies, each named below the study's own directory.

    Raises:
        StudyError: if the directory holds no study.
    """
    root = Path(directory)
    below = [] if (root / CARD).is_file() else sorted(path.parent for path in root.rglob(CARD))
    return [
        row._replace(step=f"{study.relative_to(root).as_posix()}/{row.step}")
        for study in below
        for row in _of_study(study)
    ] or _of_study(root)


def unfinished(directory: str | Path) -> list[str]:
    """The steps of one study that are missing, under way or out of date; no file but their manifests is looked at.

    Args:
        directory: of the study.

    Raises:
        StudyError: if it holds no study, or a manifest is damaged.
    """
    root = Path(directory)
    planned = dict(read_card(root)["about"].get("plan", []))
    made = [path.parent.relative_to(root).as_posix() for path in _manifests(root)]
    return [
        name
        for name in dict.fromkeys([*planned, *made])
        if not (root / name).is_dir() or stale_input(root, peek(root / name))
    ]


def _of_study(root: Path) -> list[StepStatus]:
    planned: dict[str, int | None] = dict(read_card(root)["about"].get("plan", []))
    made = [path.parent.relative_to(root).as_posix() for path in _manifests(root)]
    names = list(dict.fromkeys([*planned, *made]))
    return [_status(root, name, planned.get(name)) for name in names]


def _manifests(root: Path) -> Iterator[Path]:
    for room in ("changes", "lenses", "readings", "results"):
        yield from sorted((root / room).rglob(MANIFEST))


def _status(root: Path, name: str, n_steps: int | None) -> StepStatus:
    if not (root / name).is_dir():
        checkpoint = _last_checkpoint(root, name)
        if checkpoint is None:
            return StepStatus(name, "missing", "")
        limit = "" if n_steps is None else f" of at most {n_steps}"
        return StepStatus(name, "under way", f"step {checkpoint}{limit} has been read")
    try:
        step = require_whole(root / name)
        stale = stale_input(root, step)
    except StudyError as error:
        return StepStatus(name, "damaged", str(error))
    if stale:
        return StepStatus(name, "out of date", f"{stale} has since been made again")
    steps = step.details.get("steps")
    return StepStatus(name, "done", "" if steps is None else f"{steps} steps")


def _last_checkpoint(root: Path, name: str) -> int | None:
    """The last checkpoint of a training that has not ended."""
    room, _, training = name.partition("/")
    numbers = [int(path.parent.name) for path in (root / "checkpoints" / training).glob(f"[!.]*/{MANIFEST}")]
    return max(numbers) if room == "changes" and numbers else None
