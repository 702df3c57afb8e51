"""``Sweep``: one study file over every combination of models, draws, seeds, doses, methods, or whatever else it says.

.. code-block:: toml

    [model]
    source = "smollm2-135m"

    [facts.synthetic]
    n = 12

    [study]
    contradict = { steps = 30 }

    [sweep]
    draw = [0, 1, 2]                       # draws of facts; seed = [0, 1] would be seeds of training
    model = ["smollm2-135m", "my-model"]   # of the table [model], its source
    study.contradict.lr = [1e-4, 1e-3]     # any other key of the file by its path
    study.edits = [["ft_l"], ["rome"]]

Every combination is a study in a directory of its own, so that what is finished is kept and any of them can be opened
alone. Where they run is one argument: one after the other in this process, or as tasks of Ray.
"""

from __future__ import annotations

import copy
import itertools
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import xxhash

from mechmask.errors import MechmaskError, StudyError, known_names
from mechmask.file_errors import file_errors
from mechmask.files import write_text
from mechmask.progress import progress_bar
from mechmask.study.config import read_toml
from mechmask.study.on_ray import run_on_ray
from mechmask.study.step import digest_of, sealed_text
from mechmask.study.sweep_results import (
    DRAW,
    FINISHED,
    MODEL,
    SEED,
    STUDIES,
    SWEEP_CARD,
    Label,
    SweepResults,
    made_from,
)
from mechmask.study.toml import Description, LastModel, description

Where = Literal["here", "ray"]

_TABLE = "sweep"
_LONGEST_NAME = 80


class Point(NamedTuple):
    """One study of a sweep.

    Attributes:
        name: of its directory.
        labels: what it is, by axis.
        content: the tables of its file.
        path: of the sweep's file, to which paths in it are relative.
    """

    name: str
    labels: dict[str, Label]
    content: dict[str, Any]
    path: Path

    @property
    def digest(self) -> str:
        """What tells the study from one that a file which has been changed since describes under the same name."""
        return digest_of([self.labels, self.content])

    @property
    def description(self) -> Description:
        """What the file describes."""
        return description(self.content, self.path)

    def run(self, models: LastModel, directory: Path) -> str:
        """Do what is not done yet of the study.

        Args:
            models: which keeps the model of the last one.
            directory: of the sweep.

        Returns:
            Why it cannot be done; empty where it is finished.
        """
        try:
            self._finish(models, directory)
        except MechmaskError as error:
            return str(error)
        return ""

    def _finish(self, models: LastModel, directory: Path) -> None:
        begin = time.perf_counter()
        found = self.description
        draw, seed = (int(self.labels.get(axis, 0)) for axis in (DRAW, SEED))
        found.study(models.of(found.file.model), draw, seed).run(directory / STUDIES / self.name)
        if made_from(directory, self.name) != self.digest:
            spent = time.perf_counter() - begin
            mark = {"made_from": self.digest, "seconds": spent}
            write_text(directory / FINISHED / f"{self.name}.json", sealed_text(mark))


