"""One forward pass: which contests may share a row, and what the unembedding reads at the end of it."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from mechmask.models.model import Model
from mechmask.models.packing import Batch
from mechmask.models.routes import Contest


def decoded(model: Model, batch: Batch) -> Float[Tensor, "node width"]:
    """What the unembedding reads at the nodes of a batch."""
    hidden = model.anatomy.decoder(**batch.inputs(model.device, model.dtype), use_cache=False).last_hidden_state
    return hidden[batch.rows.to(hidden.device), batch.columns.to(hidden.device)]


def may_pack(model: Model, contests: Iterable[Contest | None]) -> bool:
    """Whether routes can share a row: the attention takes any mask, and no route is longer than its window."""
    takes_masks = getattr(model.module.config, "_attn_implementation", "eager") in ("eager", "sdpa")
    window = model.anatomy.sliding_window
    return takes_masks and (window is None or max(map(n_tokens, filter(None, contests)), default=0) <= window)


def n_tokens(contest: Contest) -> int:
    """The length of a contest's longest route, its prompt included."""
    return len(contest.prompt) + max(map(len, contest.routes.values()))


def rope_threshold(model: Model) -> int | None:
    """The length of a pass, in tokens, beyond which the model turns its positions differently; mostly there is none."""
    return None


def beyond_threshold(model: Model, contests: Iterable[Contest]) -> Bool[np.ndarray, " contest"]:
    """Whether a contest is so long that the model turns its positions differently."""
    threshold = rope_threshold(model)
    return np.array([threshold is not None and n_tokens(contest) > threshold for contest in contests])
