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
from mechmask.models.states import Variant, active, unchanged, unlike
from mechmask.models.writable import require_writable
from mechmask.write.adapter import AdapterChange
from mechmask.write.change import Change, block_of, named_weights
from mechmask.write.low_rank import Factors, LowRankChange
from mechmask.write.weights import WeightChange, tensor_digest

# What of a LoRA configuration the forward pass depends on; which layers carry it is told by the factors' names.
_COMPUTED = ("r", "lora_alpha", "use_rslora", "use_dora", "fan_in_fan_out", "rank_pattern", "alpha_pattern")


def graft(
    before: Model | Variant | Change | None,
    after: Model | Variant | Change,
    layers: Iterable[int],
    scale: float = 1.0,
) -> Change:
    """Some blocks of ``after`` in ``before``.

    Two models (two modules of one architecture, or states of one or two with changes of weights on) give a change of
    weights to be applied to ``before``: ``before + scale * (after - before)`` in the named blocks, the bits of
    ``after`` where ``scale`` is 1. Two adapters of one shape on one base give an adapter on that base, with the factors
    of ``after`` in the named blocks and those of ``before`` elsewhere; ``before=None`` is the base itself, and then
    ``scale`` multiplies the adapter's update. An edit or another change of weights is grafted on what it was made on,
    ``before=None``. States of one model stand for their changes: ``graft(install.on(model), contradict.on(model),
    [3])`` grafts the adapters, ``graft(model, edit.on(model), [3])`` the edit.

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
    _require_finite(scale)
    blocks = sorted(set(layers))
    lower, upper = _changes_of(before, after)
    if lower is None and isinstance(upper, AdapterChange | LowRankChange | WeightChange):
        _require_blocks(blocks, upper.blocks, "the adapter" if isinstance(upper, AdapterChange) else "the change")
        return _part(upper, blocks, scale)
    if isinstance(lower, AdapterChange) and isinstance(upper, AdapterChange):
        _require_blocks(blocks, upper.blocks, "the adapter")
        return _mixed(lower, upper, blocks, scale)
    if isinstance(lower, Model | Variant) and isinstance(upper, Model | Variant):
        _require_blocks(blocks, range(unchanged(lower).n_layers), lower.name)
        return _transplanted(lower, upper, blocks, scale)
    raise ChangeError(
        f"A graft takes two models, two adapters of which the first may be None, or None and a change of weights, not "
        f"{_described(before)} and {_described(after)}. Load the second model, or apply a change and save the model."
    )


def scaled(
    change: AdapterChange | LowRankChange, scale: float, layers: Iterable[int] | None = None
) -> AdapterChange | LowRankChange:
    """An adapter or a change of low rank whose update is multiplied by ``scale``, in some blocks or everywhere.

    Args:
        change: a LoRA adapter, or a change of low rank.
        scale: the factor; below 0 it pushes the other way.
        layers: the blocks in which it counts, the others keep the update as it is; all by default.

    Raises:
        ChangeError: if a block carries no update, nothing of it would be left, or the adapter is a DoRA, whose update
            is not proportional to its factors.
    """
    _require_finite(scale)
    if isinstance(change, AdapterChange) and change.config.use_dora and scale != 1:
        raise ChangeError("The update of a DoRA adapter does not scale with its factors. Use scale=1, or a LoRA.")
    blocks = None if layers is None else sorted(set(layers))
    if blocks is not None:
        _require_blocks(blocks, change.blocks, "the adapter" if isinstance(change, AdapterChange) else "the change")
    if scale == 0 and set(change.blocks) <= set(change.blocks if blocks is None else blocks):
        raise ChangeError(
            "A scale of 0 leaves nothing of the adapter. Name fewer blocks, or read the model without it."
        )
    return _multiplied(change, scale, blocks, "scaled", {"scale": scale, "layers": blocks, "of": _origin(change)})


def _changes_of(before: Any, after: Any) -> tuple[Any, Any]:
    """The changes of two states of one model, where they can be grafted as such; else what was given."""
    if not isinstance(after, Variant):
        return before, after
    if before is after.model:
        return None, after.change
    one_model = isinstance(before, Variant) and before.model is after.model
    if one_model and isinstance(before.change, AdapterChange) and isinstance(after.change, AdapterChange):
        return before.change, after.change
    return before, after


def _transplanted(before: Model | Variant, after: Model | Variant, blocks: list[int], scale: float) -> WeightChange:
    same = isinstance(before, Model) and isinstance(after, Model) and before.module is after.module
    if same or before is after:
        raise ChangeError("Before and after are one module, so there is nothing to graft. Load after a second time.")
    base, old_weights = _block_weights(before, blocks)
    _, new_weights = _block_weights(after, blocks)
    difference = unlike(unchanged(before), unchanged(after))
    odd = [
        name for name in old_weights.keys() | new_weights.keys() if name not in old_weights or name not in new_weights
    ]
    odd += [name for name in old_weights if name in new_weights and old_weights[name].shape != new_weights[name].shape]
    if difference or odd:
        raise ChangeError(
            f"Blocks of {after.name} do not fit into {before.name}: {difference or f'{min(odd)} has no counterpart'}. "
            "Graft between models of one architecture."
        )
    grafted = {name: _moved(weight, new_weights[name], scale) for name, weight in old_weights.items()}
    digests = {name: tensor_digest(weight) for name, weight in old_weights.items()}
    if all(tensor_digest(tensor) == digests[name] for name, tensor in grafted.items()):
        raise ChangeError(
            f"The graft changes nothing: {before.name} and {after.name} have the same weights in the blocks {blocks}, "
            "or the scale is 0. Name blocks in which they differ."
        )
    return WeightChange(grafted, digests, base, "graft", _details(blocks, scale, before.name, after.name))


def _part(
    change: AdapterChange | LowRankChange | WeightChange, blocks: list[int], scale: float
) -> AdapterChange | LowRankChange | WeightChange:
    """A change in some of its blocks; the others stay as they are in the base."""
    details = _details(blocks, scale, None, _origin(change))
    if isinstance(change, WeightChange):
        if scale != 1:
            raise ChangeError("A change of weights holds new values, not differences, so it has no scale. Use scale=1.")
        weights = {name: weight for name, weight in change.after.items() if block_of(name) in blocks}
        return WeightChange(weights, {name: change.before[name] for name in weights}, change.base, "graft", details)
    if isinstance(change, LowRankChange):
        factors = {name: pair for name, pair in change.factors.items() if block_of(name) in blocks}
        part: AdapterChange | LowRankChange = LowRankChange(factors, change.base, "graft", details)
    else:
        config = copy.copy(change.config)
        tensors = {name: tensor for name, tensor in change.tensors.items() if block_of(name) in blocks}
        config.target_modules = sorted({name[: name.index(".lora_")] for name in tensors})
        part = AdapterChange(config, tensors, change.base, "graft", details)
    if scale == 1:
        return part
    scaled(part, scale)  # refuses what cannot be scaled
    return _multiplied(part, scale, None, "graft", details)


def _multiplied(
    change: AdapterChange | LowRankChange,
    scale: float,
    blocks: list[int] | None,
    method: str,
    details: Mapping[str, Any],
) -> AdapterChange | LowRankChange:
    def counts(name: str) -> bool:
        return blocks is None or block_of(name) in blocks

    if isinstance(change, LowRankChange):
        factors = {
            name: Factors(pair.outputs * scale, pair.inputs) if counts(name) else pair
            for name, pair in change.factors.items()
        }
        return LowRankChange(factors, change.base, method, details)
    tensors = {
        name: tensor * scale if _is_output_factor(name) and counts(name) else tensor
        for name, tensor in change.tensors.items()
    }
    return AdapterChange(change.config, tensors, change.base, method, details)


def _mixed(before: AdapterChange, after: AdapterChange, blocks: list[int], scale: float) -> AdapterChange:
    if scale != 1:
        raise ChangeError(
            "Two adapters cannot be mixed by a scale, because the product of mixed factors is no mixture. Use scale=1, "
            "or before=None."
        )
    if before.base != after.base:
        raise ChangeError("The two adapters were trained on different weights. Graft adapters of one base.")
    settings_after, settings_before = (
        {name: getattr(change.config, name) for name in _COMPUTED} for change in (after, before)
    )
    differing = [name for name in _COMPUTED if settings_after[name] != settings_before[name]]
    shapes = [{name: tensor.shape for name, tensor in change.tensors.items()} for change in (before, after)]
    if differing or shapes[0] != shapes[1]:
        what = (
            f"{differing[0]} {settings_before[differing[0]]} and {settings_after[differing[0]]}"
            if differing
            else "factors elsewhere"
        )
        raise ChangeError(f"The two adapters are built differently ({what}). Train both with one configuration.")
    tensors = {
        name: after.tensors[name] if block_of(name) in blocks else tensor for name, tensor in before.tensors.items()
    }
    details = _details(blocks, scale, _origin(before), _origin(after))
    return AdapterChange(copy.copy(after.config), tensors, after.base, "graft", details)


def _block_weights(state: Model | Variant, blocks: list[int]) -> tuple[str, dict[str, Tensor]]:
    """Fingerprint of a model or a state, and the weights of some of its blocks."""
    with active(state) as model:
        require_writable(model, "A graft of weights")
        if adapted_layers(model.module):
            raise ChangeError("A model to graft has an adapter on. Pass the adapters themselves, or merge them first.")
        prefixes = tuple(f"{model.anatomy.layout.blocks}.{block}." for block in blocks)
        weights = {n: w.detach() for n, w in named_weights(model.module).items() if n.startswith(prefixes)}
        if isinstance(state, Variant):  # the change goes off again
            weights = {name: weight.clone() for name, weight in weights.items()}
        return model.fingerprint, weights


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


def _described(thing: object) -> str:
    return "None" if thing is None else f"a {type(thing).__name__}"


def _require_finite(scale: float) -> None:
    if not math.isfinite(scale):
        raise ChangeError(f"A scale of {scale} is not a number. Give a finite one.")