class Sweep:
    """A study file over every combination of what its table ``[sweep]`` lists.

    Args:
        source: a TOML file, or its tables as a mapping, in which paths are relative to the working directory.

    Raises:
        StudyError: if there is no table ``[sweep]``, an axis has no values or the same one twice, or any of the studies
            cannot be configured: then listing which and why.

    Examples:
        >>> import mechmask as mm
        >>> axes = {"draw": [0, 1], "study": {"lens": ["logit", "ridge"]}}
        >>> mm.Sweep({"facts": {"synthetic": {"n": 12}}, "sweep": axes})
        Sweep(4 studies: draw x lens)
    """

    def __init__(self, source: str | Path | Mapping[str, Any]) -> None:
        in_memory = isinstance(source, Mapping)
        path = (Path("sweep.toml") if in_memory else Path(source)).absolute()  # a worker may stand elsewhere
        content = copy.deepcopy(dict(source)) if in_memory else read_toml(path)
        if "draws" in content:
            raise StudyError(f"{path.name}: a sweep has its draws and seeds as axes. Give draw or seed under [sweep].")
        axes = dict(_axes(content.pop(_TABLE, None), path.name))
        self.axes = {_short(name, axes): [label for label, _ in values] for name, values in axes.items()}
        self.points = tuple(_points(content, axes, path))
        self._require_sound(path.name)

    def __repr__(self) -> str:
        return f"Sweep({len(self.points)} studies: {' x '.join(self.axes)})"

    def run(
        self,
        directory: str | Path,
        on: Where = "here",
        *,
        workers: int | None = None,
        address: str | None = None,
        cpus: float = 1,
        gpus: float = 0,
    ) -> SweepResults:
        """Do what is not done yet in ``directory``; a study that cannot be done does not keep the others from it.

        Args:
            directory: new, or that of such a sweep. With ``on="ray"`` on several machines, one that all of them share.
            on: ``here``, one study after the other in this process; or ``ray``, as tasks of Ray: on a cluster, or where
                no address is given on this machine. A study whose worker is killed is taken up again.
            workers: how many studies run at once on this machine, with ``on="ray"``; as many as its processors and GPUs
                allow by default.
            address: of a Ray cluster, such as ``auto``.
            cpus: processors for each study on Ray, which are also its threads.
            gpus: GPUs for each study on Ray; a share such as 0.5 puts two on one.

        Returns:
            The results of all studies.

        Raises:
            StudyError: if the directory holds something else, ``on`` is not known or cannot be had; and, once all
                others are finished, if studies could not be done, naming each with its reason.
        """
        if on not in get_args(Where):
            raise StudyError(f"A sweep cannot run on {on!r}. {known_names(on, get_args(Where))}")
        if on == "here" and (workers, address, cpus, gpus) != (None, None, 1, 0):
            raise StudyError("workers, address, cpus and gpus are Ray's. Give on='ray' beside them, or leave them out.")
        root = Path(directory).absolute()
        _refuse_strangers(root)
        studies = {point.name: {"labels": point.labels, "made_from": point.digest} for point in self.points}
        write_text(root / SWEEP_CARD, sealed_text({"axes": self.axes, "studies": studies}))
        if on == "ray":
            done = run_on_ray(self.points, root, workers=workers, address=address, cpus=cpus, gpus=gpus)
        else:
            done = _run_here(self.points, root)
        failed: dict[str, str] = {}
        with progress_bar("studies", len(self.points)) as tick:
            for name, problem in done:
                tick(name)
                if problem:
                    failed[name] = problem
        if failed:
            raise StudyError(_failures(failed, len(self.points), root))
        return SweepResults(directory)

    def _require_sound(self, name: str) -> None:
        """Look at every study before the first is run."""
        for point in self.points:
            try:
                found = point.description
            except StudyError as error:
                raise StudyError(f"{_said(point.labels)}: {error}") from error
            if found.protocol.draws_facts:
                raise StudyError(
                    f"{name}: this protocol draws its facts itself and is no single study. Sweep over a protocol that "
                    "it consists of."
                )
            if DRAW in point.labels and found.file.facts.path is not None:
                raise StudyError(f"{name}: the facts of a file are one draw. Leave draw out, or give other facts.")


def _run_here(points: tuple[Point, ...], root: Path) -> Iterator[tuple[str, str]]:
    """One study after the other; each model is loaded once, since its studies follow one another."""
    models = LastModel()
    for point in points:
        yield point.name, point.run(models, root)


def _axes(table: object, name: str) -> Iterator[tuple[str, list[tuple[Label, Any]]]]:
    """Every axis by the path of its key in the file: what each value is called, and the value."""
    if not isinstance(table, Mapping) or not table:
        raise StudyError(f"{name} has no table [sweep]. List there what is varied, such as draw = [0, 1, 2].")
    for key, values in _leaves(table):
        path = {"model": f"{MODEL}.source"}.get(key, key)
        if not isinstance(values, list | tuple) or not values:
            raise StudyError(f"{name}: [sweep] {key} is no list of values. Give one, such as {key} = [0, 1].")
        labels = [_label(value) for value in values]
        if len(set(labels)) < len(labels):
            raise StudyError(f"{name}: [sweep] {key} holds the same value twice. Leave one out.")
        if key in (DRAW, SEED) and not all(type(value) is int and value >= 0 for value in values):
            raise StudyError(f"{name}: [sweep] {key} holds something else than numbers from 0 on. Give those.")
        if key not in (DRAW, SEED) and path.split(".")[0] not in ("model", "facts", "study"):
            raise StudyError(
                f"{name}: [sweep] {key} is no key of the file. Give draw, seed, model, or the path of a key, such as "
                "study.contradict.lr."
            )
        if len({isinstance(label, str) for label in labels}) > 1:  # a dimension has labels of one kind
            labels = [str(label) for label in labels]
        yield path, list(zip(labels, values, strict=True))


