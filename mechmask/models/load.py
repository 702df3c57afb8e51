"""``load_model``: the embedded model, a Hub id, a local directory, a GGUF file, a PEFT adapter or a loaded module.

Never runs code that comes with a model and never unpickles: ``trust_remote_code`` stays off and weights are
safetensors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from mechmask.errors import ModelError
from mechmask.models import smollm2
from mechmask.models.anatomy import anatomy_of
from mechmask.models.gguf import converted
from mechmask.models.model import Model

_LOADING_ERRORS = (
    OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError, AssertionError, SafetensorError
)  # fmt: skip
_DTYPES = {"auto": "auto", "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(
    source: str | Path | torch.nn.Module = smollm2.NAME,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    device_map: str | dict[str, Any] | None = None,
) -> Model:
    """A model that can be read and changed.

    Args:
        source: ``"smollm2-135m"`` (the embedded model), a Hub id, a directory of a model or of a PEFT adapter, a
            ``.gguf`` file, or a transformers module that is loaded already.
        tokenizer: the tokenizer of a loaded module; else another one than the source's own.
        revision: branch, tag or commit of a Hub id.
        dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto``: as the weights are stored.
        device: where the whole model goes.
        device_map: as in transformers, for models over several devices.

    Raises:
        ModelError: if nothing of that name can be loaded, the arguments contradict each other, or the anatomy of the
            model is not known.
    """
    if device is not None and device_map is not None:
        raise ModelError("device and device_map contradict each other. Pass one of them.")
    if isinstance(source, torch.nn.Module):
        if revision is not None or dtype != "auto" or device_map is not None:
            raise ModelError(
                "revision, dtype and device_map say how to load; this module is loaded already. Leave them out."
            )
        return _wrapped(
            source,
            tokenizer,
            device,
            getattr(getattr(source, "config", None), "_name_or_path", "") or type(source).__name__,
        )
    options = {"revision": revision, "dtype": _dtype(dtype), "device_map": device_map}
    directory = _directory(str(source))
    with _quietly():
        if (Path(directory) / "adapter_config.json").is_file():
            module, found = _adapter_on_base(Path(directory), options)
        else:
            module, found = _pretrained(directory, options, tokenizer)
    return _wrapped(module, tokenizer or found, device, str(source))


def _directory(source: str) -> str:
    if source == smollm2.NAME:
        return str(smollm2.embedded_directory())
    path = Path(source)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"There is no file {source}. Check the path.")
        return str(converted(path))
    if path.is_dir() and not any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise ModelError(
            f"The directory {source} holds neither config.json nor adapter_config.json, so it is no model. Check "
            "the path."
        )
    return source


def _pretrained(
    source: str, options: dict[str, Any], tokenizer: PreTrainedTokenizerBase | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    safe = {"trust_remote_code": False, "revision": options["revision"]}
    try:
        tokenizer = tokenizer or AutoTokenizer.from_pretrained(
            source, **{k: v for k, v in safe.items() if v is not None}
        )
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source,
            use_safetensors=True,
            output_loading_info=True,
            **{k: v for k, v in {**options, **safe}.items() if v is not None},
        )
    except _LOADING_ERRORS as error:
        raise ModelError(
            f"No model can be loaded from {source!r} ({_first_line(error)}). Give the embedded {smollm2.NAME!r}, a "
            "local directory with config.json, tokenizer and safetensors weights (pickled ones are refused), or a Hub "
            "id that can be reached."
        ) from error
    module, report = loaded
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ModelError(
            f"The weights in {source!r} lack {len(missing)} tensors, such as {missing[0]}, which would be random "
            "numbers. Give a whole checkpoint."
        )
    return module, tokenizer


def _adapter_on_base(directory: Path, options: dict[str, Any]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    try:
        base = json.loads((directory / "adapter_config.json").read_text(encoding="utf-8")).get(
            "base_model_name_or_path"
        )
    except (ValueError, AttributeError) as error:
        raise ModelError(
            f"adapter_config.json in {directory} is damaged ({_first_line(error)}). Save it again."
        ) from error
    if not base:
        raise ModelError(
            f"The adapter in {directory} does not name its base model. Load the base, put the adapter on with "
            "peft, and pass the module."
        )
    module, tokenizer = _pretrained(_directory(base), {**options, "revision": None}, None)
    if not (directory / "adapter_model.safetensors").is_file():
        raise ModelError(
            f"The adapter in {directory} has no adapter_model.safetensors; pickled weights are refused. Save it "
            "with safe_serialization=True."
        )
    try:  # puts its layers into the module itself
        PeftModel.from_pretrained(module, str(directory), use_safetensors=True)
    except _LOADING_ERRORS as error:
        raise ModelError(
            f"The adapter in {directory} does not go on {base} ({_first_line(error)}). Give the base it was made for."
        ) from error
    stored = set(load_file(directory / "adapter_model.safetensors"))
    expected = {f"base_model.model.{name}" for name in get_peft_model_state_dict(module)}  # pyright: ignore[reportArgumentType]
    if stored != expected:
        odd = sorted(stored ^ expected)
        raise ModelError(
            f"The adapter in {directory} does not fit {base}: {len(odd)} of its factors have no counterpart, such as "
            f"{odd[0]}. Give the base it was made for."
        )
    silent = [p for n, p in module.named_parameters() if "lora_B" in n or "lora_embedding_B" in n]
    if silent and not any(torch.count_nonzero(p) for p in silent):
        raise ModelError(
            f"The adapter in {directory} changes nothing: every lora_B is zero, as after a failed load. Check "
            f"that it was made for {base}."
        )
    return module, tokenizer


def _wrapped(
    module: torch.nn.Module, tokenizer: PreTrainedTokenizerBase | None, device: str | torch.device | None, name: str
) -> Model:
    if isinstance(module, PeftModel):
        module = module.get_base_model()
    anatomy = anatomy_of(module)
    if tokenizer is None:
        raise ModelError(
            "A loaded module comes without its tokenizer. Pass tokenizer=AutoTokenizer.from_pretrained(...)."
        )
    if not tokenizer.is_fast:
        raise ModelError(
            f"{type(tokenizer).__name__} has no character offsets, by which mechmask finds the value's tokens. "
            "Load the fast tokenizer."
        )
    embedded = module.get_input_embeddings().weight.shape[0]  # type: ignore[union-attr]
    if len(tokenizer) > embedded:
        raise ModelError(
            f"The tokenizer knows {len(tokenizer)} tokens and the model {embedded}: they do not belong together. "
            "Pass the model's own tokenizer."
        )
    if device is not None:
        try:
            module.to(device)
        except (RuntimeError, AssertionError) as error:
            raise ModelError(
                f"The model cannot go to {device!r} ({_first_line(error)}). Name a device of this machine."
            ) from error
    return Model(anatomy.module, tokenizer, anatomy, name)


def _dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    if isinstance(dtype, str) and dtype not in _DTYPES:
        raise ModelError(f"{dtype!r} is no dtype that mechmask reads. Give one of {', '.join(_DTYPES)}.")
    if not isinstance(dtype, str) and dtype not in _DTYPES.values():
        raise ModelError(f"{dtype} is no dtype that mechmask reads. Give one of {', '.join(_DTYPES)}.")
    return _DTYPES[dtype] if isinstance(dtype, str) else dtype


@contextmanager
def _quietly() -> Iterator[None]:
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
