"""A fact set as a sealed directory, which is also a repository on the Hub that ``datasets`` loads.

``facts.jsonl`` is the whole of it; ``mechmask.json`` says whose fingerprint the facts have to have.
"""

from __future__ import annotations

import json
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from mechmask.errors import FactError
from mechmask.files import new_sealed_directory, require_sealed, write_text
from mechmask.hub_card import Card

if TYPE_CHECKING:
    from mechmask.facts.fact_set import FactSet

ABOUT = "mechmask.json"
FACTS = "facts.jsonl"
_SCHEMA = 1
_REMEDY = "Push or copy it again from where it is whole."


def save_facts(facts: FactSet, directory: Path) -> None:
    """Write a fact set into a new directory, atomically, with a digest of each file.

    Raises:
        FactError: if there is something already, or no fact.
        FileError: if it cannot be written.
    """
    if not facts:
        raise FactError("The fact set is empty: no fact has the role or label that was selected. Select others.")
    about = {"schema_version": _SCHEMA, "kind": "facts", "fingerprint": facts.fingerprint(), "n": len(facts)}
    with new_sealed_directory(directory, "the facts", FactError) as temporary:
        facts.to_jsonl(temporary / FACTS)
        write_text(temporary / ABOUT, json.dumps({**about, "version": version("mechmask")}, indent=1, sort_keys=True))


def is_saved(directory: Path) -> bool:
    """Whether a directory looks as ``save_facts`` leaves it."""
    try:
        return (directory / ABOUT).is_file() and (directory / FACTS).is_file()
    except OSError:  # a name too long, or not to be looked at: whoever reads the path says so
        return False


def facts_file(directory: Path) -> tuple[Path, str]:
    """The file with the facts of a directory that ``save_facts`` wrote, and the fingerprint that they have to have.

    Raises:
        FactError: if a file of it is missing, cut or altered, or it is of a schema that this version does not know.
    """
    require_sealed(directory, "The fact set", _REMEDY, error=FactError)
    try:
        about = json.loads((directory / ABOUT).read_bytes())
        schema, fingerprint = about["schema_version"], str(about["fingerprint"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise FactError(f"{directory} holds no fact set ({ABOUT}: {type(error).__name__}). {_REMEDY}") from error
    if schema != _SCHEMA:
        raise FactError(
            f"{directory} holds a fact set of schema {schema!r}; this mechmask reads schema {_SCHEMA}. Read it with "
            "the version that its card names."
        )
    return directory / FACTS, fingerprint


def card_of(facts: FactSet, repo_id: str, license: str | None) -> Card:
    """The card of a fact set.

    Args:
        facts: the facts.
        repo_id: where they are pushed to.
        license: of the facts.
    """
    counts = [("facts", len(facts)), *((f"of the role {role}", n) for role, n in _counted(f.role for f in facts))]
    relations = [(f"of the relation {name}", n) for name, n in _counted(f.relation for f in facts if f.relation)]
    return Card(
        kind="facts",
        title=f"{repo_id.partition('/')[2]}: facts that are contested",
        about=(
            "Facts with an old and a new value, for measurements of whether a fact that a language model no longer "
            "says is deleted or out-competed. One JSON object a line in facts.jsonl."
        ),
        code=(
            "import mechmask as mm\n\n"
            f"facts = mm.load_facts({repo_id!r})  # revision= takes a branch, tag or commit\n\n"
            "# or without mechmask\n"
            "from datasets import load_dataset\n\n"
            f'rows = load_dataset({repo_id!r}, split="train")'
        ),
        made_from={"fingerprint (SHA-256 of the facts)": facts.fingerprint()},
        numbers=[("", ""), *counts, *relations[:20]],
        tags=["knowledge-editing", "facts"],
        license=license,
        more={
            "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": FACTS}]}],
            "mechmask": {"kind": "facts", "fingerprint": facts.fingerprint()},
        },
    )


def _counted(names: object) -> list[tuple[str, int]]:
    return sorted(Counter(names).items(), key=lambda entry: (-entry[1], entry[0]))  # pyright: ignore[reportCallIssue, reportArgumentType]
