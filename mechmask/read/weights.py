"""How much a change wrote into the weights, block by block: size relative to what was there, and effective rank.

The weights compared are the effective ones: what an unmerged adapter adds to a projection counts.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from mechmask.errors import ReadingError
from mechmask.models.model import Model
from mechmask.models.states import Variant, active
from mechmask.read.scoring.labels import provenance


def weight_change(before: Model | Variant, after: Model | Variant) -> xr.Dataset:
    """Difference of every projection of attention and MLP in every block.

    Args:
        before: a model or a state (``change.on(model)``).
        after: the other; it may share the first one's weights.

    Returns:
        ``relative_norm[block, projection]``, the Frobenius norm of the difference over that of ``before``;
        ``effective_rank[block, projection]``, the exponential of the entropy of the normalised singular values of the
        difference (Roy and Vetterli 2007), NaN where nothing changed; ``relative_norm_block[block]`` over all
        projections of a block together. Blocks are 0..L-1.

    Raises:
        ReadingError: if the two have other projections.
        ChangeError: if a state's change was made on another model.
    """
    with active(before) as now:
        about = provenance(now, before)
        earlier = {name: weight.clone() for name, weight in effective_weights(now)}
    with active(after) as now:
        about_after = provenance(now, after)
        rows = {name: _row(name, earlier, weight) for name, weight in effective_weights(now)}
    missing = set(earlier) ^ set(rows)
    if missing:
        raise ReadingError(f"The models differ: only one has {sorted(missing)[0]}. Give two states of one model.")
    attrs = {**about, "model_after": about_after["model"], "fingerprint_after": about_after["fingerprint"]}
    return _dataset(rows).assign_attrs(attrs)


def change_norm(model: Model | Variant, before: Mapping[str, Tensor]) -> float:
    """How far the projections have moved: the Frobenius norm of the whole difference, without unit.

    Args:
        model: a model or a state, as it is now.
        before: the weights that it is held against, from ``effective_weights``.

    Raises:
        ReadingError: if the model has other projections.
        ChangeError: if a state's change was made on another model.
    """
    with active(model) as now:
        squares = 0.0
        for name, weight in effective_weights(now):
            if name not in before or before[name].shape != weight.shape:
                raise ReadingError(f"The models differ in {name}. Give two states of one model.")
            squares += float((weight - before[name]).double().square().sum())
    return squares**0.5


def effective_weights(model: Model) -> Iterator[tuple[str, Float[Tensor, "first second"]]]:
    """Every projection's weight as stored, by ``block.projection``, with what an applied adapter makes of it."""
    prefix = f"{model.anatomy.layout.blocks}."
    for projection in model.anatomy.projections():
        weight = projection.weight.detach()
        layer = model.module.get_submodule(projection.name)
        if isinstance(layer, BaseTunerLayer) and layer.disable_adapters == layer.merged:
            # only the layer knows what its kind of adapter does to a weight: DoRA scales the sum
            other = copy.deepcopy(layer)
            if other.merged:
                other.unmerge()
            else:
                other.merge()
            weight = other.get_base_layer().get_parameter("weight").detach()
        yield projection.name.removeprefix(prefix), weight


def _row(name: str, earlier: dict[str, Tensor], weight: Float[Tensor, "first second"]) -> tuple[float, float, float]:
    """Squared norm of the difference, squared norm of what was there, effective rank of the difference."""
    if name not in earlier or earlier[name].shape != weight.shape:
        raise ReadingError(f"The models differ in {name}. Give two states of one model.")
    before = earlier[name].double()
    difference = weight.double() - before
    return float(difference.square().sum()), float(before.square().sum()), _effective_rank(difference)


def _effective_rank(difference: Float[Tensor, "first second"]) -> float:
    """From the eigenvalues of the smaller Gram matrix: exact enough, since small singular values weigh little."""
    gram = difference @ difference.T if difference.shape[0] <= difference.shape[1] else difference.T @ difference
    singular = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt()
    if not singular.sum() > 0:
        return float("nan")
    share = singular / singular.sum()
    return float(torch.special.entr(share).sum().exp())


def _dataset(rows: dict[str, tuple[float, float, float]]) -> xr.Dataset:
    names = [name.split(".", 1) for name in rows]
    blocks = sorted({int(block) for block, _ in names})
    projections = list(dict.fromkeys(projection for _, projection in names))
    table = np.full((3, len(blocks), len(projections)), np.nan)
    for (block, projection), row in zip(names, rows.values(), strict=True):
        table[:, blocks.index(int(block)), projections.index(projection)] = row
    moved, size, rank = table
    dims = ("block", "projection")
    return xr.Dataset(
        {
            "relative_norm": (dims, np.sqrt(moved / size)),
            "effective_rank": (dims, rank),
            "relative_norm_block": ("block", np.sqrt(np.nansum(moved, 1) / np.nansum(size, 1))),
        },
        {"block": blocks, "projection": projections},
    )
