"""``interpolated``: the states on the straight line in weights through the state before a change and the one after it.

``W(scale) = W_before + scale * (W_after - W_before)``: 0 is before, 1 after, 1.5 half as far again, -1 the opposite. A
dose that needs no training. Where an adapter was trained further, as a contradiction trains an installed one, the line
is not that of its factors (a product of mixed factors is no mixture of products): both products stand beside each other
in one change of low rank.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mechmask.errors import ChangeError
from mechmask.models.model import Model
from mechmask.models.states import Variant, active
from mechmask.write.adapter import AdapterChange
from mechmask.write.change import Change, named_weights
from mechmask.write.graft import scaled
from mechmask.write.low_rank import LowRankChange
from mechmask.write.weights import WeightChange


def interpolated(
    model: Model | Variant, before: AdapterChange | None, after: Change, scale: float
) -> AdapterChange | LowRankChange | WeightChange:
    """A change of ``model`` that makes the state ``scale`` of the way from one of its states to another.

    Args:
        model: the base of both, a model or a state of it; it is left as it was.
        before: the adapter that was trained further; ``None`` where ``after`` was made on ``model`` itself.
        after: the adapter that came of it, another change of low rank, or one of weights.
        scale: how far: 0 is before, 1 after.

    Raises:
        ChangeError: if the scale is not a finite number or leaves nothing of the change, an adapter is a DoRA or has
            ranks of its own for some layers, or the two were trained on different weights.
    """
    if not math.isfinite(scale):
        raise ChangeError(f"A scale of {scale} is not a number. Give a finite one.")
    if before is None:
        if isinstance(after, WeightChange):
            return _moved(model, after, scale)
        if isinstance(after, AdapterChange | LowRankChange):
            return scaled(after, scale)
    elif isinstance(after, AdapterChange):
        return _between(before, after, scale)
    raise ChangeError(
        f"There is no line from {before!r} to {after!r}. Give two LoRA adapters, or None and a change of the model."
    )


def scales(change: Change) -> bool:
    """Whether the line to a change can be walked: a DoRA's update is not proportional to its factors."""
    if isinstance(change, AdapterChange):
        return not change.config.use_dora
    return isinstance(change, LowRankChange | WeightChange)


def _between(before: AdapterChange, after: AdapterChange, scale: float) -> LowRankChange:
    if before.base != after.base:
        raise ChangeError("The two adapters were trained on different weights. Give adapters of one base.")
    first, last = _products(before), _products(after)
    factors = {}
    for name in first.keys() | last.keys():
        parts = [(part, of[name]) for part, of in ((1 - scale, first), (scale, last)) if name in of]
        outputs = torch.cat([part * outputs for part, (outputs, _) in parts], dim=1)
        factors[name] = outputs, torch.cat([inputs for _, (_, inputs) in parts])
    details = {"scale": scale, "before": before.details, "after": after.details}
    return LowRankChange(dict(sorted(factors.items())), after.base, "interpolated", details)


def _products(change: AdapterChange) -> dict[str, tuple[Tensor, Tensor]]:
    """What a LoRA adapter adds to each weight, as U ``[out, rank]`` and V ``[rank, in]``, in float64."""
    config = change.config
    if config.use_dora or config.rank_pattern or config.alpha_pattern:
        what = "is a DoRA" if config.use_dora else "has ranks or scales of its own for some layers"
        raise ChangeError(f"An adapter {what}, so its update is not one scale times its factors. Train a plain LoRA.")
    unit = config.lora_alpha / (math.sqrt(config.r) if config.use_rslora else config.r)
    products = {}
    for name, inputs in change.tensors.items():
        layer, _, rest = name.partition(".lora_A.")
        if rest:
            outputs = change.tensors[f"{layer}.lora_B.{rest}"]
            products[f"{layer}.weight"] = unit * outputs.double(), inputs.double()
    return products


def _moved(model: Model | Variant, change: WeightChange, scale: float) -> WeightChange:
    with active(model) as now:
        before = {name: w.detach().clone() for name, w in named_weights(now.module).items() if name in change.after}
        with change.applied(now) as changed:
            weights = named_weights(changed.module)
            after = {name: weights[name].detach().clone() for name in before}
    moved = {name: weight.double().lerp(after[name].double(), scale).to(weight) for name, weight in before.items()}
    details = {"scale": scale, "of": {"method": change.method, "details": change.details}}
    return WeightChange(moved, change.before, change.base, "interpolated", details)
