"""The studies of a sweep: what its axes are, and what each combination of their values is called and consists of."""

from __future__ import annotations

import copy
import itertools
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from mechmask.errors import MechmaskError, StudyError
from mechmask.files import write_text
from mechmask.study.step import digest_of, sealed_text
from mechmask.study.sweep_results import DRAW, FINISHED, MODEL, SEED, STUDIES, Label, made_from
from mechmask.study.toml import Description, LastModel, description

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


class Grid(NamedTuple):
    """Every combination of what a sweep varies.

    Attributes:
        axes: the labels along every axis, by its name.
        points: the studies, those of one model one after the other.
    """

    axes: dict[str, list[Label]]
    points: tuple[Point, ...]


def grid(content: Mapping[str, Any], varied: object, path: Path) -> Grid:
    """The studies that a file describes.

    Args:
        content: its tables, without ``[sweep]``.
        varied: the table ``[sweep]``.
        path: of the file.

    Raises:
        StudyError: if nothing is varied, or an axis has no values, the same one twice or those of no key.
    """
    axes = dict(_axes(varied, path.name))
    labels = {_short(name, axes): [label for label, _ in values] for name, values in axes.items()}
    return Grid(labels, tuple(_points(content, axes, path)))


def said(labels: Mapping[str, Label]) -> str:
    """The labels of a study in words."""
    return ", ".join(f"{axis}={label}" for axis, label in labels.items())


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
    in_words = said(labels)
    plain = re.sub(r"[^A-Za-z0-9.=_+,-]+", "-", in_words.replace(", ", ","))
    if plain == in_words.replace(", ", ",") and len(plain) <= _LONGEST_NAME:
        return plain
    return f"{plain[:_LONGEST_NAME]}-{xxhash.xxh3_64_hexdigest(in_words.encode())[:8]}"
