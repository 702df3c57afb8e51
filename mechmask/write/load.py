"""``load_change``: a saved change of any kind, an adapter of peft's, or a checkpoint.

A new kind of saved change is one class and one line in ``KINDS``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from mechmask.errors import ChangeError, MechmaskError
from mechmask.files import MANIFEST, require_sealed
from mechmask.hub import located
from mechmask.models.model import Model
from mechmask.models.states import Variant, active
from mechmask.write.adapter import AdapterChange
from mechmask.write.change import SCHEMA_VERSION, Change
from mechmask.write.low_rank import LowRankChange
from mechmask.write.peft_adapter import CHECKPOINT
from mechmask.write.round_trip import RoundTrip
from mechmask.write.stored import StoredChange, is_stored
from mechmask.write.weights import WeightChange

KINDS: dict[str, type[Change]] = {kind.kind: kind for kind in (WeightChange, AdapterChange, LowRankChange, RoundTrip)}


class _Header(BaseModel):
    """What every ``change.json`` says; a kind adds its own."""

    model_config = ConfigDict(extra="allow", strict=True)

    method: Annotated[str, Field(min_length=1)]
    base: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    details: dict[str, Any]


def load_change(
    directory: str | Path,
    model: Model | Variant | None = None,
    *,
    adapter: str | None = None,
    revision: str | None = None,
    token: str | bool | None = None,
) -> Change:
    """The change in a directory: one that ``Change.save`` wrote, an adapter that peft wrote, or a whole checkpoint.

    Or the one that ``Change.push_to_hub`` put on the Hugging Face Hub, by the repository's id.

    Of a saved change every file is held against its digest. An adapter (LoRA, DoRA, rsLoRA) and a checkpoint do not say
    which weights they were made on: they are bound to the first model that they are put on, or to ``model``. Of a
    checkpoint what differs from the model is kept, read tensor by tensor.

    Args:
        directory: where it is; an id ``owner/name`` on the Hub where there is no such path.
        model: the model or state that it was made on. Without it what does not fit is refused when it is put on, and
            what another program wrote can be neither saved nor looked into.
        adapter: the name of a peft adapter, where there are several; the first is called ``default``.
        revision: branch, tag or commit on the Hub.
        token: of the Hub; the one that is logged in by default.

    Raises:
        ChangeError: if there is neither such a path nor such a repository; if it holds no change, one of a schema that
            this version does not know, or a damaged one (the message names the file), or one that does not fit the
            model.
        FileError: if a file cannot be read.
    """
    asked = {"revision": revision, "token": token}
    path = located(directory, "a change", repo_type="model", refusal=ChangeError, **asked)
    if not any((path / name).exists() for name in ("change.json", MANIFEST)) and is_stored(path):
        stored = StoredChange(path, adapter)
        if model is None:
            return stored
        with active(model) as now:
            return stored.made_on(now)
    change = _saved(path)
    if adapter is not None:
        raise ChangeError(f"{path} holds a change of mechmask's, which is one. Leave adapter= out.")
    if model is not None:
        with active(model) as now, change.applied(now):
            pass  # refuses what it was not made on
    return change


def _saved(path: Path) -> Change:
    """What ``Change.save`` wrote."""
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
        if any(CHECKPOINT.fullmatch(child.name) for child in path.glob("checkpoint-*")):
            raise ChangeError(f"{path} holds a series of checkpoints. Read it with load_checkpoints.") from error
        cause = "change.json is missing"
    except Exception as error:  # not text, not JSON, too deep, a number of 5,000 digits, a name with a NUL
        cause = f"change.json: {type(error).__name__}"
    raise ChangeError(
        f"{path} holds no change ({cause}). Give a directory that Change.save, peft or transformers' "
        "save_pretrained wrote."
    )
