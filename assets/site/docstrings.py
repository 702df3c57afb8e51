"""How the reference reads the docstrings, where the Google style of griffe reads something else.

* What is returned is said in sentences; what stands before their first colon is no type.
* One line may explain several names: ``base, method, details: as above``.
* The settings of a configuration have their defaults beside them, and those of its bases stand before its own.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import takewhile
from typing import Any

import griffe

_ROOTS = ("Configuration", "Record")  # whose fields are settings, or those of a fact


class Docstrings(griffe.Extension):
    """Mends every docstring of the package once it is loaded."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Go through all classes and functions."""
        things = list(_within(pkg))
        for thing in things:
            for section in thing.docstring.parsed if thing.docstring else ():
                _mend(section, thing)
        configurations = [one for one in things if isinstance(one, griffe.Class) and _is_configuration(one)]
        for cls, settings in [(cls, _with_inherited(cls)) for cls in configurations]:
            _show(cls, settings)


def _within(thing: griffe.Module | griffe.Class) -> Iterator[griffe.Class | griffe.Function]:
    for member in thing.members.values():
        if isinstance(member, griffe.Class | griffe.Function):
            yield member
        if isinstance(member, griffe.Module | griffe.Class):
            yield from _within(member)


def _mend(section: griffe.DocstringSection, thing: griffe.Class | griffe.Function) -> None:
    if isinstance(section, griffe.DocstringSectionReturns) and isinstance(thing, griffe.Function):
        for item in section.value:
            if isinstance(item.annotation, str):
                item.description = f"{item.annotation}: {item.description}"
                item.annotation = thing.returns
    elif isinstance(section, griffe.DocstringSectionParameters | griffe.DocstringSectionAttributes):
        for item in section.value:
            if item.name.endswith(","):
                item.name = f"{item.name} {str(item.annotation).strip('()')}"
                item.annotation = None


def _is_configuration(cls: griffe.Class) -> bool:
    return any(base.name in _ROOTS for base in cls.mro())


def _with_inherited(cls: griffe.Class) -> list[griffe.DocstringAttribute]:
    """The settings of a configuration's bases before its own, with the defaults that they have in it."""
    line = [*reversed(list(takewhile(lambda base: base.name not in _ROOTS, cls.mro()))), cls]
    found = {item.name: item for one in line if (section := _settings(one)) for item in section.value}
    defaults = {name: value for one in line for name, field in one.members.items() if (value := _default(field))}
    return [
        griffe.DocstringAttribute(
            name=name,
            annotation=item.annotation,
            description=f"{item.description} Default: `{defaults[name]}`." if name in defaults else item.description,
        )
        for name, item in found.items()
    ]


def _show(cls: griffe.Class, settings: list[griffe.DocstringAttribute]) -> None:
    """Put the settings into a configuration's docstring, in the place of its own."""
    if cls.docstring is None or not settings:
        return
    sections, own = cls.docstring.parsed, _settings(cls)
    shown = griffe.DocstringSectionAttributes(settings)
    if own is None:
        sections.append(shown)
    else:
        sections[sections.index(own)] = shown


def _settings(cls: griffe.Class) -> griffe.DocstringSectionAttributes | None:
    sections = cls.docstring.parsed if cls.docstring else ()
    return next((one for one in sections if isinstance(one, griffe.DocstringSectionAttributes)), None)


def _default(member: griffe.Object | griffe.Alias | None) -> str:
    """The default of a field, as it is written; empty where it has none that can be shown."""
    value = getattr(member, "value", None)
    if value is None:
        return ""
    tree = ast.parse(str(value), mode="eval").body
    if isinstance(tree, ast.Call) and getattr(tree.func, "id", "") == "Field":
        given = {keyword.arg: keyword.value for keyword in tree.keywords}
        return ast.unparse(given["default"]) if "default" in given else ""
    return ast.unparse(tree)
