"""``interpolated``: the states on the straight line in weights through the state before a change and the one after it.

``W(scale) = W_before + scale * (W_after - W_before)``: 0 is before, 1 after, 1.5 half as far again, -1 the opposite. A
dose that needs no training. Where an adapter was trained further, as a contradiction trains an installed one, the line
is not that of its factors (a product of mixed factors is no mixture of products): both products stand beside each other
in one change of low rank.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
from torch import Tensor

from mechmask.errors import ChangeError
from mechmask.models.model import Model
from mechmask.models.states import Variant, active
from mechmask.write.adapter import AdapterChange
from mechmask.write.change import Change, named_weights
from mechmask.write.graft import scaled
from mechmask.write.low_rank import LowRankChange
from mechmask.write.trained.trained import Finetuned
from mechmask.write.weights import WeightChange


def interpolated(
    model: Model | Variant, before: Finetuned | None, after: Change, scale: float
) -> AdapterChange | LowRankChange | WeightChange:
    """A change of ``model`` that makes the state ``scale`` of the way from one of its states to another.

    Args:
        model: the base of both, a model or a state of it; it is left as it was.
        before: the change that was trained further; ``None`` where ``after`` was made on ``model`` itself.
        after: what came of it, a change of the same kind; without ``before`` also another change of low rank.
        scale: how far: 0 is before, 1 after.

    Raises:
        ChangeError: if the scale is not a finite number or leaves nothing of the change, an adapter is a DoRA or has
            ranks of its own for some layers, or the two were trained on different weights or are of two kinds.
    """
    if not math.isfinite(scale):
        raise ChangeError(f"A scale of {scale} is not a number. Give a finite one.")
    if before is not None and before.base != after.base:
        raise ChangeError("The two changes were trained on different weights. Give changes of one base.")
    if isinstance(after, WeightChange) and isinstance(before, WeightChange | None):
        return _moved(model, before, after, scale)
    if isinstance(after, AdapterChange) and isinstance(before, AdapterChange):
        return _between(before, after, scale)
    if isinstance(after, AdapterChange | LowRankChange) and before is None:
        return scaled(after, scale)
    raise ChangeError(
        f"There is no line from {before!r} to {after!r}. Give two changes of one kind, or None and a change of the "
        "model."
    )


def scales(change: Change) -> bool:
    """Whether the line to a change can be walked: a DoRA's update is not proportional to its factors."""
    if isinstance(change, AdapterChange):
        return not change.config.use_dora
    return isinstance(change, LowRankChange | WeightChange)


def _between(before: AdapterChange, after: AdapterChange, scale: float) -> LowRankChange:
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


def _moved(model: Model | Variant, before: WeightChange | None, after: WeightChange, scale: float) -> WeightChange:
    changes = [change for change in (before, after) if change is not None]
    digests = {name: digest for change in changes for name, digest in change.before.items()}
    with active(model) as now:
        base = _weights(now, digests)
        ends = [base] if before is None else []
        for change in changes:
            with change.applied(now) as changed:
                ends.append(_weights(changed, digests))
    first, last = ends
    moved = {name: first[name].double().lerp(last[name].double(), scale).to(base[name]) for name in base}
    details = {"scale": scale, "before": before and before.details, "after": after.details}
    return WeightChange(moved, digests, after.base, "interpolated", details)


def _weights(model: Model, names: Collection[str]) -> dict[str, Tensor]:
    return {name: w.detach().clone() for name, w in named_weights(model.module).items() if name in names}
