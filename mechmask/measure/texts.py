r"""Texts that netCDF cannot hold: a NUL ends a string there, a lone surrogate is not UTF-8, and models generate both.

A dataset that has one is stored with all its texts escaped (``\x00``, ``\ud800``, and two backslashes for one), and
says so in an attribute; every other dataset is stored as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import xarray as xr

_FLAG = "escaped_texts"
_REFUSED = re.compile("[\0\ud800-\udfff]")
_ESCAPE = re.compile("[\\\\\0\ud800-\udfff]")
_ESCAPED = re.compile(r"\\(\\|x00|ud[89a-f][0-9a-f]{2})")


def escaped(reading: xr.Dataset) -> xr.Dataset:
    """The dataset as netCDF can hold it; the same one where it can."""
    if not any(_REFUSED.search(text) for text in _texts(reading)):
        return reading
    return _with_texts(reading, _escape).assign_attrs({_FLAG: 1})


def restored(reading: xr.Dataset) -> xr.Dataset:
    """What ``escaped`` was given."""
    if _FLAG not in reading.attrs:
        return reading
    whole = _with_texts(reading, _restore)
    del whole.attrs[_FLAG]
    return whole


def _escape(text: str) -> str:
    return _ESCAPE.sub(lambda match: {"\\": "\\\\", "\0": "\\x00"}.get(match[0], f"\\u{ord(match[0]):04x}"), text)


def _restore(text: str) -> str:
    return _ESCAPED.sub(lambda match: {"\\": "\\", "x00": "\0"}.get(match[1]) or chr(int(match[1][1:], 16)), text)


def _texts(reading: xr.Dataset) -> Iterator[str]:
    for variable in reading.variables.values():
        if variable.dtype.kind in "OUT":
            yield from (value for value in variable.values.flat if isinstance(value, str))
    for attributes in (reading.attrs, *(variable.attrs for variable in reading.variables.values())):
        for value in attributes.values():
            entries = [value] if isinstance(value, str) else value
            yield from (entry for entry in entries if isinstance(entry, str)) if np.iterable(entries) else ()


def _with_texts(reading: xr.Dataset, change: Callable[[str], str]) -> xr.Dataset:
    """Every text of a dataset changed: values, coordinates, attributes of both and of the dataset."""
    variables = {name: _variable(variable, change) for name, variable in reading.variables.items()}
    whole = xr.Dataset(
        {name: variables[name] for name in reading.data_vars}, {name: variables[name] for name in reading.coords}
    )
    return whole.assign_attrs(_attributes(reading.attrs, change))


def _variable(variable: xr.Variable, change: Callable[[str], str]) -> xr.Variable:
    values = variable.values
    if variable.dtype.kind in "OUT":
        values = np.array(variable.values, dtype=object)
        for place, value in np.ndenumerate(values):
            values[place] = change(value) if isinstance(value, str) else value
        if all(isinstance(value, str) and not value.endswith("\0") for value in values.flat):
            values = values.astype(str)  # drops a NUL at the end; objects cannot hold a surrogate (pandas 3)
    return xr.Variable(variable.dims, values, _attributes(variable.attrs, change))


def _attributes(attributes: dict[Any, Any], change: Callable[[str], str]) -> dict[Any, Any]:
    return {name: _attribute(value, change) for name, value in attributes.items()}


def _attribute(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.dtype.kind in "OU"):
        return [_attribute(entry, change) for entry in value]
    return value
