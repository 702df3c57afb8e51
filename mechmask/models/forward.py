"""One forward pass: which contests may share a row, and what the unembedding reads at the end of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mechmask.models.model import Model
from mechmask.models.packing import Batch
from mechmask.models.paths import attention_along, can_attend_along_paths
from mechmask.models.routes import Contest
from mechmask.models.unembedding import by_layer


def decoded(model: Model, batch: Batch) -> Float[Tensor, "node width"]:
    """What the unembedding reads at the nodes of a batch."""
    return torch.cat([_decoded(model, one) for one in batch.passes()])


def hidden_states(model: Model, texts: Sequence[Sequence[int]]) -> Iterator[Float[Tensor, "token width"]]:
    """What the unembedding reads at every token of each text: in one pass, or in one for each where that matters.

    Even then a token of a text that is read alone may be moved by those behind it (``Model.is_read_alone``).

    Args:
        model: the model; evaluation mode, gradients and the lock are the caller's (``Model.inference``).
        texts: token ids of each.
    """
    for some in [[text] for text in texts] if model.is_read_alone else [texts]:
        ids = pad_sequence([torch.tensor(text) for text in some], batch_first=True)
        hidden = model.anatomy.decoder(input_ids=ids.to(model.device), use_cache=False).last_hidden_state
        yield from (states[: len(text)] for text, states in zip(some, hidden, strict=True))


def next_logits(model: Model, texts: Sequence[Sequence[int]]) -> Float[Tensor, "text vocabulary"]:
    """Logits of what follows each text, in float32, as the model gives them out.

    Texts on either side of a change of rotary frequencies are read apart.

    Args:
        model: the model; evaluation mode, gradients and the lock are the caller's (``Model.inference``).
        texts: token ids of each, at least one.
    """
    threshold = model.rope_threshold
    long = [threshold is not None and len(text) > threshold for text in texts]
    ends: dict[int, Tensor] = {}
    for side in (False, True):
        numbers = [number for number, is_long in enumerate(long) if is_long == side]
        if numbers:
            states = hidden_states(model, [texts[number] for number in numbers])
            ends |= {number: of[-1] for number, of in zip(numbers, states, strict=True)}
    normed = torch.stack([ends[number] for number in range(len(texts))])
    return model.anatomy.given_out(by_layer(model.anatomy.unembedding, normed).float())


def _decoded(model: Model, batch: Batch) -> Float[Tensor, "node width"]:
    with nullcontext() if batch.paths is None else attention_along(model.module, batch.paths):
        hidden = model.anatomy.decoder(**batch.inputs(model.device, model.dtype)).last_hidden_state
    return hidden[batch.rows.to(hidden.device), batch.columns.to(hidden.device)]


def may_pack(model: Model, contests: Iterable[Contest | None]) -> bool:
    """Whether routes can share a row: none moves another, attention takes any mask, none is longer than its window."""
    if model.is_read_alone:
        return False
    takes_masks = getattr(model.module.config, "_attn_implementation", "eager") in ("eager", "sdpa")
    return takes_masks and not model.anatomy.is_recurrent and _in_window(model, contests)


def may_go_along_paths(model: Model, contests: Iterable[Contest | None]) -> bool:
    """Whether all routes can share one row, each token once, with attention along their paths."""
    if model.anatomy.is_recurrent:
        return False
    attentions = map(model.anatomy.attention, range(model.n_layers))
    return all(can_attend_along_paths(model.module, each) for each in attentions) and _in_window(model, contests)


def _in_window(model: Model, contests: Iterable[Contest | None]) -> bool:
    longest = max(len(c.prompt) + len(ids) for c in contests if c is not None for ids in c.routes.values())
    window = model.anatomy.sliding_window
    return window is None or longest <= window
