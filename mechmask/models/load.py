"""``load_model``: the embedded model, a Hub id, a local directory, a GGUF file, a PEFT adapter or a loaded module.

Never runs code that comes with a model and never unpickles: ``trust_remote_code`` stays off and weights are
safetensors.
"""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path
from typing import Any, cast

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from peft.utils import ModulesToSaveWrapper
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from mechmask.errors import ModelError
from mechmask.models import smollm2
from mechmask.models.adapter_config import require_lora, safe_lora_config
from mechmask.models.adapters import adapted_layers, wrappers
from mechmask.models.anatomy import anatomy_of
from mechmask.models.gguf import converted
from mechmask.models.model import Model
from mechmask.models.offloaded import missing_weight, require_on_module
from mechmask.models.quantised import is_quantised, quantised_layers
from mechmask.models.quiet import quiet_libraries

LOADING_ERRORS = (
    OSError, ValueError, LookupError, ArithmeticError, TypeError, AttributeError, ImportError, RuntimeError,
    AssertionError, re.error, SafetensorError,
)  # fmt: skip
_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model"),
    *("tekken.json", "sentencepiece.bpe.model"),
)
_DTYPES = {"auto": "auto", "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def load_model(
    source: str | Path | torch.nn.Module = smollm2.NAME,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str | torch.device | None = None,
    device_map: str | dict[str, Any] | None = None,
    offload_folder: str | Path | None = None,
) -> Model:
    """A model that can be read and changed.

    A quantised model and one of which weights are offloaded can be read; what writes weights or differentiates through
    them refuses. Where quantisation lets one text move another (``Model.is_read_alone``), each is read by itself.

    Args:
        source: ``"smollm2-135m"`` (the embedded model), a Hub id, a directory of a model or of a PEFT adapter, a
            ``.gguf`` file, or a transformers module that is loaded already.
        tokenizer: the tokenizer of a loaded module; else another one than the source's own.
        revision: branch, tag or commit of a Hub id.
        dtype: ``float32``, ``bfloat16``, ``float16``, or ``auto``: as the weights are stored.
        device: where the whole model goes.
        device_map: as in transformers, for models over several devices, ``cpu`` and ``disk`` among them.
        offload_folder: where what ``device_map`` puts on the disk is written.

    Raises:
        ModelError: if nothing of that name can be loaded, the arguments contradict each other, or the anatomy of the
            model is not known.
    """
    if device is not None and device_map is not None:
        raise ModelError("device and device_map contradict each other. Pass one of them.")
    if isinstance(source, torch.nn.Module):
        if revision is not None or dtype != "auto" or device_map is not None or offload_folder is not None:
            raise ModelError(
                "revision, dtype, device_map and offload_folder say how to load; this module is loaded already. Leave "
                "them out."
            )
        return _wrapped(
            source,
            tokenizer,
            device,
            getattr(getattr(source, "config", None), "_name_or_path", "") or type(source).__name__,
        )
    folder = None if offload_folder is None else str(offload_folder)
    options = {"revision": revision, "dtype": _dtype(dtype), "device_map": device_map, "offload_folder": folder}
    directory = _directory(str(source))
    with quiet_libraries():
        if (Path(directory) / "adapter_config.json").is_file():
            module, tokenizer = _adapter_on_base(Path(directory), options, tokenizer)
        else:
            module, tokenizer = _pretrained(directory, options, tokenizer)
    return _wrapped(module, tokenizer, device, str(source))


