"""One forward pass: which contests may share a row, and what the unembedding reads at the end of it."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext

from jaxtyping import Float
from torch import Tensor

from mechmask.models.model import Model
from mechmask.models.packing import Batch
from mechmask.models.paths import attention_along, can_attend_along_paths
from mechmask.models.routes import Contest


def decoded(model: Model, batch: Batch) -> Float[Tensor, "node width"]:
    """What the unembedding reads at the nodes of a batch."""
    with nullcontext() if batch.paths is None else attention_along(model.module, batch.paths):
        hidden = model.anatomy.decoder(**batch.inputs(model.device, model.dtype)).last_hidden_state
    return hidden[batch.rows.to(hidden.device), batch.columns.to(hidden.device)]


def may_pack(model: Model, contests: Iterable[Contest | None]) -> bool:
    """Whether routes can share a row: the attention takes any mask, and no route is longer than its window."""
    takes_masks = getattr(model.module.config, "_attn_implementation", "eager") in ("eager", "sdpa")
    return takes_masks and _in_window(model, contests)


def may_go_along_paths(model: Model, contests: Iterable[Contest | None]) -> bool:
    """Whether all routes can share one row, each token once, with attention along their paths."""
    attentions = map(model.anatomy.attention, range(model.n_layers))
    return all(can_attend_along_paths(model.module, each) for each in attentions) and _in_window(model, contests)


def _in_window(model: Model, contests: Iterable[Contest | None]) -> bool:
    longest = max(len(c.prompt) + len(ids) for c in contests if c is not None for ids in c.routes.values())
    window = model.anatomy.sliding_window
    return window is None or longest <= window