def _leaves(table: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def _points(content: Mapping[str, Any], axes: Mapping[str, list[tuple[Label, Any]]], path: Path) -> Iterator[Point]:
    """The studies, those of one model one after the other."""
    in_order = sorted(axes, key=lambda name: not name.startswith(f"{MODEL}."))
    for chosen in itertools.product(*(axes[name] for name in in_order)):
        described = copy.deepcopy(dict(content))
        for name, (_, value) in zip(in_order, chosen, strict=True):
            if name not in (DRAW, SEED):
                _put(described, name, value)
        by_axis = {_short(name, axes): label for name, (label, _) in zip(in_order, chosen, strict=True)}
        labels = {name: by_axis[name] for name in (_short(axis, axes) for axis in axes)}
        yield Point(_name(labels), labels, described, path)


def _put(content: dict[str, Any], name: str, value: Any) -> None:
    """Set a key of a file by its path; what stands there as no table is replaced by one."""
    *tables, last = name.split(".")
    for table in tables:
        inner = content.get(table)
        content[table] = dict(inner) if isinstance(inner, Mapping) else {}
        content = content[table]
    content[last] = value


def _short(name: str, axes: Mapping[str, Any]) -> str:
    """What an axis is called: the last part of its path where no other ends in it."""
    if name == f"{MODEL}.source":
        return MODEL
    last = name.rsplit(".", 1)[-1]
    taken = [other for other in axes if other != name and last in (other, _last(other))]
    return name if taken or (last in (MODEL, DRAW, SEED) and name != last) else last


def _last(name: str) -> str:
    return MODEL if name == f"{MODEL}.source" else name.rsplit(".", 1)[-1]


def _label(value: Any) -> Label:
    """What a value is called: itself, or of a list and a table what they hold."""
    if isinstance(value, Mapping):
        return " ".join(f"{key}={_label(inner)}" for key, inner in value.items())
    if isinstance(value, list | tuple):
        return "+".join(str(_label(inner)) for inner in value) or "none"
    return value if isinstance(value, str | int | float) and not isinstance(value, bool) else str(value).lower()


def _name(labels: Mapping[str, Label]) -> str:
    """The name of a study's directory: its labels, with a digest of them where they had to be shortened."""
    said = _said(labels)
    plain = re.sub(r"[^A-Za-z0-9.=_+,-]+", "-", said.replace(", ", ","))
    if plain == said.replace(", ", ",") and len(plain) <= _LONGEST_NAME:
        return plain
    return f"{plain[:_LONGEST_NAME]}-{xxhash.xxh3_64_hexdigest(said.encode())[:8]}"


def _said(labels: Mapping[str, Label]) -> str:
    return ", ".join(f"{axis}={label}" for axis, label in labels.items())


def _failures(failed: Mapping[str, str], n: int, root: Path) -> str:
    lines = "\n".join(f"  {name}: {problem}" for name, problem in failed.items())
    return (
        f"{len(failed)} of {n} studies could not be done:\n{lines}\n"
        f"All others are finished; the same call goes on with these, and open_results({str(root)!r}) opens the others."
    )


def _refuse_strangers(root: Path) -> None:
    """Leave a directory alone that holds something but a sweep."""
    with file_errors(root):
        there = {path.name for path in root.iterdir()} if root.is_dir() else set()
    ours = {STUDIES, FINISHED} if SWEEP_CARD in there else set()
    others = sorted(name for name in there - ours if name != SWEEP_CARD and not name.startswith(f".{SWEEP_CARD}."))
    if others:
        raise StudyError(f"{root} is not empty and holds no sweep (there is {others[0]}). Give a new directory.")
