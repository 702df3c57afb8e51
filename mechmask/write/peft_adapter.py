"""A LoRA that peft saved, as a change: LoRA, DoRA and rsLoRA on linear maps.

What a directory of peft's names by patterns (a regular expression, ``all-linear``, ranks by pattern) is worked out from
the factors that are there, so that the change puts on these and nothing else. The directory does not say which weights
it was trained on; the change is bound to those of the model that is given.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import LoraConfig
from peft.utils.other import get_pattern_key
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from mechmask.errors import ChangeError, ModelError
from mechmask.file_errors import file_errors
from mechmask.models.adapter_config import safe_lora_config
from mechmask.models.model import Model
from mechmask.write.adapter import PEFT_PREFIX, AdapterChange, factor_name

SETTINGS, FACTORS = "adapter_config.json", "adapter_model.safetensors"
DEFAULT = "default"  # the adapter that peft writes into the directory itself, and not into one of its name

CHECKPOINT = re.compile(r"checkpoint-(\d+)")  # what transformers' trainer calls the directories of a series
_FACTOR = re.compile(r"(?P<layer>.+)\.(?:lora_[AB]\.weight|lora_magnitude_vector)")


def adapter_directory(directory: Path, adapter: str | None) -> Path:
    """Where an adapter is: peft writes the first into the directory itself, and each further one below it.

    Args:
        directory: what ``save_pretrained`` wrote.
        adapter: its name; the only one by default.

    Raises:
        ChangeError: if there is none of that name, or several and none is named.
    """
    found = _adapters(directory)
    if adapter is None and len(found) == 1:
        return next(iter(found.values()))
    if adapter in found:
        return found[adapter]
    asked = f"no adapter {adapter!r}" if adapter is not None else "several adapters, or none"
    raise ChangeError(f"{directory} holds {asked}. Name one with adapter=: {', '.join(found) or 'there is none'}.")


def is_adapter(directory: Path) -> bool:
    """Whether peft wrote a directory, for one adapter or for several."""
    return bool(_adapters(directory))


def adapter_from_peft(directory: Path, model: Model) -> AdapterChange:
    """The adapter in a directory, as a change of a model.

    Args:
        directory: the one that holds ``adapter_config.json``.
        model: what it is a change of.

    Returns:
        The change. Its details hold the ``base_model_name_or_path`` that the directory names.

    Raises:
        ChangeError: if it is no LoRA, DoRA or rsLoRA, has more than factors of linear maps (``modules_to_save``, a
            bias, embeddings), is damaged, or does not fit the model.
    """
    raw = _settings(directory / SETTINGS)
    try:
        config = safe_lora_config(raw)
    except ModelError as error:
        raise ChangeError(f"The adapter in {directory} cannot be used: {error}") from error
    tensors = _factors(directory)
    details = {
        "directory": str(directory),
        "base_model_name_or_path": raw.get("base_model_name_or_path"),
        "config": config.to_dict(),
    }
    method = "dora" if config.use_dora else "lora"
    change = AdapterChange(
        _config_of(config, tensors, directory), tensors, model.fingerprint, method, json.loads(_plain(details))
    )
    with change.applied(model):
        pass  # refuses what does not fit
    return change


def _adapters(directory: Path) -> dict[str, Path]:
    """By name; the checkpoints of a series that lie there too are none of them."""
    below = {path.parent.name: path.parent for path in sorted(directory.glob(f"*/{SETTINGS}"))}
    own = {DEFAULT: directory} if (directory / SETTINGS).is_file() else {}
    return own | {name: path for name, path in below.items() if not CHECKPOINT.fullmatch(name)}


def _settings(path: Path) -> Mapping[str, Any]:
    try:
        with file_errors(path, "read"):
            content = path.read_bytes()
        raw = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ChangeError(f"{path} is damaged ({type(error).__name__}). Save the adapter again.") from error
    if not isinstance(raw, dict):
        raise ChangeError(f"{path} is not an object. Save the adapter again.")
    return raw


def _factors(directory: Path) -> dict[str, Tensor]:
    """The factors, by name in the module.

    Raises:
        ChangeError: if there are none, or the file holds something else too.
    """
    path = directory / FACTORS
    if not path.is_file():
        raise ChangeError(
            f"The adapter in {directory} has no {FACTORS}; pickled weights are refused. Save it with "
            "safe_serialization=True."
        )
    try:
        with file_errors(path, "read"):
            stored = load_file(path)
    except SafetensorError as error:
        raise ChangeError(f"{path} is damaged ({error}). Save the adapter again.") from error
    tensors = {factor_name(name.removeprefix(PEFT_PREFIX)): tensor for name, tensor in stored.items()}
    other = next((name for name in tensors if not _FACTOR.fullmatch(name)), None)
    if other is not None:
        raise ChangeError(
            f"The adapter in {directory} changes {other} too, which is no factor of a linear map (modules_to_save, a "
            "bias or an embedding). Read the whole with load_model, which puts it on the base that it names, or merge "
            "it with peft and give the merged checkpoint."
        )
    if not tensors:
        raise ChangeError(f"{path} holds no factor. Save the adapter again.")
    return tensors


def _config_of(config: LoraConfig, tensors: Mapping[str, Tensor], directory: Path) -> LoraConfig:
    """The same scale on the same layers, each layer by its own name."""
    layers = sorted({match["layer"] for name in tensors if (match := _FACTOR.fullmatch(name))})
    ranks, alphas = {}, {}
    for layer in layers:
        ends = tensors.get(f"{layer}.lora_A.weight"), tensors.get(f"{layer}.lora_B.weight")
        rank = _by_pattern(config.rank_pattern or {}, layer, config.r)
        if any(end is None for end in ends) or {ends[0].shape[0], ends[1].shape[1]} != {rank}:  # pyright: ignore[reportOptionalMemberAccess]
            raise ChangeError(
                f"The factors of {layer} in {directory} are not two of rank {rank}, as {SETTINGS} says. Save the "
                "adapter again."
            )
        if rank != config.r:
            ranks[re.escape(layer)] = rank
        alpha = _by_pattern(config.alpha_pattern or {}, layer, config.lora_alpha)
        if alpha != config.lora_alpha:
            alphas[re.escape(layer)] = alpha
    return LoraConfig(
        r=config.r,
        lora_alpha=config.lora_alpha,
        target_modules=layers,
        use_rslora=config.use_rslora,
        use_dora=config.use_dora,
        fan_in_fan_out=config.fan_in_fan_out,
        rank_pattern=ranks,
        alpha_pattern=alphas,
    )


def _by_pattern(patterns: Mapping[str, Any], layer: str, default: Any) -> Any:
    return patterns.get(get_pattern_key(list(patterns), layer), default)


def _plain(details: Mapping[str, Any]) -> str:
    return json.dumps(details, default=lambda value: sorted(value) if isinstance(value, set) else str(value))
