"""``core_parameters``: the weights that a change moved most, and how far those of two changes are the same.

Core parameter isolation (CPI-FT, 2508.21741) calls the largest share of all weights by ``|after - before|`` the core of
a task, whatever tensor they lie in, and compares two tasks by the Jaccard index of their cores. Where one task installs
facts and another contradicts them, it says whether a contradiction writes where the facts were written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from mechmask.errors import ReadingError
from mechmask.models.model import Model
from mechmask.models.states import Variant, active
from mechmask.read.weights import effective_weights


@dataclass(frozen=True, eq=False)
class Core:
    """The weights that a change moved most.

    Attributes:
        masks: by ``block.projection``, where they are: ``[first, second]`` as the weight is stored, boolean.
        share: of all weights that they were to be.
        threshold: the least of their moves, in absolute value.
    """

    masks: Mapping[str, Tensor]
    share: float
    threshold: float

    def __repr__(self) -> str:
        return f"Core({self.n:,} of {self.n_weights:,} weights)"

    @property
    def n(self) -> int:
        """How many weights they are."""
        return sum(int(mask.sum()) for mask in self.masks.values())

    @property
    def n_weights(self) -> int:
        """How many weights there are."""
        return sum(mask.numel() for mask in self.masks.values())

    def by_block(self) -> xr.DataArray:
        """Where they are: ``share[block, projection]``, of all that is in the core, without unit; sums to 1.

        Raises:
            ReadingError: if there is none.
        """
        if not self.n:
            raise ReadingError("The core is empty, so it lies nowhere. Take one of a change.")
        names = [name.split(".", 1) for name in self.masks]
        blocks = sorted({int(block) for block, _ in names})
        projections = list(dict.fromkeys(projection for _, projection in names))
        table = np.full((len(blocks), len(projections)), np.nan)
        for (block, projection), mask in zip(names, self.masks.values(), strict=True):
            table[blocks.index(int(block)), projections.index(projection)] = int(mask.sum()) / self.n
        return xr.DataArray(table, {"block": blocks, "projection": projections}, ("block", "projection"), "share")


def core_parameters(before: Model | Variant, after: Model | Variant, share: float = 0.01) -> Core:
    """The weights of attention and MLP projections that moved most, over all blocks together.

    Args:
        before: a model or a state (``change.on(model)``).
        after: another state of the model; what an adapter makes of a weight counts, not its factors.
        share: of all these weights, above 0 and at most 1. Weights that did not move are never among them, so that a
            change of few weights has a smaller core.

    Returns:
        Those whose move is at least as large as that of the last one that belongs to the share.

    Raises:
        ReadingError: if the two have other projections, nothing moved, or the share is not such a number.
        ChangeError: if a state's change was made on another model.
    """
    if not 0 < share <= 1:
        raise ReadingError(f"share={share:g} is no share of the weights. Give one above 0 and at most 1, such as 0.01.")
    with active(before) as now:
        earlier = {name: weight.clone() for name, weight in effective_weights(now)}
    moves: dict[str, Tensor] = {}
    with active(after) as now:
        for name, weight in effective_weights(now):
            if name not in earlier or earlier[name].shape != weight.shape:
                raise ReadingError(f"The models differ in {name}. Give two states of one model.")
            moves[name] = (weight - earlier.pop(name)).abs().float()
    if earlier:
        raise ReadingError(f"The models differ: only one has {min(earlier)}. Give two states of one model.")
    threshold = _threshold(list(moves.values()), share)
    return Core({name: move >= threshold for name, move in moves.items()}, share, threshold)


def core_overlap(first: Core, second: Core) -> tuple[float, float]:
    """How far two changes moved the same weights.

    Args:
        first: the core of a change.
        second: that of another change of the same model.

    Returns:
        The Jaccard index of the two, ``|both| / |either|``, and what it would be on average if the second core lay
        anywhere; both without unit.

    Raises:
        ReadingError: if they are of other weights.
    """
    if {name: mask.shape for name, mask in first.masks.items()} != {n: mask.shape for n, mask in second.masks.items()}:
        raise ReadingError("The two cores are of different weights. Take both of one model.")
    both = sum(int((mask & second.masks[name].to(mask.device)).sum()) for name, mask in first.masks.items())
    by_chance = first.n * second.n / first.n_weights
    either = first.n + second.n
    return both / (either - both), by_chance / (either - by_chance)


def _threshold(moves: list[Tensor], share: float) -> float:
    """The least move of the largest share of them."""
    n = max(1, int(share * sum(move.numel() for move in moves)))
    largest = torch.empty(0)
    for move in moves:  # never more than twice the core is held at once
        flat = move.flatten().cpu()
        largest = torch.cat([largest, flat.topk(min(n, len(flat))).values])
        largest = largest.topk(min(n, len(largest))).values
    moved = largest[largest > 0]
    if not len(moved):
        raise ReadingError("Nothing moved between the two states, so there is no core. Give a change.")
    return float(moved.min())
