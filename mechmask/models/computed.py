"""The settings by which a model computes, beside its weights: of its configuration, and of every layer.

What says where a model came from, how it was trained or how it generates is left out, and so is what only has to do
with speed: two copies that compute the same have the same settings.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from types import FunctionType
from typing import Any

import torch
import xxhash
from torch import nn
from torch.nn.utils.parametrize import is_parametrized
from transformers import PreTrainedConfig, PreTrainedModel

from mechmask.models.prepack import Prepacked

_NOT_COMPUTED = {
    *("use_cache", "vocab_size", "tie_word_embeddings", "init_std", "initializer_range", "chunk_size_feed_forward"),
    *("training", "gradient_checkpointing", "max_seq_len_cached", "layer_idx", "forward", "padding_idx", "extra_repr"),
}
_NOT_COMPUTED_PARTS = ("dropout", "pdrop", "layerdrop", "initializer", "token_id", "output_", "summary_", "attn_impl")


def config_settings(config: PreTrainedConfig) -> dict[str, Any]:
    """The settings of a text configuration that a block computes by, ``model_type`` among them.

    Only those that the family itself declares: what other tools write into a configuration computes nothing.
    """
    text = config.get_text_config()
    settings, declared = text.to_dict(), _declared(type(text))
    return {
        "model_type": text.model_type,
        **{name: _plain(settings[name]) for name in declared & settings.keys() if _is_computed(name)},
    }


def model_settings(module: nn.Module) -> list[str]:
    """A line for each setting of a module's configuration."""
    config = getattr(module, "config", None)
    if not isinstance(config, PreTrainedConfig):
        return []
    return [f"config {name} {_written(value)}" for name, value in config_settings(config).items()]


def layer_settings(name: str, layer: nn.Module) -> list[str]:
    """A line for the class of a layer and the plain values that it holds; none for dropout."""
    return [] if "dropout" in name else [f"layer {name} {_class_of(layer)} {_attributes(layer)}"]


def follows_length(layer: nn.Module) -> bool:
    """Whether the rotary frequencies that a layer holds are those of the last pass's length, hence no setting."""
    kinds = getattr(layer, "rope_type", "")
    return any(
        "dynamic" in kind or kind == "longrope" for kind in (kinds.values() if isinstance(kinds, dict) else [kinds])
    )


def attached(name: str, layer: nn.Module) -> list[str]:
    """A line for each forward hook of a layer, and for a method that was put in the place of its ``forward``."""
    lines = [f"before {name} {_code(hook)}" for hook in layer._forward_pre_hooks.values() if not _is_idle(hook)]
    lines += [f"after {name} {_code(hook)}" for hook in layer._forward_hooks.values() if not _is_idle(hook)]
    replaced = vars(layer).get("forward")
    # accelerate only moves what comes in
    if replaced is not None and not hasattr(layer, "_hf_hook") and not isinstance(replaced, Prepacked):
        lines.append(f"forward {name} {_code(replaced)}")
    return lines


def hooked(module: nn.Module) -> dict[str, str]:
    """The submodules that carry a forward hook which may change what is computed, with the hook's name."""
    return {
        name or type(module).__name__: getattr(hook, "__qualname__", type(hook).__name__)
        for name, layer in module.named_modules()
        for hook in [*layer._forward_pre_hooks.values(), *layer._forward_hooks.values()]
        if not _is_idle(hook)
    }


@cache
def _declared(kind: type[PreTrainedConfig]) -> frozenset[str]:
    return frozenset(kind().to_dict()) - frozenset(PreTrainedConfig().to_dict())


@cache
def _is_computed(name: str) -> bool:
    return not name.startswith("_") and name not in _NOT_COMPUTED and not any(p in name for p in _NOT_COMPUTED_PARTS)


def _class_of(layer: nn.Module) -> str:
    if is_parametrized(layer):  # torch makes a class for each
        parts = {name: [repr(p) for p in several] for name, several in layer.parametrizations.items()}  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
        return f"{type(layer).__name__} {parts}"
    return type(layer).__name__


def _attributes(layer: nn.Module) -> str:
    """What a layer holds beside tensors and layers; a whole model's attributes are its configuration's."""
    if isinstance(layer, PreTrainedModel):
        return ""
    held = {name: value for name, value in vars(layer).items() if _is_computed(name) and _is_plain(value)}
    return _written(_plain(held))


def _is_plain(value: object) -> bool:
    if isinstance(value, (list, tuple)):
        return all(_is_plain(entry) for entry in value)
    if isinstance(value, dict):
        return all(_is_plain(entry) for entry in value.values())
    return isinstance(value, (bool, int, float, str, torch.dtype, type(None))) or _is_function(value)


def _is_function(value: object) -> bool:
    return callable(value) and hasattr(value, "__qualname__") and not isinstance(value, (nn.Module, type))


def _plain(value: Any) -> Any:
    """The same for values that compute the same: 10000 and 10000.0, a list and a tuple."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    return value


def _written(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_written(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_written, value)) + "]"
    return value.__qualname__ if _is_function(value) else repr(value)


def _is_idle(hook: Callable[..., Any]) -> bool:
    """Whether transformers put the hook there to watch, or to let gradients pass: it returns nothing."""
    name = getattr(hook, "__qualname__", "")
    return getattr(hook, "__module__", "").startswith("transformers.") and name.endswith(
        (".output_capturing_hook", ".make_inputs_require_grads")
    )


def _code(function: Callable[..., Any]) -> str:
    """What a function does, as far as it can be told: its code, its defaults, and what it closes over."""
    bare = getattr(function, "__func__", getattr(function, "func", function))
    if not isinstance(bare, FunctionType):
        return f"{type(function).__module__}.{type(function).__qualname__} {_held(getattr(function, '__dict__', {}))}"
    constants = repr([constant for constant in bare.__code__.co_consts if _is_plain(constant)])
    code = xxhash.xxh3_64_hexdigest(bare.__code__.co_code + constants.encode())
    cells = [cell.cell_contents for cell in bare.__closure__ or ()]
    bound = [getattr(function, "args", ()), getattr(function, "keywords", {}), getattr(function, "__self__", None)]
    held = _held([bare.__defaults__, bare.__kwdefaults__, cells, bound])
    return f"{bare.__module__}.{bare.__qualname__} {code} {held}"


def _held(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return xxhash.xxh3_64_hexdigest(repr((value.dtype, value.shape, value.tolist())).encode())
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_held(value[key])}" for key in sorted(value, key=str)) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_held, value)) + "]"
    return _written(_plain(value)) if _is_plain(value) else type(value).__qualname__
