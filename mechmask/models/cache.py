"""Where converted models and fitted lenses are kept: ``$MECHMASK_CACHE``, else the user's cache directory.

Each directory carries the digests of its files and is held against them whenever it is used: a damaged one is made
again.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_dir

from mechmask.errors import DamageError
from mechmask.file_errors import file_errors
from mechmask.files import new_directory, require_sealed, seal


def cache_root() -> Path:
    """The directory that holds what mechmask made once."""
    return Path(os.environ.get("MECHMASK_CACHE") or user_cache_dir("mechmask"))


@contextmanager
def made_once(name: str) -> Iterator[Path | None]:
    """A directory to fill if ``cache_root() / name`` is not there whole, else ``None``.

    Safe when several processes start at once: one fills it, the others wait and find it whole. What was filled is
    sealed; a directory of which a file was cut, altered or lost is dropped and made again.

    Raises:
        FileError: if the cache cannot be written to.
    """
    target = cache_root() / name
    if _is_whole(target):
        yield None
        return
    with file_errors(target):
        _require_directories(target.parent)
        lock = FileLock(f"{target}.lock")
        lock.acquire()
    try:
        if _is_whole(target):
            yield None
            return
        with file_errors(target):
            if target.exists():
                shutil.rmtree(target)
        with new_directory(target) as directory:
            yield directory
            seal(directory)
    finally:
        lock.release()


def _is_whole(directory: Path) -> bool:
    """Whether the directory is there as it was sealed."""
    if not directory.is_dir():
        return False
    try:
        return require_sealed(directory, "The cache", "It is made again.")
    except DamageError:
        return False


def _require_directories(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:  # a file stands in the way: its name is no directory's
        raise NotADirectoryError(errno.ENOTDIR, "a file is in its place", str(path)) from error
