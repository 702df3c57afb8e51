"""A study's directory: one atomic file for each thing that is finished, so that a killed study goes on where it was.

What is there is never overwritten by another study: the configuration, the facts and the model's fingerprint have to be
the same, and two processes cannot write at once.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import xarray as xr
from filelock import FileLock, Timeout
from safetensors.torch import load_file, save_file
from torch import Tensor

from mechmask.errors import StudyError
from mechmask.facts.fact_set import FactSet
from mechmask.files import replaced_file, write_text
from mechmask.measure.reading import load_reading, save_reading
from mechmask.write.change import Change
from mechmask.write.load import load_change


class StudyFolder:
    """Where a study keeps what it has made.

    Args:
        root: the directory; made if it is not there.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)

    @contextmanager
    def opened(self, description: Mapping[str, object], facts: FactSet) -> Iterator[None]:
        """Hold the directory for one study, new or taken up again.

        Args:
            description: configuration, facts and model, as JSON values; it has to be what is there.
            facts: written beside it.

        Raises:
            StudyError: if the directory holds something else, or another process is at work in it.
        """
        if self.root.is_file():
            raise StudyError(f"{self.root} is a file. Give a directory.")
        self._refuse_strangers(facts)
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StudyError(f"{self.root} cannot be a directory ({error.strerror}). Give another one.") from error
        lock = FileLock(self.root / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            raise StudyError(
                f"Another process is at work in {self.root}. Wait for it, or give another directory."
            ) from error
        try:
            self._claim(description, facts)
            yield
        finally:
            lock.release()

    def reading(self, name: str, make: Callable[[], xr.Dataset]) -> xr.Dataset:
        """The reading of that name: from its file, or made now and stored."""
        path = self.root / f"{name}.nc"
        if not path.is_file():
            save_reading(make(), path)
        return load_reading(path)

    def change(self, name: str, make: Callable[[], Change]) -> Change:
        """The change of that name: from its directory, or made now and stored."""
        path = self.root / "changes" / name
        if not path.is_dir():
            make().save(path)
        return load_change(path)

    def checkpoints(self, phase: str) -> list[tuple[int, xr.Dataset]]:
        """Step and reading of every checkpoint of a phase, in order."""
        paths = sorted((self.root / "checkpoints" / phase).glob("[0-9]*.nc"))
        return [(int(path.stem), load_reading(path)) for path in paths]

    def checkpoint(self, phase: str, step: int, make: Callable[[], xr.Dataset]) -> xr.Dataset:
        """The reading at one step of a phase."""
        return self.reading(f"checkpoints/{phase}/{step:06d}", make)

    def state(self, phase: str) -> dict[str, Tensor] | None:
        """The training state from which a phase goes on; ``None`` where it has not begun."""
        path = self._state_path(phase)
        return load_file(path) if path.is_file() else None

    def save_state(self, phase: str, state: Mapping[str, Tensor]) -> None:
        """Replace the training state of a phase."""
        with replaced_file(self._state_path(phase)) as temporary:
            save_file(dict(state), temporary)

    def drop_state(self, phase: str) -> None:
        """Remove the training state of a phase that has ended."""
        self._state_path(phase).unlink(missing_ok=True)

    def file(self, name: str, make: Callable[[Path], object]) -> None:
        """A file that ``make`` writes, if it is not there yet."""
        path = self.root / name
        if not path.is_file():
            make(path)

    def _state_path(self, phase: str) -> Path:
        return self.root / "checkpoints" / phase / "state.safetensors"

    def _refuse_strangers(self, facts: FactSet) -> None:
        """A directory that holds something but no study is left alone, its lock file included."""
        if not self.root.is_dir() or (self.root / "study.json").is_file():
            return
        for path in self.root.iterdir():
            ours = path.name == "facts.jsonl" and path.read_bytes() == facts.to_jsonl_text().encode()
            if not ours and not path.name.startswith((".lock", ".facts.jsonl.", ".study.json.")):
                raise StudyError(
                    f"{self.root} is not empty and holds no study (there is {path.name}). Give a new directory."
                )

    def _claim(self, description: Mapping[str, object], facts: FactSet) -> None:
        path = self.root / "study.json"
        text = json.dumps(description, indent=2, sort_keys=True)
        if not path.is_file():
            facts.to_jsonl(self.root / "facts.jsonl")
            write_text(path, text)
            return
        try:
            there = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise StudyError(f"{path} is damaged ({error}). Give a new directory.") from error
        differences = list(_differences(there, json.loads(text)))
        if differences:
            shown = "; ".join(differences[:3])
            raise StudyError(
                f"{self.root} holds another study ({shown}). Give a new directory, or the configuration that is there."
            )


def _differences(there: object, here: object, name: str = "") -> Iterator[str]:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in sorted(there.keys() | here.keys()):
            yield from _differences(there.get(key), here.get(key), f"{name}.{key}" if name else key)
    elif there != here:
        yield f"{name} is {there} there and {here} here"
