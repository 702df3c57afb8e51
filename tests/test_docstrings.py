"""What is public explains itself: arguments, shapes, units and errors are in its docstring, and its examples run."""

from __future__ import annotations

import dataclasses
import doctest
import enum
import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pydantic
import pytest

import mechmask

_ARRAYS = re.compile(r"\b(Tensor|ndarray|DataArray|Dataset|DataTree|ArrayLike)\b")
_SHAPE = re.compile(r"\[\s*(?:\.\.\.|[a-z_]+)(?:,\s*(?:\.\.\.|\*?[a-z_]+))*\]")
_UNITS = re.compile(  # a similarity has none: its docstring says what 0 and 1 are
    r"\b(nats|logits|layers|steps|tokens|ratios?|shares?|counts?|norm|without unit)\b|\b0 for .*, 1 for ", re.DOTALL
)
_PUBLIC = [name for name in mechmask.__all__ if name not in ("__version__", "draw")]
_FIGURES = ["draw." + name for name in import_module("mechmask.draw").__all__ if name != "interactive"]


def _public(name: str) -> Any:
    value = mechmask
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _members(cls: type) -> Iterator[tuple[str, Any]]:
    """The public methods and properties that a class of mechmask brings, those of its bases in mechmask too."""
    for base in cls.__mro__:
        if base.__module__.startswith("mechmask"):
            for name, value in vars(base).items():
                if not name.startswith("_") and isinstance(value, (property, classmethod, staticmethod, Callable)):
                    yield f"{base.__name__}.{name}", getattr(value, "__func__", value)


def _functions() -> dict[str, Any]:
    functions = {}
    for name in _PUBLIC + _FIGURES:
        value = _public(name)
        if inspect.isclass(value):
            functions.update((member, f) for member, f in _members(value) if inspect.isfunction(f))
        elif callable(value):
            functions[name] = value
    return functions


_FUNCTIONS = _functions()
_CLASSES = [name for name in _PUBLIC if inspect.isclass(_public(name))]


def _section(text: str, title: str) -> str:
    """What stands below ``title:`` in a Google docstring; empty where it has no such section."""
    section = re.search(rf"^{title}:\n((?:(?: .*)?\n)*)", text + "\n", re.MULTILINE)
    return section[1] if section else ""


def _entries(section: str) -> set[str]:
    """The names that a section explains; several may stand before one colon."""
    return {
        name.strip("* ")
        for line in section.splitlines()
        if (match := re.match(r" {4}([\w*]+(?:, [\w*]+)*):", line))
        for name in match[1].split(",")
    }


def _parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("self", "cls")]


def _takes_or_gives_arrays(function: Any) -> bool:
    source = typing.cast(Any, inspect.unwrap(function)).__annotations__
    return any(_ARRAYS.search(str(annotation)) for annotation in source.values())


def _raises(function: Any) -> bool:
    return bool(re.search(r"^\s+raise \w", inspect.getsource(inspect.unwrap(function)), re.MULTILINE))


@pytest.mark.parametrize("name", _PUBLIC + _FIGURES)
def test_every_public_name_says_what_it_is(name):
    value = _public(name)
    text = inspect.getdoc(value) or ""
    assert text.split("\n")[0].endswith((".", "?")), f"the first line of {name} is not a sentence: {text!r}"
    if inspect.isclass(value):
        silent = [member for member, method in _members(value) if not inspect.getdoc(method)]
        assert not silent, f"without a docstring: {silent}"


@pytest.mark.parametrize("name", [name for name, function in _FUNCTIONS.items() if _parameters(function)])
def test_every_parameter_is_explained(name):
    function = _FUNCTIONS[name]
    explained = _entries(_section(inspect.getdoc(function) or "", "Args"))
    assert set(_parameters(function)) == explained


@pytest.mark.parametrize("name", _CLASSES)
def test_every_field_is_explained(name):
    """Of a class that is made by its fields or its constructor, in ``Args`` or ``Attributes``."""
    cls = _public(name)
    text = inspect.getdoc(cls) or ""
    if dataclasses.is_dataclass(cls):
        fields = {field.name for field in dataclasses.fields(cls) if field.init and not field.name.startswith("_")}
    elif issubclass(cls, pydantic.BaseModel):
        own = {name for name in vars(cls).get("__annotations__", {}) if not name.startswith("_")}
        fields = own - {"method", "model_config", "former"}
    elif issubclass(cls, (BaseException, enum.Enum)) or cls.__init__ is object.__init__:
        fields = set()
    else:
        fields = set(_parameters(cls.__init__))
    assert fields <= _entries(_section(text, "Args")) | _entries(_section(text, "Attributes"))


@pytest.mark.parametrize("name", [name for name, function in _FUNCTIONS.items() if _takes_or_gives_arrays(function)])
def test_arrays_come_with_shapes_units_and_errors(name):
    function = _FUNCTIONS[name]
    text = inspect.getdoc(function) or ""
    assert _SHAPE.search(text), f"{name} names no shape such as [fact, layer]"
    assert _UNITS.search(text), f"{name} names no unit"
    assert _section(text, "Raises"), f"{name} does not say what it raises"


@pytest.mark.parametrize("name", [name for name, function in _FUNCTIONS.items() if _raises(function)])
def test_what_raises_says_so(name):
    assert _section(inspect.getdoc(_FUNCTIONS[name]) or "", "Raises")


def _examples() -> list[Any]:
    """The docstrings with examples, of every module whose text has some; others are not imported for it."""
    root = Path(mechmask.__file__).parents[1]
    examples = []
    for path in sorted(Path(mechmask.__file__).parent.rglob("*.py")):
        if ">>> " in path.read_text(encoding="utf-8"):
            module = import_module(".".join(path.relative_to(root).with_suffix("").parts))
            examples += [test for test in doctest.DocTestFinder().find(module) if test.examples]
    return examples


_EXAMPLES = _examples()


def test_there_are_examples():
    assert len(_EXAMPLES) >= 12


@pytest.mark.parametrize("example", _EXAMPLES, ids=lambda example: example.name)
def test_an_example_gives_what_it_says(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "displayhook", sys.__displayhook__)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS)
    runner.run(example, out=report.append)
    assert not runner.failures, "".join(report)
