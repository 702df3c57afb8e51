"""Published and measured settings of editors: one TOML file a model, one table a method, each with its source.

A setting belongs to one model: family, number of blocks, width and, where those are shared, vocabulary tell which.
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


class Setting(BaseModel):
    """What a file says of one method.

    Attributes:
        source: where the setting comes from.
        config: the fields of the method's configuration.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    config: dict[str, Any]


class ModelPresets(BaseModel):
    """The settings of a model.

    Attributes:
        family: the model type of transformers.
        n_layers: the number of blocks.
        width: of the residual stream.
        vocab_size: the number of logits, where family and size do not tell the model from another one.
        methods: setting by method.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    family: str
    n_layers: int
    width: int
    vocab_size: int | None = None
    methods: dict[str, Setting]

    def fits(self, model: Model) -> bool:
        """Whether a model is the one that the settings are for."""
        same_size = (self.family, self.n_layers, self.width) == (model.family, model.n_layers, model.width)
        return same_size and self.vocab_size in (None, model.vocab_size)


@functools.cache
def model_presets() -> Mapping[str, ModelPresets]:
    """The settings of every model by its name."""
    files = (file for file in resources.files(__name__).iterdir() if file.name.endswith(".toml"))
    return {
        file.name.removesuffix(".toml"): ModelPresets(**tomllib.loads(file.read_text(encoding="utf-8")))
        for file in sorted(files, key=lambda file: file.name)
    }


def presets(method: str) -> Mapping[str, Setting]:
    """The settings of a method by the name of the model; none where no file has one."""
    return {name: found.methods[method] for name, found in model_presets().items() if method in found.methods}


def preset(method: str, name: str) -> Setting:
    """The setting of a method for a named model.

    Raises:
        ChangeError: if there is none of that name.
    """
    known = presets(method)
    if name not in known:
        raise ChangeError(f"There is no {_label(method)} preset {name!r}. {known_names(name, known)}")
    return known[name]


def preset_of(method: str, model: Model) -> Setting:
    """The setting of a method for a model's family and size.

    Raises:
        ChangeError: if there is none.
    """
    for found in model_presets().values():
        if method in found.methods and found.fits(model):
            return found.methods[method]
    known = ", ".join(presets(method)) or "no model"
    raise ChangeError(
        f"No {_label(method)} setting is known for a {model.family} of {model.n_layers} layers and width "
        f"{model.width}. Pass config= with a layer of your choice; there are presets for {known}."
    )


def _label(method: str) -> str:
    return method.replace("_", "-").upper()
