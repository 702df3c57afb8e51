"""``load_change``: a saved change of any kind. A new kind is one class and one line in ``KINDS``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from mechmask.errors import ChangeError, MechmaskError
from mechmask.files import MANIFEST, require_sealed
from mechmask.write.adapter import AdapterChange
from mechmask.write.change import SCHEMA_VERSION, Change
from mechmask.write.low_rank import LowRankChange
from mechmask.write.round_trip import RoundTrip
from mechmask.write.weights import WeightChange

KINDS: dict[str, type[Change]] = {kind.kind: kind for kind in (WeightChange, AdapterChange, LowRankChange, RoundTrip)}


class _Header(BaseModel):
    """What every ``change.json`` says; a kind adds its own."""

    model_config = ConfigDict(extra="allow", strict=True)

    method: Annotated[str, Field(min_length=1)]
    base: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    details: dict[str, Any]


def load_change(directory: str | Path) -> Change:
    """The change that ``Change.save`` wrote into a directory; every file is held against its digest.

    Args:
        directory: where ``Change.save`` wrote it.

    Raises:
        ChangeError: if it holds none, one of a schema that this version does not know, or a damaged one; the message
            names the file.
        FileError: if a file cannot be read.
    """
    path = Path(directory)
    sealed = require_sealed(path, "The change", "Make it again.", missing="accept", error=ChangeError)
    header = _header(path)
    version, kind = header.get("schema_version"), header.get("kind")
    if version != SCHEMA_VERSION or not isinstance(kind, str) or kind not in KINDS:
        raise ChangeError(
            f"{path} holds a change of schema {version!r}, kind {kind!r}; this mechmask reads schema {SCHEMA_VERSION} "
            f"of {', '.join(KINDS)}. Make it again."
        )
    if not sealed:
        raise ChangeError(f"The change in {path} has no {MANIFEST}, so it may be damaged. Make it again.")
    try:
        return KINDS[kind].read(path, _Header.model_validate(header).model_dump())
    except MechmaskError as error:
        raise ChangeError(f"The change in {path} cannot be used: {error}") from error
    except Exception as error:  # whatever a file of unknown origin makes a reader raise
        raise ChangeError(f"The change in {path} is not whole ({type(error).__name__}). Make it again.") from error


def _header(path: Path) -> dict[str, Any]:
    try:
        header = json.loads((path / "change.json").read_bytes().decode("utf-8"))
        if isinstance(header, dict):
            return header
        cause = "change.json is not an object"
    except FileNotFoundError as error:
        if _is_peft(path):
            raise ChangeError(
                f"{path} is an adapter that peft saved, and does not say which weights it was trained on. Read it with "
                "load_model, which puts it on the base that it names."
            ) from error
        cause = "change.json is missing"
    except Exception as error:  # not text, not JSON, too deep, a number of 5,000 digits, a name with a NUL
        cause = f"change.json: {type(error).__name__}"
    raise ChangeError(f"{path} holds no change ({cause}). Give a directory that Change.save wrote.")


def _is_peft(path: Path) -> bool:
    return (path / "adapter_config.json").is_file()
