"""A run: a directory of named steps, each taken up again where it is whole and its inputs are the same, else made.

``run.step(name, settings, inputs, make)`` is all that an experiment has to know. A step is written beside its place and
moved there when it is whole, so that a process that is killed leaves either the step or nothing. A step of other
settings or inputs is not thrown away but moved to ``superseded/``, and comes back when it is asked for again; one that
is damaged is made anew. What depends on a step names its digest among its inputs, so that a change of one setting makes
anew what follows from it and nothing else.

What lies in ``superseded/`` may be deleted at any time: it saves work and nothing else.

No torch here: the model of a run is only handed on.
"""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from filelock import FileLock, Timeout

from mechmask.errors import DamageError, FileError, StudyError
from mechmask.facts.fact_set import FactSet
from mechmask.file_errors import file_errors
from mechmask.files import content_digest, is_temporary, new_directory, replaced_file, write_text
from mechmask.progress import note
from mechmask.study.card import CARD, EXPORTS, FACTS, LOCK, read_card, refuse_strangers
from mechmask.study.step import (
    MANIFEST,
    SCHEMA_VERSION,
    Settings,
    Step,
    is_made_from,
    label_of,
    peek,
    require_whole,
    seal_step,
    sealed_text,
    unsealed,
)

if TYPE_CHECKING:
    from mechmask.models.model import Model

_UNFINISHED = ".unfinished-"
_LONGEST_PART = 200  # bytes: file systems take 255, and temporary names are longer than what they replace

Make = Callable[[Path], Mapping[str, Any] | None]


