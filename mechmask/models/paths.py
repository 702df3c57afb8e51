"""Attention along the paths of a tree of tokens, in which each distinct beginning of many sequences stands once.

A mask over such a tree compares every token with every other, most of them on other branches. Here queries, keys and
values are laid out along the paths from root to leaf, attention is causal there, and every token takes one of its
results back. All other maps of the model meet each token once, and attention no pair of tokens on two branches.
"""

from __future__ import annotations

import copy
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.functional import embedding
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from mechmask.errors import ModelError
from mechmask.interrupts import atomic_context

_NAME = "mechmask_paths"
_EAGER = "eager_attention_forward"  # what transformers calls it in every family's file


@dataclass(frozen=True)
class Paths:
    """The paths from root to leaf of a forest whose tokens stand side by side in one row.

    Attributes:
        tokens: indices of the tokens along each path ``[path, position]``, in groups of paths of about one length. A
            shorter path is padded with its own last token, which causal attention hides from every real one.
        slots: index of each token in all groups, flattened and concatenated ``[token]``.
    """

    tokens: tuple[Tensor, ...]
    slots: Int[Tensor, " token"]

    def to(self, device: torch.device) -> Paths:
        """The same on another device."""
        return Paths(tuple(tokens.to(device) for tokens in self.tokens), self.slots.to(device))

    def upto(self, token: int) -> Int[Tensor, " position"]:
        """The tokens from the root to one of them, itself the last."""
        table = next(table for table in self.tokens if (table == token).any())
        path, position = (table == token).nonzero()[0].tolist()
        return table[path, : position + 1]


def paths_of(parents: Sequence[int]) -> Paths:
    """The paths of a forest.

    Args:
        parents: the token before each token, -1 where there is none; a parent stands before its children.
    """
    to_token: list[list[int]] = []
    for token, parent in enumerate(parents):
        to_token.append([*to_token[parent], token] if parent >= 0 else [token])
    inner = set(parents)
    groups: dict[int, list[list[int]]] = defaultdict(list)
    for token, path in enumerate(to_token):
        if token not in inner:
            groups[(len(path) - 1).bit_length()].append(path)  # none is padded to twice its length
    slots, n_before, tables = [0] * len(parents), 0, []
    for group in groups.values():
        length = max(map(len, group))
        for row, path in enumerate(group):
            for position, token in enumerate(path):
                slots[token] = n_before + row * length + position
        n_before += len(group) * length
        tables.append(torch.tensor([path + path[-1:] * (length - len(path)) for path in group]))
    return Paths(tuple(tables), torch.tensor(slots))


def can_attend_along_paths(module: PreTrainedModel, attention: nn.Module) -> bool:
    """Whether the attention of a block can follow paths and computes the same there.

    Args:
        module: the model.
        attention: that of a block. It has to be of a file of transformers with an eager attention function, as it came
            (what stands in for its ``forward`` may want a mask), and to take no path of its own where it is eager, as
            GPT-2's does that computes in float32.
    """
    name = module.config._attn_implementation
    as_it_came = hasattr(_home(attention), _EAGER) and "forward" not in vars(attention)
    own_way = name == "eager" and getattr(attention, "reorder_and_upcast_attn", False)
    return bool(module._supports_attention_backend) and name in ("sdpa", "eager") and as_it_came and not own_way


@atomic_context
def attention_along(module: PreTrainedModel, paths: Paths) -> Iterator[None]:
    """Inside, attention of a forward pass in this thread follows paths.

    Each part of the module looks up in its configuration which attention it uses. They are given a copy of it, since
    other models may have the same one.

    Args:
        module: the model, which reads nothing but one row of the forest's tokens.
        paths: of that row.
    """
    parts = [part for part in module.modules() if isinstance(getattr(part, "config", None), PreTrainedConfig)]
    configs: list[Any] = [part.config for part in parts]
    copies = {id(config): copy.copy(config) for config in configs}
    followed = _followed.set((paths, str(module.config._attn_implementation)))
    try:
        for part, config in zip(parts, configs, strict=True):
            part.config = copies[id(config)]
            part.config._attn_implementation_internal = _NAME
        yield
    finally:
        for part, config in zip(parts, configs, strict=True):
            part.config = config
        _followed.reset(followed)


def require_followed(paths: Paths) -> None:
    """Refuse to read a forest as if its row were one sequence.

    Args:
        paths: of the row that is about to be read.

    Raises:
        ModelError: if the attention of this thread does not follow them.
    """
    followed = _followed.get()
    if followed is None or followed[0] is not paths:
        raise ModelError("A batch that stands along paths is read inside attention_along(model.module, batch.paths).")


_followed: ContextVar[tuple[Paths, str] | None] = ContextVar("followed", default=None)


def _attention(
    module: nn.Module,
    query: Float[Tensor, "1 head token width"],
    key: Float[Tensor, "1 kv_head token width"],
    value: Float[Tensor, "1 kv_head token width"],
    _mask: None,
    **options: Any,
) -> tuple[Float[Tensor, "1 token head width"], None]:
    """An attention function of transformers: the model's own, along the paths that are followed."""
    followed = _followed.get()
    if followed is None:
        raise ModelError("Another thread is training this model. Wait for it, or load the model again.")
    paths, underlying = followed[0].to(query.device), followed[1]  # a model may stand on several
    attend = ALL_ATTENTION_FUNCTIONS.get(underlying, getattr(_home(module), _EAGER))
    results = []
    for tokens in paths.tokens:
        mask = _causal(tokens.shape[1], query) if underlying == "eager" else None
        result, _ = attend(module, *(_laid_out(x, tokens) for x in (query, key, value)), mask, **options)
        results.append(result.flatten(0, 1))
    along_paths = results[0] if len(results) == 1 else torch.cat(results)
    return _rows(along_paths, paths.slots)[None], None


ALL_ATTENTION_FUNCTIONS.register(_NAME, _attention)


def _home(attention: nn.Module) -> ModuleType:
    """The file in which an attention is written."""
    return sys.modules[attention.forward.__module__]


def _laid_out(
    x: Float[Tensor, "1 head token width"], tokens: Int[Tensor, "path position"]
) -> Float[Tensor, "path head position width"]:
    # in float32, for on the way back a token's gradients are added over all paths that it is on
    return _rows(x[0].transpose(0, 1).float(), tokens).transpose(1, 2).to(x.dtype)


def _rows(x: Float[Tensor, "token head width"], index: Int[Tensor, "*shape"]) -> Float[Tensor, "*shape head width"]:
    """Some rows, as an embedding: on the way back its sums have one order on every device."""
    return embedding(index, x.flatten(1)).unflatten(-1, x.shape[1:])


def _causal(length: int, like: Tensor) -> Float[Tensor, "1 1 length length"]:
    lowest = torch.finfo(like.dtype).min
    return torch.full((1, 1, length, length), lowest, dtype=like.dtype, device=like.device).triu(1)
