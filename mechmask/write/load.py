"""``load_change``: a saved change of any kind. A new kind is one class and one line in ``KINDS``."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import SafetensorError

from mechmask.errors import ChangeError
from mechmask.write.adapter import AdapterChange
from mechmask.write.change import SCHEMA_VERSION, Change, WeightChange

KINDS: dict[str, type[Change]] = {kind.kind: kind for kind in (WeightChange, AdapterChange)}


def load_change(directory: str | Path) -> Change:
    """The change that ``Change.save`` wrote into a directory.

    Raises:
        ChangeError: if it holds none, or one of a schema that this version does not know.
    """
    path = Path(directory)
    try:
        header = json.loads((path / "change.json").read_text(encoding="utf-8"))
        version, kind = header["schema_version"], str(header["kind"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ChangeError(
            f"{path} holds no change ({type(error).__name__}). Give a directory that Change.save wrote."
        ) from error
    if version != SCHEMA_VERSION or kind not in KINDS:
        raise ChangeError(
            f"{path} holds a change of schema {version}, kind {kind!r}; this mechmask reads schema {SCHEMA_VERSION} of "
            f"{', '.join(KINDS)}. Make it again."
        )
    try:
        return KINDS[kind].read(path, header)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ChangeError(f"The change in {path} is not whole ({type(error).__name__}). Make it again.") from error
