"""The likely cause where a reading does not agree with the model's own output: what was done to the module."""

from __future__ import annotations

from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from mechmask.models.adapters import is_merged
from mechmask.models.computed import hooked
from mechmask.models.model import Model
from mechmask.models.quantised import quantised_layers


def likely_cause(model: Model) -> str:
    """One sentence that begins with "Check": what most probably makes a reading and the model's output differ.

    Hooks that the user registered, quantised weights, training mode, a merged adapter; if there is none of them,
    whether the family is built as mechmask's anatomy says.
    """
    module = model.module
    hooks = hooked(module)
    if hooks:
        name, hook = next(iter(hooks.items()))
        return f"Check the forward hook {hook} on {name}: it changes what the model computes, so remove it first."
    if quantised := quantised_layers(module):
        return (
            f"Check the quantisation: {quantised[0].name} {quantised[0].kind}, which may not compute alike for every "
            "length and row. Load the model in float32, bfloat16 or float16."
        )
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


def _has_dropout(module: PreTrainedModel) -> bool:
    return any(isinstance(child, nn.Dropout) and child.p for child in module.modules()) or any(
        value for name, value in module.config.to_dict().items() if "dropout" in name and isinstance(value, float)
    )
