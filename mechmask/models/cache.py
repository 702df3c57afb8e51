"""Where converted models are kept: ``$MECHMASK_CACHE``, else the user's cache directory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_dir

from mechmask.files import new_directory


def cache_root() -> Path:
    """The directory that holds what mechmask made once."""
    return Path(os.environ.get("MECHMASK_CACHE") or user_cache_dir("mechmask"))


@contextmanager
def made_once(name: str) -> Iterator[Path | None]:
    """A directory to fill if ``cache_root() / name`` is not there yet, else ``None``.

    Safe when several processes start at once: one fills it, the others wait and find it whole.
    """
    target = cache_root() / name
    if target.is_dir():
        yield None
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{target}.lock"):
        if target.is_dir():
            yield None
            return
        with new_directory(target) as directory:
            yield directory