def _directory(source: str) -> str:
    if source == smollm2.NAME:
        return str(smollm2.embedded_directory())
    path = Path(source)
    if len(source) > 255 and not path.parent.is_dir():
        raise ModelError(f"{source[:60]}... is too long for the name of a file or a model. Check it.")
    try:
        path.stat()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise ModelError(f"{source[:60]}... is too long for the name of a file or a model. Check it.") from error
    except ValueError as error:
        raise ModelError(f"{source!r} cannot be the name of a file or a model ({error}). Check it.") from error
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"There is no file {source}. Check the path.")
        return str(converted(path))
    if path.is_dir() and not any((path / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise ModelError(
            f"The directory {source} holds neither config.json nor adapter_config.json, so it is not a model. Check "
            "the path."
        )
    return source


def _pretrained(
    source: str, options: dict[str, Any], tokenizer: PreTrainedTokenizerBase | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    safe = {"trust_remote_code": False, "revision": options["revision"]}
    safe = {name: value for name, value in safe.items() if value is not None}
    try:
        if tokenizer is None:
            _require_tokenizer(source)
        tokenizer = tokenizer or cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(source, **safe))
        module, report = _weights(source, {**{k: v for k, v in options.items() if v is not None}, **safe})
    except ModelError:
        raise
    except LOADING_ERRORS as error:
        raise ModelError(
            f"No model can be loaded from {source!r} ({_first_line(error)}). Give the embedded {smollm2.NAME!r}, a "
            "local directory with config.json, tokenizer and safetensors weights (pickled ones are refused), or a Hub "
            "id that can be reached."
        ) from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise ModelError(
            f"The weights in {source!r} lack {len(missing)} tensors, such as {missing[0]}, which would be random "
            "numbers. Give a whole checkpoint."
        )
    if adapted_layers(module):  # transformers puts the adapter of a Hub repository on by itself
        raise ModelError(
            f"{source!r} is an adapter on the Hub. Download it into a directory, and give that, so that it can be "
            "checked before it is put on its base."
        )
    return module, tokenizer


def _weights(source: str, options: dict[str, Any]) -> tuple[PreTrainedModel, dict[str, Any]]:
    """The module by an attention of torch's or transformers' own: a configuration may name one to be downloaded."""
    where = {name: options[name] for name in ("trust_remote_code", "revision") if name in options}
    config = AutoConfig.from_pretrained(source, **where)
    for attention in ("eager",) if config._attn_implementation == "eager" else ("sdpa", "eager"):
        config._attn_implementation = attention
        try:
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                source, config=config, use_safetensors=True, output_loading_info=True, **options
            )
        except ValueError as error:
            if attention == "eager" or "scaled_dot_product_attention" not in str(error):
                raise
        else:
            return loaded
    raise AssertionError("eager attention is every family's")


def _require_tokenizer(source: str) -> None:
    path = Path(source)
    if path.is_dir() and not any((path / name).is_file() for name in _TOKENIZER_FILES):
        raise ModelError(
            f"The checkpoint in {source} has no tokenizer. Pass tokenizer=AutoTokenizer.from_pretrained(...) of the "
            "model that it was trained from, or save that tokenizer into the directory."
        )


def _adapter_on_base(
    directory: Path, options: dict[str, Any], tokenizer: PreTrainedTokenizerBase | None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    base, config = _adapter_settings(directory)
    module, tokenizer = _pretrained(_directory(base), {**options, "revision": None}, tokenizer)
    require_on_module(module, "An adapter", base)
    try:  # puts its layers into the module itself
        wrapped = PeftModel.from_pretrained(module, str(directory), config=config, use_safetensors=True)
        stored = set(load_file(directory / "adapter_model.safetensors"))
        expected = set(get_peft_model_state_dict(wrapped, save_embedding_layers=False))
    except LOADING_ERRORS as error:
        raise ModelError(
            f"The adapter in {directory} does not fit on {base} ({_first_line(error)}). Give the base it was made for."
        ) from error
    if stored != expected:
        odd = sorted(stored ^ expected)
        raise ModelError(
            f"The adapter in {directory} does not fit {base}: {len(odd)} of its factors have no counterpart, such as "
            f"{odd[0]}. Give the base it was made for."
        )
    silent = [p for n, p in module.named_parameters() if "lora_B" in n or "lora_embedding_B" in n]
    if silent and not config.modules_to_save and not any(torch.count_nonzero(p) for p in silent):
        raise ModelError(
            f"The adapter in {directory} changes nothing: every lora_B is zero, as after a failed load. Check "
            f"that it was made for {base}."
        )
    return module, tokenizer


def _adapter_settings(directory: Path) -> tuple[str, LoraConfig]:
    """The base that an adapter directory names, and how the adapter is built."""
    try:
        raw = json.loads((directory / "adapter_config.json").read_text(encoding="utf-8"))
        base = raw.get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"adapter_config.json in {directory} is damaged ({_first_line(error)}). Save it again."
        ) from error
    config = safe_lora_config(raw)
    if not base or not isinstance(base, str):
        raise ModelError(
            f"The adapter in {directory} does not name its base model. Load the base, put the adapter on with "
            "peft, and pass the module."
        )
    if (Path(_directory(base)) / "adapter_config.json").is_file():
        raise ModelError(
            f"The adapter in {directory} was made on another adapter, {base}. Merge that one into its base, and name "
            "the result in adapter_config.json."
        )
    if not (directory / "adapter_model.safetensors").is_file():
        raise ModelError(
            f"The adapter in {directory} has no adapter_model.safetensors; pickled weights are refused. Save it "
            "with safe_serialization=True."
        )
    return base, config


def _require_readable(module: torch.nn.Module, name: str) -> None:
    """Refuse a loaded module that lacks a weight, or that carries an adapter other than LoRA."""
    if missing := missing_weight(module):
        raise ModelError(f"{missing} of {name} has no values yet (it is on the device meta). Load the model's weights.")
    for path, wrapper in wrappers(module):
        is_lora = isinstance(wrapper, (LoraLayer, ModulesToSaveWrapper)) and not isinstance(wrapper, ParamWrapper)
        if not is_lora:
            raise ModelError(
                f"The adapter on {path} of {name} is a {type(wrapper).__module__.split('.')[-2]} "
                f"{type(wrapper).__name__}: mechmask reads LoRA adapters, DoRA and rsLoRA among them. Merge it into "
                "the model with merge_and_unload() first."
            )
        if wrapper.merged_adapters and wrapper.disable_adapters:
            raise ModelError(
                f"The adapter on {path} of {name} is merged and switched off, so the next pass would subtract it from "
                "the weights. Unmerge it, or switch it on."
            )


def _base_of(module: PeftModel) -> torch.nn.Module:
    for config in module.peft_config.values():
        require_lora(config.peft_type)
    return module.get_base_model()


def _wrapped(
    module: torch.nn.Module, tokenizer: PreTrainedTokenizerBase | None, device: str | torch.device | None, name: str
) -> Model:
    if isinstance(module, PeftModel):
        module = _base_of(module)
    anatomy = anatomy_of(module)
    _require_readable(module, name)
    if tokenizer is None:
        raise ModelError(
            "A loaded module comes without its tokenizer. Pass tokenizer=AutoTokenizer.from_pretrained(...)."
        )
    if not tokenizer.is_fast:
        raise ModelError(
            f"{type(tokenizer).__name__} has no character offsets, by which mechmask finds the value's tokens. "
            "Load the fast tokenizer."
        )
    embedded = _n_embedded(anatomy.module.get_input_embeddings())
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
    model = Model(anatomy.module, tokenizer, anatomy, name)
    if is_quantised(module):
        _settle(model)
    return model


def _n_embedded(embedding: Any) -> int:
    """How many tokens an embedding knows; of a quantised one the weight may be a method."""
    return embedding.num_embeddings if hasattr(embedding, "num_embeddings") else embedding.weight.shape[0]


def _settle(model: Model) -> None:
    """One token through a quantised model: packages settle types and the places of their codes at the first pass.

    Raises:
        ModelError: if it does not run here.
    """
    found = quantised_layers(model.module)
    where = f"{found[0].name} {found[0].kind}" if found else "so says its configuration"
    try:
        with model.inference():
            model.module(input_ids=torch.zeros(1, 1, dtype=torch.long, device=model.device), use_cache=False)
    except Exception as error:  # whatever a package says of a kernel that it lacks
        raise ModelError(
            f"{model.name} is quantised ({where}) and cannot run here ({_first_line(error)}). Load it in float32, "
            "bfloat16 or float16."
        ) from error


def _dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    if isinstance(dtype, str) and dtype not in _DTYPES:
        raise ModelError(f"{dtype!r} is not a dtype that mechmask reads. Give one of {', '.join(_DTYPES)}.")
    if not isinstance(dtype, str) and dtype not in _DTYPES.values():
        raise ModelError(f"{dtype} is not a dtype that mechmask reads. Give one of {', '.join(_DTYPES)}.")
    return _DTYPES[dtype] if isinstance(dtype, str) else dtype


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