class Run:
    """A directory of steps, held by one process at a time: ``with Run(directory, model, facts) as run: ...``.

    Args:
        root: the directory; made if it is not there.
        model: the model that is studied.
        facts: the facts that are contested.
        about: what else identifies the experiment, as JSON values: kept in the run's card, never compared.

    Raises:
        StudyError: on entering, if the directory holds something else, a study of another model or of other facts, or
            another process is at work in it.
    """

    def __init__(self, root: str | Path, model: Model, facts: FactSet, about: Mapping[str, Any] | None = None) -> None:
        self.root = Path(root)
        self.model = model
        self.facts = facts
        self.inputs = {"model": model.fingerprint, "facts": facts.fingerprint()}
        named = {"name": model.name, "family": model.family, "dtype": str(model.dtype)}
        self._identity = {"inputs": self.inputs, "model": named}  # of the card, whichever model a step is made with
        self._about = dict(about or {})
        self._lock: FileLock | None = None

    def __repr__(self) -> str:
        return f"Run({str(self.root)!r}, {self.model!r}, {self.facts!r})"

    def __enter__(self) -> Run:
        if self.root.is_file():
            raise StudyError(f"{self.root} is a file. Give a directory.")
        refuse_strangers(self.root, self.facts)
        try:
            self._hold()
            self._claim()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._release()

    def with_model(self, model: Model) -> Run:
        """The same open run, with another model for the steps that are made through it.

        Its steps name that model among their inputs, and need names of their own: a step of the same name is
        superseded.

        Args:
            model: such as one that never held the facts.
        """
        other = copy.copy(self)
        other.model = model
        other.inputs = {**self.inputs, "model": model.fingerprint}
        return other

    def plan(self, steps: Mapping[str, int | None]) -> None:
        """Say in the run's card which steps are to come, and of which training how many optimizer steps at most.

        ``mechmask status`` reads it; nothing else depends on it.

        Args:
            steps: by the name of each step, the most optimizer steps of a training; ``None`` for other steps.
        """
        self._about["plan"] = [[name, limit] for name, limit in steps.items()]
        self._write_card()

    def step(
        self,
        name: str,
        settings: Settings,
        inputs: Mapping[str, str],
        make: Make,
    ) -> Step:
        """The step of that name: as it is there, or made now.

        Args:
            name: its path below the run's directory, such as ``readings/before``.
            settings: what it is configured by.
            inputs: digest of everything else that it depends on, by name.
            make: writes its files into an empty directory; what it returns is kept as the step's ``details``.

        Raises:
            StudyError: if the name is none that a step can have, a step that it is made from has been replaced since,
                or it cannot be written.
        """
        self._require_present(name, inputs)
        present = self.find(name, settings, inputs)
        return present if present is not None else self._make(name, settings, inputs, make)

    def find(self, name: str, settings: Settings, inputs: Mapping[str, str]) -> Step | None:
        """The step of that name, settings and inputs if it is there and whole; a damaged one is removed.

        Args:
            name: its path below the run's directory.
            settings: what it is configured by.
            inputs: digest of everything else that it depends on, by name.

        Raises:
            StudyError: if the name is none that a step can have, or the step is damaged and the directory may only be
                read.
        """
        self._require_name(name)
        place = self.root / name
        if self._lock is not None and not is_made_from(place, settings, inputs):
            self._bring_back(name, settings, inputs)
        if not is_made_from(place, settings, inputs):
            return None
        try:
            return require_whole(place)
        except StudyError as error:
            if self._lock is None:
                raise
            note(f"{error.args[0].partition('. ')[0]}. It is made again.")
            shutil.rmtree(place)
            return None

    def steps_below(self, name: str) -> list[Step]:
        """The steps that lie in a directory, in the order of their names, as their manifests say.

        Args:
            name: the directory, below the run's.
        """
        steps = []
        for path in sorted((self.root / name).glob(f"[!.]*/{MANIFEST}")):
            with suppress(StudyError):
                steps.append(peek(path.parent))
        return steps

    def drop(self, name: str) -> None:
        """Remove a step that nothing needs any more: all of it, or where a process ends meanwhile nothing.

        Args:
            name: its path below the run's directory.
        """
        place = self.root / name
        going = place.with_name(f"{_UNFINISHED}{uuid4().hex}")
        with suppress(OSError):
            place.rename(going)
            shutil.rmtree(going, ignore_errors=True)  # what an interrupt leaves of it is swept

    def export(self, name: str, sources: Mapping[str, str], make: Callable[[Path], object]) -> Path:
        """A file for people, such as a table or a figure: made from steps, and anew when they or the file changed.

        Args:
            name: its path below the run's directory.
            sources: digests of what it is made from.
            make: writes the file.
        """
        path, listed = self.root / name, self._exports()
        entry = listed.get(name, {})
        whole = path.is_file() and entry.get("sources") == dict(sources) and _is(path, entry.get("digest"))
        if not whole:
            self._refuse_read_only(name)
            with replaced_file(path) as temporary:
                make(temporary)
            listed[name] = {"sources": dict(sources), "digest": content_digest(path)}
            self._write(self.root / EXPORTS, {"files": listed})
        return path

    def _make(self, name: str, settings: Settings, inputs: Mapping[str, str], make: Make) -> Step:
        place = self.root / name
        self._refuse_read_only(name)
        unfinished = place.with_name(f"{_UNFINISHED}{uuid4().hex}")
        try:
            with new_directory(unfinished) as directory:
                details = make(directory)
                seal_step(directory, name, settings, inputs, details or {})
            with file_errors(place):
                self._supersede(name)
                unfinished.rename(place)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        return require_whole(place)

    def _require_name(self, name: str) -> None:
        """Refuse a name that leads elsewhere, or into or around another step."""
        parts = name.split("/")
        if parts[0] in ("superseded", CARD, EXPORTS, FACTS) or not all(map(_can_be_named, parts)):
            raise StudyError(
                f"{name!r} cannot be the name of a step. Give words divided by /, none of which begins with a dot or "
                "is longer than 200 bytes, without backslashes and control characters."
            )
        place = self.root / name
        around = next((p for p in place.parents if p.is_relative_to(self.root) and (p / MANIFEST).is_file()), None)
        within = None if (place / MANIFEST).is_file() else next(place.rglob(f"*/{MANIFEST}"), None)
        other = around or (within and within.parent)
        if other:
            raise StudyError(
                f"The step {name} would lie in one directory with the step {other.relative_to(self.root).as_posix()}. "
                "Give one of them another name."
            )

    def _require_present(self, name: str, inputs: Mapping[str, str]) -> None:
        """Refuse inputs that are steps and have been replaced: what is made from them would never be up to date."""
        for source, digest in inputs.items():
            if (self.root / source / MANIFEST).is_file() and peek(self.root / source).digest != digest:
                raise StudyError(
                    f"The step {name} is to be made from {source}, but a step of that name and other settings or "
                    "inputs has taken its place. Give the two names of their own."
                )

    def _supersede(self, name: str) -> None:
        """Move a step of other settings or inputs out of the way; a damaged one is removed."""
        place = self.root / name
        if not place.exists():
            return
        try:
            label = label_of(place)
        except StudyError:
            shutil.rmtree(place)
            return
        target = self.root / "superseded" / name / label[:12]
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.exists():
            shutil.rmtree(target)
        place.rename(target)

    def _bring_back(self, name: str, settings: Settings, inputs: Mapping[str, str]) -> None:
        for earlier in sorted((self.root / "superseded" / name).glob(f"*/{MANIFEST}")):
            if is_made_from(earlier.parent, settings, inputs):
                with file_errors(self.root / name):
                    self._supersede(name)
                    (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                    earlier.parent.rename(self.root / name)
                return

    def _hold(self) -> None:
        try:
            with file_errors(self.root):
                self.root.mkdir(parents=True, exist_ok=True)
        except FileError as error:
            raise StudyError(f"{self.root} cannot be a study's directory: {error}") from error
        self._lock = FileLock(self.root / LOCK)  # named before it is taken, so that an interrupt finds it to release
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            self._lock = None
            raise StudyError(
                f"Another process is at work in {self.root}. Wait for it, or give another directory."
            ) from error
        except OSError:  # a directory that may only be read: what is finished is taken up, nothing can be made
            self._lock = None
            return
        self._sweep()

    def _sweep(self) -> None:
        """Remove what a process left that was killed while it wrote; hidden files of other programs stay."""
        for place, directories, files in os.walk(self.root):
            for directory in [name for name in directories if name.startswith((_UNFINISHED, f".{_UNFINISHED}"))]:
                directories.remove(directory)
                shutil.rmtree(Path(place, directory), ignore_errors=True)
            for path in (Path(place, file) for file in files):
                if is_temporary(path):
                    with suppress(OSError):
                        path.unlink()

    def _release(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _refuse_read_only(self, name: str) -> None:
        if self._lock is None:
            raise StudyError(
                f"The step {name} is not there yet and {self.root} cannot be written. Open what is finished with "
                "mechmask.open_study, or give another directory."
            )

    def _claim(self) -> None:
        """Write the run's card, or hold the one that is there against this run's model and facts."""
        if (self.root / CARD).is_file():
            card = read_card(self.root)
            for name, what in (("model", "another model"), ("facts", "other facts")):
                if card["inputs"].get(name) != self._identity["inputs"][name]:
                    raise StudyError(
                        f"{self.root} holds a study of {what} ({name} is {card['inputs'].get(name)} there and "
                        f"{self.inputs[name]} here). Give a new directory, or the {name} of the study that is there."
                    )
            self._about = {**{k: v for k, v in card["about"].items() if k == "plan"}, **self._about}
        facts = self.facts.to_jsonl_text()
        path = self.root / FACTS
        if not path.is_file() or path.read_bytes() != facts.encode():
            self._refuse_read_only(FACTS)
            write_text(path, facts)
        self._write_card()

    def _write_card(self) -> None:
        card = {"schema_version": SCHEMA_VERSION, **self._identity, "about": self._about}
        self._write(self.root / CARD, card)

    def _write(self, path: Path, content: Mapping[str, Any]) -> None:
        """Write JSON with its digest where it is not there already, word for word."""
        text = sealed_text(content)
        if path.is_file() and path.read_bytes() == text.encode():
            return
        self._refuse_read_only(path.name)
        write_text(path, text)

    def _exports(self) -> dict[str, Any]:
        try:
            return unsealed((self.root / EXPORTS).read_bytes().decode("utf-8"))["files"]
        except (OSError, ValueError, KeyError):
            return {}


def _can_be_named(part: str) -> bool:
    return (
        bool(part)
        and not part.startswith(".")
        and part.isprintable()
        and "\\" not in part
        and len(part.encode()) <= _LONGEST_PART
    )


def _is(path: Path, digest: object) -> bool:
    try:
        return content_digest(path) == digest
    except (DamageError, FileError):
        return False
