"""The likely cause where a reading does not agree with the model's own output: what was done to the module.

Also what a module must not be when it is loaded: without its weights at hand, or with weights that are codes.
"""

from __future__ import annotations

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from mechmask.models.adapters import is_merged
from mechmask.models.computed import hooked
from mechmask.models.model import Model

_READ = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def likely_cause(model: Model) -> str:
    """One sentence that begins with "Check": what most probably makes a reading and the model's output differ.

    Hooks that the user registered, weights that are offloaded or quantised, training mode, a merged adapter; if there
    is none of them, whether the family is built as mechmask's anatomy says.
    """
    module = model.module
    hooks = hooked(module)
    if hooks:
        name, hook = next(iter(hooks.items()))
        return f"Check the forward hook {hook} on {name}: it changes what the model computes, so remove it first."
    if offloaded := offloaded_weight(module):
        return f"Check the device of {offloaded}: it is offloaded. Load the model whole, without offloading."
    if quantised := quantised_weight(module):
        return f"Check the weights: {quantised}. Load the model in float32, bfloat16 or float16."
    training = next((name for name, child in module.named_modules() if child.training), None)
    if training is not None and _has_dropout(module):
        return f"Check the mode of {training or 'the model'}: it is in training mode. Call module.eval() first."
    if is_merged(module):
        return "Check the adapter: it is merged into the weights. Unmerge it first, or load the merged model by itself."
    if any(isinstance(child, BaseTunerLayer) for child in module.modules()):
        return "Check the adapter: switch it off, and see whether the model under it can be read."
    return (
        f"Check that a {model.family} model is built as mechmask.models.anatomy says, and that nothing rewrote this "
        "one after it was loaded."
    )


def offloaded_weight(module: nn.Module) -> str:
    """The name of a weight that is not in memory: on the meta device, or moved in by accelerate at each pass."""
    for name, child in module.named_modules():
        hook = getattr(child, "_hf_hook", None)
        hooks = getattr(hook, "hooks", [hook])
        if any(getattr(one, "offload", False) for one in hooks):
            return name or type(module).__name__
    return next((name for name, tensor in module.named_parameters() if tensor.is_meta), "")


def quantised_weight(module: nn.Module) -> str:
    """What says that weights are codes of a quantisation, not numbers; empty where they are numbers."""
    for name, tensor in module.named_parameters():
        if tensor.dtype not in _READ:
            return f"{name} is stored as {str(tensor.dtype).removeprefix('torch.')}"
    method = getattr(getattr(module, "config", None), "quantization_config", None)
    return "the model's configuration says that they are quantised" if method else ""


def _has_dropout(module: nn.Module) -> bool:
    return any(isinstance(child, nn.Dropout) and child.p for child in module.modules()) or any(
        value
        for name, value in module.config.to_dict().items()
        if "dropout" in name and isinstance(value, float)  # pyright: ignore[reportCallIssue, reportAttributeAccessIssue]
    )
