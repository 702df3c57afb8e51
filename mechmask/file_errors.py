"""What the file system refuses (no space, no permission, a name too long) as a ``FileError``: cause and remedy."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mechmask.errors import FileError, MechmaskError

_ELSEWHERE = "Choose a place that you may write to."
_REMEDIES = {
    errno.ENOSPC: "Free some space, or choose another disk.",
    errno.EDQUOT: "Free some space, or choose a place with a larger quota.",
    errno.EFBIG: "Choose another disk.",
    errno.EROFS: _ELSEWHERE,
    errno.EACCES: _ELSEWHERE,
    errno.EPERM: _ELSEWHERE,
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ENOTDIR: "Choose a path of which every parent is a directory.",
    errno.EEXIST: "Choose a name that is not taken.",
    errno.EISDIR: "Choose the name of a file.",
    errno.EIO: "Check the disk.",
}
_WHILE_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


@contextmanager
def file_errors(path: Path, verb: str = "write") -> Iterator[None]:
    """Turn whatever the file system refuses in the block into a ``FileError`` about ``path``.

    Args:
        path: the file or directory that the sentence names.
        verb: what could not be done with it: ``write``, ``read``.
    """
    try:
        yield
    except FileError:
        raise
    except OSError as error:
        raise _file_error(path, verb, error.errno, error.strerror) from error
    except ValueError as error:
        if _can_be_named(path):
            raise
        raise FileError(f"Cannot {verb} {str(path)!r}: no file can have this name. Choose another one.") from error


@contextmanager
def write_errors(path: Path, temporary: Path) -> Iterator[None]:
    """The same for a block that writes ``temporary`` and may fail for other reasons too: those errors pass unchanged.

    Writers in C and Rust (HDF5, safetensors) report a full disk as errors of other classes, recognised by their text.

    Args:
        path: the file or directory that the sentence names.
        temporary: what is written and takes the place of ``path`` later.
    """
    try:
        yield
    except MechmaskError:
        raise
    except Exception as error:
        code = _failure(error, temporary)
        if code is None:
            raise
        raise _file_error(path, "write", code, None) from error


def _failure(error: Exception, temporary: Path) -> int | None:
    """The number of the file system's refusal to write ``temporary``; ``None`` for any other error."""
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        name = error.filename
        if name is None:
            return error.errno if error.errno in _WHILE_WRITING else None
        return error.errno if os.fsdecode(name).startswith(str(temporary)) else None
    return next((code for code in _WHILE_WRITING if os.strerror(code) in str(error)), None)


def _file_error(path: Path, verb: str, code: int | None, reason: str | None) -> FileError:
    reason = reason or os.strerror(code or 0)
    remedy = _REMEDIES.get(code or 0, "Check the path.") if verb == "write" else "Check the path and its permissions."
    return FileError(f"Cannot {verb} {path}: {reason}. {remedy}")


def _can_be_named(path: Path) -> bool:
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False
