"""A LoRA configuration rebuilt from what a file says, by a list of what may be in it.

peft initialises an adapter before its weights are loaded, and some initialisations (PiSSA, OLoRA, CorDA, LoftQ) rewrite
the base weights for that; other fields wrap what is not a linear layer. None of that may follow from a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Annotated, Any, Literal

from peft import LoraConfig
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mechmask.errors import ModelError

# What says where an adapter came from. The initialisation only matters before the first step of training.
_NOT_BUILT_BY = {
    *("base_model_name_or_path", "revision", "auto_mapping", "peft_version", "inference_mode", "task_type"),
    *("init_lora_weights", "runtime_config", "peft_type", "corda_config", "eva_config", "lora_ga_config"),
}
_LEAVE_THE_BASE = (None, True, False, "gaussian", "eva", "orthogonal")  # initialisations of the factors alone

Names = str | list[str] | None
Rank = Annotated[int, Field(ge=1, le=1 << 16)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class _Fields(BaseModel):
    """What an adapter may be built by."""

    model_config = ConfigDict(strict=True, extra="ignore")

    r: Rank = 8
    lora_alpha: Number = 8
    lora_dropout: Annotated[float, Field(ge=0, le=1)] = 0.0
    use_rslora: bool = False
    use_dora: bool = False
    fan_in_fan_out: bool = False
    bias: Literal["none"] = "none"
    target_modules: Names = None
    exclude_modules: Names = None
    modules_to_save: list[str] | None = None
    layers_to_transform: int | list[int] | None = None
    layers_pattern: Names = None
    rank_pattern: dict[str, Rank] | None = None
    alpha_pattern: dict[str, Number] | None = None


_DEFAULTS = {
    field.name: field.default if field.default_factory is MISSING else field.default_factory()
    for field in fields(LoraConfig)
}


def safe_lora_config(raw: Mapping[str, Any]) -> LoraConfig:
    """The configuration that builds an adapter of a file, and does nothing else.

    Args:
        raw: what ``adapter_config.json`` holds.

    Returns:
        LoRA, DoRA or rsLoRA, with the plain initialisation; for inference.

    Raises:
        ModelError: if it is an adapter of another kind, or a field of it is malformed or asks for what is not
            supported; the message names the kind or the field.
    """
    require_lora(raw.get("peft_type"))
    if raw.get("init_lora_weights") not in _LEAVE_THE_BASE:
        raise _unsupported("init_lora_weights", raw["init_lora_weights"])
    for name, value in raw.items():
        is_plain = value is None or value is False or value in ({}, [], "") or value == _DEFAULTS.get(name, MISSING)
        if name not in _Fields.model_fields and name not in _NOT_BUILT_BY and not is_plain:
            raise _unsupported(name, value)
    try:
        known = _Fields.model_validate(dict(raw)).model_dump(exclude_none=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        raise _unsupported(str(first["loc"][0]) if first["loc"] else "a field", first["input"]) from error
    try:
        return LoraConfig(**known, inference_mode=True)
    except (ValueError, TypeError) as error:
        raise ModelError(f"No LoRA adapter can be built as its configuration says ({error}). Save it again.") from error


def require_lora(kind: object) -> None:
    """Refuse an adapter of another kind, such as prompt tuning, which does not change a layer.

    Raises:
        ModelError: naming the kind.
    """
    if kind != "LORA":
        raise ModelError(
            f"An adapter of kind {_short(getattr(kind, 'value', kind))} is not supported: mechmask reads LoRA "
            "adapters, DoRA and rsLoRA among them. Train one of those, or merge this one into its base with peft "
            "where that can be done."
        )


def _unsupported(field: str, value: object) -> ModelError:
    return ModelError(
        f"The adapter's {field} is {_short(value)}, which is not supported: mechmask builds plain LoRA, DoRA and "
        "rsLoRA adapters and leaves the base as it is. Convert the adapter with peft, or save it again without that."
    )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
