"""A LoRA configuration reduced to what the forward pass depends on, and read from a file by the same measure.

peft's own reader takes any field: initialisations that rewrite the base (PiSSA, OLoRA), parameters outside linear
maps, replaced layers. Each of those is refused by name.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

from peft import LoraConfig
from pydantic import BaseModel, ConfigDict, Field

from mechmask.errors import ChangeError

_Rank = Annotated[int, Field(ge=1)]
_Alpha = Annotated[float, Field(allow_inf_nan=False)]


class _Computed(BaseModel):
    """The fields that a forward pass without dropout depends on."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    r: _Rank
    lora_alpha: _Alpha
    target_modules: list[str] = Field(min_length=1)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    fan_in_fan_out: bool = False
    use_rslora: bool = False
    use_dora: bool = False
    rank_pattern: dict[str, _Rank] = {}
    alpha_pattern: dict[str, _Alpha] = {}


# They say where an adapter came from, how its factors began or where they are looked for, and do not count once the
# factors are there and the layers are named.
_IDLE = (
    *("task_type", "peft_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision"),
    *("inference_mode", "init_lora_weights", "runtime_config", "megatron_core", "qalora_group_size"),
)


def plain_lora_config(config: LoraConfig) -> LoraConfig:
    """The configuration with what the forward pass depends on, and peft's defaults for all else.

    Raises:
        ChangeError: if it names anything else that would change what is computed.
    """
    given = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    modules = given["target_modules"]
    given["target_modules"] = sorted(modules) if isinstance(modules, set | list | tuple) else modules
    return _rebuilt(given)


def read_lora_config(path: Path) -> LoraConfig:
    """The configuration in an ``adapter_config.json``.

    Raises:
        ChangeError: if it is not that of a LoRA, or names anything else that would change what is computed.
        ValueError: if it is not a JSON object of usable values.
    """
    given = json.loads(path.read_text(encoding="utf-8"))
    if given.get("peft_type") != "LORA":
        raise ChangeError(f"The adapter in {path.parent} is not a LoRA adapter. Give one that mechmask saved.")
    return _rebuilt(given)


def _rebuilt(given: dict[str, Any]) -> LoraConfig:
    computed = {name: value for name, value in given.items() if name in _Computed.model_fields}
    defaults = LoraConfig()
    for name, value in given.items():
        if name not in computed and name not in _IDLE and value != getattr(defaults, name, None) and value:
            raise ChangeError(
                f"The adapter's configuration sets {name}, which would change the model beyond its LoRA factors. Train "
                f"it without {name}."
            )
    checked = _Computed.model_validate(computed)
    return LoraConfig(**checked.model_dump())
