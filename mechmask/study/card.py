"""Whose directory it is: the card by which a run's directory is known, and the refusal of everybody else's.

No torch here: results and status read the card without a model.
"""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from mechmask.errors import StudyError
from mechmask.facts.fact_set import FactSet
from mechmask.study.step import MANIFEST, SCHEMA_VERSION, unsealed

CARD = "run.json"
ROOMS = (
    "before",
    "changes",
    "checkpoints",
    "costs",
    "edits",
    "lenses",
    "readings",
    "results",
    "superseded",
    "training",
)
"""The directories in which the steps of a run lie."""
EXPORTS = "exports.json"
FACTS = "facts.jsonl"
LOCK = ".lock"


def read_card(root: Path) -> dict[str, Any]:
    """What a run's directory says of itself.

    Raises:
        StudyError: if there is no card, it is damaged, or it is of a schema that this version does not know.
    """
    path = root / CARD
    if not path.is_file():
        raise StudyError(f"{root} holds no study. {_earlier(root) or 'Give the directory of one.'}")
    version = SCHEMA_VERSION
    try:
        text = path.read_bytes()
        with suppress(ValueError, TypeError, KeyError, RecursionError):
            version = json.loads(text)["schema_version"]
        card = unsealed(text.decode("utf-8")) if version == SCHEMA_VERSION else {}
    except (OSError, ValueError) as error:
        raise StudyError(
            f"{path} is damaged ({error}). Delete it and run the study again: it is written anew and the steps are "
            "kept."
        ) from error
    if version != SCHEMA_VERSION:
        raise StudyError(
            f"{path} has schema version {version}; this mechmask reads version {SCHEMA_VERSION}. Run the study again "
            "in a new directory."
        )
    return card


def refuse_strangers(root: Path, facts: FactSet) -> None:
    """Leave a directory alone that holds something but no run.

    Raises:
        StudyError: naming what is there.
    """
    if not root.is_dir() or (root / CARD).is_file():
        return
    has_steps = any(next((root / room).rglob(MANIFEST), None) for room in ROOMS)  # then only the card was lost
    for path in sorted(root.iterdir()):
        if path.name == FACTS:
            ours = path.is_file() and path.read_bytes() == facts.to_jsonl_text().encode()
        else:
            ours = has_steps or path.name in (EXPORTS, LOCK) or path.name.startswith((f".{FACTS}.", f".{CARD}."))
        if not ours:
            raise StudyError(
                f"{root} is not empty and holds no study (there is {path.name}). "
                f"{_earlier(root) or 'Give a new directory.'}"
            )


def _earlier(root: Path) -> str:
    """What to say of a directory that an earlier mechmask wrote; empty where it did not."""
    if not (root / "study.json").is_file():
        return ""
    return "Its study.json is of mechmask 0.1.0, which kept studies in another way. Run the study in a new directory."
