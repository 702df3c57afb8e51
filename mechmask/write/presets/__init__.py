"""Published and measured settings of editors, one TOML file per method, each setting with its source.

A setting belongs to one model: family, number of blocks and width tell which.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from importlib import resources
from typing import Any

from pydantic import BaseModel, ConfigDict

from mechmask.errors import ChangeError, known_names
from mechmask.models.model import Model

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]


class Preset(BaseModel):
    """A setting and the model it was found for.

    Attributes:
        family: the model type of transformers.
        n_layers: the number of blocks.
        width: of the residual stream.
        source: where the setting comes from.
        config: the fields of the method's configuration.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str
    n_layers: int
    width: int
    source: str
    config: dict[str, Any]


@functools.cache
def presets(method: str) -> Mapping[str, Preset]:
    """The settings of a method by name; none where no file is shipped for it."""
    file = resources.files(__name__) / f"{method}.toml"
    if not file.is_file():
        return {}
    return {name: Preset(**entry) for name, entry in tomllib.loads(file.read_text(encoding="utf-8")).items()}


def preset(method: str, name: str) -> Preset:
    """A named setting of a method.

    Raises:
        ChangeError: if there is none of that name.
    """
    known = presets(method)
    if name not in known:
        raise ChangeError(f"There is no {_label(method)} preset {name!r}. {known_names(name, known)}")
    return known[name]


def preset_of(method: str, model: Model) -> Preset:
    """The setting of a method for a model's family and size.

    Raises:
        ChangeError: if there is none.
    """
    shape = (model.family, model.n_layers, model.width)
    for entry in presets(method).values():
        if (entry.family, entry.n_layers, entry.width) == shape:
            return entry
    known = ", ".join(presets(method)) or "no model"
    raise ChangeError(
        f"No {_label(method)} setting is known for a {model.family} of {model.n_layers} layers and width "
        f"{model.width}. Pass config= with a layer of your choice; there are presets for {known}."
    )


def _label(method: str) -> str:
    return method.replace("_", "-").upper()
