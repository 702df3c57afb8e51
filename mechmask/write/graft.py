"""``graft``: some blocks of one model in the other; ``scaled``: an adapter made stronger or weaker block by block.

Which blocks hold a correction is asked by putting them, and no others, into the model that lacks it. Embedding, final
norm and unembedding belong to no block and stay as they were.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mechmask.errors import ChangeError
from mechmask.models.model import Model, adapted_layers
from mechmask.models.states import unlike
from mechmask.write.adapter import AdapterChange
from mechmask.write.change import Change, WeightChange, block_of, named_weights, tensor_digest

# What of a LoRA configuration the forward pass depends on; which layers carry it is told by the factors' names.
_COMPUTED = ("r", "lora_alpha", "use_rslora", "use_dora", "fan_in_fan_out", "rank_pattern", "alpha_pattern")


def graft(
    before: Model | AdapterChange | None,
    after: Model | AdapterChange | WeightChange,
    layers: Iterable[int],
    scale: float = 1.0,
) -> Change:
    """Some blocks of ``after`` in ``before``.

    Two models (two modules of one architecture) give a change of weights to be applied to ``before``:
    ``before + scale * (after - before)`` in the named blocks, the bits of ``after`` where ``scale`` is 1. Two adapters
    of one shape on one base give an adapter on that base, with the factors of ``after`` in the named blocks and those
    of ``before`` elsewhere; ``before=None`` is the base itself, and then ``scale`` multiplies the adapter's update. An
    edit or another change of weights is grafted on what it was made on, ``before=None``.

    Args:
        before: what is grafted upon.
        after: where the blocks come from.
        layers: the blocks, 0..L-1.
        scale: how much of the difference.

    Raises:
        ChangeError: if no block is named or one is not there, the two do not fit, nothing would change, or two adapters
            or a change of weights are asked for with another scale than 1 (the product of mixed factors is no mixture,
            and new weights are no differences).
    """
    if not math.isfinite(scale):
        raise ChangeError(f"A scale of {scale} is no number. Give a finite one.")
    blocks = sorted(set(layers))
    if isinstance(after, AdapterChange) and (before is None or isinstance(before, AdapterChange)):
        _require_blocks(blocks, after.blocks, "the adapter")
        if before is None:
            return _carried(after, blocks, scale)
        return _mixed(before, after, blocks, scale)
    if isinstance(after, WeightChange) and before is None:
        _require_blocks(blocks, after.blocks, "the change")
        return _kept_in(after, blocks, scale)
    if isinstance(before, Model) and isinstance(after, Model):
        _require_blocks(blocks, range(before.n_layers), before.name)
        return _transplanted(before, after, blocks, scale)
    raise ChangeError(
        f"A graft takes two models, two adapters of which the first may be None, or None and a change of weights, not "
        f"{_kind(before)} and {_kind(after)}. Load the second model, or apply a change and save the model."
    )


def scaled(change: AdapterChange, scale: float, layers: Iterable[int] | None = None) -> AdapterChange:
    """An adapter whose update is multiplied by ``scale``, in some blocks or everywhere.

    Args:
        change: a LoRA adapter.
        scale: the factor; below 0 it pushes the other way.
        layers: the blocks in which it counts, the others keep the adapter as it is; all by default.

    Raises:
        ChangeError: if a block carries no adapter, nothing of it would be left, or the adapter is a DoRA, whose update
            is not proportional to its factors.
    """
    if not math.isfinite(scale):
        raise ChangeError(f"A scale of {scale} is no number. Give a finite one.")
    if change.config.use_dora and scale != 1:
        raise ChangeError("The update of a DoRA adapter does not scale with its factors. Use scale=1, or a LoRA.")
    blocks = None if layers is None else sorted(set(layers))
    if blocks is not None:
        _require_blocks(blocks, change.blocks, "the adapter")
    tensors = {
        name: tensor * scale if _is_output_factor(name) and (blocks is None or block_of(name) in blocks) else tensor
        for name, tensor in change.tensors.items()
    }
    if scale == 0 and not any(torch.count_nonzero(t) for name, t in tensors.items() if _is_output_factor(name)):
        raise ChangeError(
            "A scale of 0 leaves nothing of the adapter. Name fewer blocks, or read the model without it."
        )
    details = {"scale": scale, "layers": blocks, "of": _origin(change)}
    return AdapterChange(change.config, tensors, change.base, "scaled", details)


def _transplanted(before: Model, after: Model, blocks: list[int], scale: float) -> WeightChange:
    if before.module is after.module:
        raise ChangeError("Before and after are one module, so there is nothing to graft. Load after a second time.")
    if adapted_layers(before.module) or adapted_layers(after.module):
        raise ChangeError("A model to graft has an adapter on. Pass the adapters themselves, or merge them first.")
    difference = unlike(before, after)
    ours, theirs = (_block_weights(model, blocks) for model in (before, after))
    odd = [name for name in ours.keys() | theirs.keys() if name not in ours or name not in theirs]
    odd += [name for name in ours if name in theirs and ours[name].shape != theirs[name].shape]
    if difference or odd:
        raise ChangeError(
            f"Blocks of {after.name} do not fit into {before.name}: {difference or f'{min(odd)} has no counterpart'}. "
            "Graft between models of one architecture."
        )
    grafted = {name: _moved(weight, theirs[name], scale) for name, weight in ours.items()}
    digests = {name: tensor_digest(weight) for name, weight in ours.items()}
    if all(tensor_digest(tensor) == digests[name] for name, tensor in grafted.items()):
        raise ChangeError(
            f"The graft changes nothing: {before.name} and {after.name} have the same weights in the blocks {blocks}, "
            "or the scale is 0. Name blocks in which they differ."
        )
    return WeightChange(grafted, digests, "graft", _details(blocks, scale, before.name, after.name))


def _carried(after: AdapterChange, blocks: list[int], scale: float) -> AdapterChange:
    """The adapter on some blocks of the base: the others carry none."""
    config = copy.copy(after.config)
    tensors = {name: tensor for name, tensor in after.tensors.items() if block_of(name) in blocks}
    config.target_modules = sorted({name[: name.index(".lora_")] for name in tensors})
    details = _details(blocks, scale, None, _origin(after))
    carried = AdapterChange(config, tensors, after.base, "graft", details)
    if scale == 1:
        return carried
    return AdapterChange(config, scaled(carried, scale).tensors, after.base, "graft", details)


def _kept_in(after: WeightChange, blocks: list[int], scale: float) -> WeightChange:
    """A change of weights in some of its blocks only."""
    if scale != 1:
        raise ChangeError("A change of weights holds new values, not differences, so it has no scale. Use scale=1.")
    weights = {name: weight for name, weight in after.after.items() if block_of(name) in blocks}
    digests = {name: after.before[name] for name in weights}
    return WeightChange(weights, digests, "graft", _details(blocks, scale, None, _origin(after)))


def _mixed(before: AdapterChange, after: AdapterChange, blocks: list[int], scale: float) -> AdapterChange:
    if scale != 1:
        raise ChangeError(
            "Two adapters cannot be mixed by a scale, because the product of mixed factors is no mixture. Use scale=1, "
            "or before=None."
        )
    if before.base != after.base:
        raise ChangeError("The two adapters were trained on different weights. Graft adapters of one base.")
    theirs, ours = ({name: getattr(change.config, name) for name in _COMPUTED} for change in (after, before))
    differing = [name for name in _COMPUTED if theirs[name] != ours[name]]
    shapes = [{name: tensor.shape for name, tensor in change.tensors.items()} for change in (before, after)]
    if differing or shapes[0] != shapes[1]:
        what = f"{differing[0]} {ours[differing[0]]} and {theirs[differing[0]]}" if differing else "factors elsewhere"
        raise ChangeError(f"The two adapters are built differently ({what}). Train both with one configuration.")
    tensors = {
        name: after.tensors[name] if block_of(name) in blocks else tensor for name, tensor in before.tensors.items()
    }
    details = _details(blocks, scale, _origin(before), _origin(after))
    return AdapterChange(copy.copy(after.config), tensors, after.base, "graft", details)


def _block_weights(model: Model, blocks: list[int]) -> dict[str, Tensor]:
    prefixes = tuple(f"{model.anatomy.layout.blocks}.{block}." for block in blocks)
    weights = named_weights(model.module)
    return {name: weight.detach() for name, weight in weights.items() if name.startswith(prefixes)}


def _moved(before: Tensor, after: Tensor, scale: float) -> Tensor:
    after = after.to(before)
    if scale == 1:
        return after
    wide = torch.promote_types(before.dtype, torch.float32)
    return (before.to(wide) + scale * (after.to(wide) - before.to(wide))).to(before.dtype)


def _require_blocks(blocks: list[int], there: Sequence[int], where: str) -> None:
    if not blocks:
        raise ChangeError("No block is named. Give at least one of layers.")
    beyond = [block for block in blocks if block not in there]
    if beyond:
        known = f"{there[0]} to {there[-1]}" if len(there) == there[-1] - there[0] + 1 else ", ".join(map(str, there))
        raise ChangeError(f"There is no block {beyond[0]} in {where}, which has blocks {known}. Name some of those.")


def _is_output_factor(name: str) -> bool:
    return "lora_B" in name or "lora_embedding_B" in name


def _details(blocks: list[int], scale: float, before: Any, after: Any) -> dict[str, Any]:
    return {"layers": blocks, "scale": scale, "before": before, "after": after}


def _origin(change: Change) -> Mapping[str, Any]:
    return {"method": change.method, "details": change.details}


def _kind(thing: object) -> str:
    return "None" if thing is None else f"a {type(thing).__name__}"
