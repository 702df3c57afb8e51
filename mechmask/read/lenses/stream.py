"""The residuals of a corpus, layer by layer, as a lens is fitted on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mechmask.models.corpora import Corpus
from mechmask.models.packing import Batch
from mechmask.read.backends import Backend

_READ_TOGETHER = 16  # sequences


class Stream:
    """Residuals of a corpus, layers 0 to L, in float32: made when they are asked for, never all at once."""

    def __init__(self, backend: Backend, corpus: Corpus) -> None:
        self._backend = backend
        self._corpus = corpus

    @property
    def n_batches(self) -> int:
        """How many batches ``once`` gives."""
        return -(-len(self._corpus.sequences) // _READ_TOGETHER)

    def once(self) -> Iterator[Float[Tensor, "layer node width"]]:
        """Every sequence once, in its order, some at a time."""
        order = range(len(self._corpus.sequences))
        for start in range(0, len(order), _READ_TOGETHER):
            yield self._residuals(order[start : start + _READ_TOGETHER])

    def shuffled(self, n_nodes: int, generator: torch.Generator) -> Iterator[Float[Tensor, "layer node width"]]:
        """Batches of ``n_nodes`` for ever: each mixes the positions of several sequences."""
        kept: Tensor | None = None
        while True:
            order = torch.randperm(len(self._corpus.sequences), generator=generator).tolist()
            for start in range(0, len(order), _READ_TOGETHER):
                fresh = self._residuals(order[start : start + _READ_TOGETHER])
                kept = fresh if kept is None else torch.cat([kept, fresh], dim=1)
                kept = kept[:, torch.randperm(kept.shape[1], generator=generator).to(kept.device)]
                while kept.shape[1] >= n_nodes:
                    yield kept[:, :n_nodes]
                    kept = kept[:, n_nodes:]

    def _residuals(self, chosen: Sequence[int]) -> Tensor:
        return self._backend.residuals(_batch(self._corpus.part(chosen))).float()


def _batch(corpus: Corpus) -> Batch:
    """A forward pass over whole sequences; the padding on the right is read by nobody."""
    length = max(map(len, corpus.sequences))
    ids = torch.tensor([[*row, *[0] * (length - len(row))] for row in corpus.sequences])
    positions = torch.arange(length).expand_as(ids)
    nodes = [(r, c) for r, row in enumerate(corpus.sequences) for c in range(corpus.n_left_out, len(row))]
    rows, columns = torch.tensor(nodes).T
    return Batch(ids, positions, None, rows, columns, (), {})
