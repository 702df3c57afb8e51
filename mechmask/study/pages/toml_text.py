"""A recorded configuration as the TOML file that ``mechmask study`` takes; the library that reads TOML writes none."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

_BY_NAME = ("install", "contradict_until", "text", "reference")  # may be None, which a file writes as "none"
_NOT_BY_NAME = {"contrast": ("install",), "dose": ("install",), "precision": ("contradict_until",)}


def study_toml(protocol: str, config: Mapping[str, Any], model: str, dtype: str, facts: str) -> str:
    """A file that does the same study again.

    Args:
        protocol: its name.
        config: the configuration as it was recorded, as JSON values.
        model: the source of the model.
        dtype: the type of its numbers.
        facts: path of the file of facts, from the file.
    """
    tables = {"model": {"source": model, "dtype": dtype}, "facts": {"path": facts}}
    kept = without_none(config, nameless(protocol))
    return toml_text({**tables, "study": {"protocol": protocol, **kept}})


def nameless(protocol: str) -> tuple[str, ...]:
    """The settings of a protocol of which null is the default and has no name in a file.

    Args:
        protocol: its name.
    """
    return _NOT_BY_NAME.get(protocol, ())


def without_none(config: Mapping[str, Any], left_out: tuple[str, ...] = ()) -> dict[str, Any]:
    """A configuration without null, which TOML lacks: left out, or by name where a file can say so.

    Args:
        config: as JSON values.
        left_out: fields of the outermost table in which null is the default and has no name.
    """
    kept = {name: "none" if value is None and name in _BY_NAME else value for name, value in config.items()}
    return {
        name: value for name, value in kept.items() if value is not None and not (value == "none" and name in left_out)
    }


def toml_text(tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Tables of plain values as TOML; what is nested deeper is written in line.

    Args:
        tables: by name, each of JSON values without null.
    """
    parts = []
    for name, table in tables.items():
        lines = [f"{_key(key)} = {_value(value)}" for key, value in table.items()]
        parts.append("\n".join([f"[{name}]", *lines]))
    return "\n\n".join(parts) + "\n"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _text(name)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = ", ".join(f"{_key(key)} = {_value(one)}" for key, one in value.items() if one is not None)
        return f"{{ {inner} }}" if inner else "{}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value)


def _text(value: str) -> str:
    """A basic string: JSON's escapes are TOML's, but for characters beyond the basic plane, which stay as they are."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
