"""Writing files so that a process that dies leaves the old file or the new one, never half of one.

What the file system refuses is a ``FileError`` of one sentence. A directory is sealed by a manifest of its files'
digests, so that damage is noticed when it is read and not in a result. The digests are xxh3-128: they find accidents,
not forgeries.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal, NamedTuple

import xxhash

from mechmask.errors import DamageError, MechmaskError
from mechmask.file_errors import file_errors, write_errors

MANIFEST = "digests.json"
CARD = "README.md"
"""Of a sealed directory: for people, who may write on in it, so that it is no content, as hidden files are none."""
_CHUNK = 1 << 20


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends without error.

    Raises:
        FileError: if the file cannot be written; what was there stays.
    """
    with file_errors(path):
        _make_parents(path)
        _refuse(path, stat.S_ISDIR, errno.EISDIR)
        suffix = path.suffix if len(os.fsencode(path.suffix)) <= 32 else ""
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=_prefix(path), suffix=suffix)
        os.close(handle)
    temporary = Path(name)
    try:
        with write_errors(path, temporary):
            yield temporary
        with file_errors(path):
            _sync(temporary)
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
            _sync_directory(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def new_directory(path: Path) -> Iterator[Path]:
    """A temporary directory that becomes ``path`` when the block ends without error.

    Where another process made ``path`` first, that one stays and this one is dropped.

    Raises:
        FileError: if the directory cannot be written.
    """
    with file_errors(path):
        _make_parents(path)
        _refuse(path, stat.S_ISREG, errno.EEXIST)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=_prefix(path)))
    try:
        with write_errors(path, temporary):
            yield temporary
        with file_errors(path):
            _sync_tree(temporary)
            temporary.chmod(0o777 & ~_umask())
            try:
                temporary.rename(path)
            except OSError:
                if not path.is_dir():
                    raise
            _sync_directory(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def new_sealed_directory(path: Path, what: str, refusal: type[MechmaskError]) -> Iterator[Path]:
    """As ``new_directory``, sealed where the block ends; what is there already is refused, not replaced.

    Args:
        path: where it will be.
        what: is saved there, such as "the change".
        refusal: the class of the error.

    Raises:
        MechmaskError: of class ``refusal``, if there is something already.
        FileError: if the directory cannot be written.
    """
    with file_errors(path):
        taken = path.exists() or path.is_symlink()
    if taken:
        raise refusal(f"{path} already exists. Save {what} under another name.")
    with new_directory(path) as temporary:
        yield temporary
        seal(temporary)


def write_text(path: Path, text: str) -> None:
    """Put ``text`` into ``path`` atomically, as UTF-8.

    Raises:
        FileError: if the file cannot be written; what was there stays.
    """
    with replaced_file(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


def is_temporary(path: Path) -> bool:
    """Whether a file has a name that ``replaced_file`` gives while it writes: what a killed process leaves behind.

    Only of files with a suffix: without one, the names of other programs' hidden files look the same.
    """
    name = re.fullmatch(r"\.(.+)\.[a-z0-9_]{8}(\.[^.]+)", path.name)
    return name is not None and (len(name[1]) == 32 or name[1].endswith(name[2]))


def content_digest(path: str | Path) -> str:
    """xxh3-128 of a file's bytes, in hexadecimal; read in pieces, whatever the size.

    Raises:
        FileError: if the file cannot be read.
    """
    digest = xxhash.xxh3_128()
    with file_errors(Path(path), "read"), Path(path).open("rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def seal(directory: str | Path) -> None:
    """Write ``digests.json``: name, size and digest of every file below ``directory`` but itself.

    Hidden files (a lock, an editor's or a file manager's traces) and a card (``README.md``) are not content: they are
    neither sealed nor missed.

    Raises:
        FileError: if a file cannot be read, or the manifest cannot be written.
    """
    directory = Path(directory)
    write_text(directory / MANIFEST, _manifest({name: _Seal.of(path) for name, path in _contents(directory).items()}))


def require_sealed(
    directory: str | Path,
    what: str,
    remedy: str,
    *,
    missing: Literal["refuse", "accept"] = "refuse",
    error: type[MechmaskError] = DamageError,
) -> bool:
    """Hold a directory against its manifest.

    Args:
        directory: what ``seal`` was called on.
        what: what it is, to begin the sentence, such as ``The lens``.
        remedy: what the caller can do about damage, a sentence.
        missing: whether a directory without manifest is refused, or accepted unchecked (an older version's, a
            stranger's).
        error: the class of error that is raised.

    Returns:
        Whether there is a manifest, that is, whether anything was checked.

    Raises:
        MechmaskError: of class ``error``, naming each file that is missing, cut, altered or extra; a ``FileError`` if a
            file cannot be read.
    """
    directory = Path(directory)
    with file_errors(directory / MANIFEST, "read"):
        text = (directory / MANIFEST).read_bytes() if os.path.lexists(directory / MANIFEST) else None
    if text is None and missing == "accept":
        return False
    if text is None:
        raise error(f"{what} in {directory} has no {MANIFEST}, so it may be damaged. {remedy}")
    sealed = _read_manifest(text)
    problems = [f"{MANIFEST} is altered"] if sealed is None else _damage(_contents(directory), sealed)
    if problems:
        shown = "; ".join([*problems[:3], *([f"and {len(problems) - 3} more"] if len(problems) > 3 else [])])
        raise error(f"{what} in {directory} is damaged: {shown}. {remedy}")
    return True


def sealed_names(directory: str | Path) -> list[str] | None:
    """The files that a directory's manifest lists, in order; ``None`` where it has none, or a damaged one.

    Raises:
        FileError: if the manifest cannot be read.
    """
    path = Path(directory) / MANIFEST
    with file_errors(path, "read"):
        sealed = _read_manifest(path.read_bytes()) if path.is_file() else None
    return None if sealed is None else list(sealed)


class _Seal(NamedTuple):
    size: int
    digest: str

    @classmethod
    def of(cls, path: Path) -> _Seal:
        digest = content_digest(path)
        return cls(path.stat().st_size, digest)


def _contents(directory: Path) -> dict[str, Path]:
    """The files below a directory by their relative names; hidden ones, the manifest and the card left out."""
    contents: dict[str, Path] = {}
    with file_errors(directory, "read"):
        for root, folders, names in os.walk(directory, onerror=_raise):
            folders[:] = [folder for folder in folders if not folder.startswith(".")]
            linked = [folder for folder in folders if (Path(root) / folder).is_symlink()]
            for name in [*names, *linked]:
                path = Path(root) / name
                if not name.startswith("."):
                    contents[path.relative_to(directory).as_posix()] = path
    for name in (MANIFEST, CARD):
        contents.pop(name, None)
    return dict(sorted(contents.items()))


def _raise(error: OSError) -> None:
    raise error


def _manifest(sealed: dict[str, _Seal]) -> str:
    """The manifest's text; it carries a digest of its list, so that damage to it is not blamed on the files."""
    files = {name: {"bytes": seal.size, "xxh3_128": seal.digest} for name, seal in sorted(sealed.items())}
    whole = xxhash.xxh3_128_hexdigest(json.dumps(files, sort_keys=True).encode())
    return json.dumps({"files": files, "xxh3_128_of_files": whole}, indent=1, sort_keys=True) + "\n"


def _read_manifest(text: bytes) -> dict[str, _Seal] | None:
    """What a manifest lists; ``None`` unless it is, byte for byte, what ``seal`` wrote."""
    try:
        files = json.loads(text)["files"]
        sealed = {name: _Seal(entry["bytes"], entry["xxh3_128"]) for name, entry in files.items()}
        return sealed if _manifest(sealed).encode() == text else None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None


def _damage(contents: dict[str, Path], sealed: dict[str, _Seal]) -> list[str]:
    problems = []
    for name in sorted({*contents, *sealed}):
        if name not in contents:
            problems.append(f"{name} is missing")
        elif name not in sealed:
            problems.append(f"{name} was not there when it was written")
        else:
            problems += _file_damage(name, contents[name], sealed[name])
    return problems


def _file_damage(name: str, path: Path, sealed: _Seal) -> list[str]:
    with file_errors(path, "read"):
        size = path.stat().st_size
    if size < sealed.size:
        return [f"{name} is cut ({size} of {sealed.size} bytes)"]
    if size > sealed.size or content_digest(path) != sealed.digest:
        return [f"{name} is altered"]
    return []


def _prefix(path: Path) -> str:
    """The start of a temporary name, short enough that a name of 255 bytes has room for the rest of it."""
    return f".{path.name[:32]}."


def _make_parents(path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from error


def _refuse(path: Path, is_wrong: Callable[[int], bool], code: int) -> None:
    """Before any work: a name that is too long, or taken by something of the wrong kind."""
    with suppress(FileNotFoundError):
        if is_wrong(os.lstat(path).st_mode):
            raise OSError(code, os.strerror(code), str(path))


def _sync_tree(directory: Path) -> None:
    for root, _, names in os.walk(directory, topdown=False):
        for name in names:
            if not (Path(root) / name).is_symlink():
                _sync(Path(root) / name)
        _sync_directory(Path(root))


def _sync(path: Path) -> None:
    with path.open("rb" if os.name == "posix" else "rb+") as file:  # Windows flushes only what may be written
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    """Make a rename last through a power cut, where the system can open directories."""
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
