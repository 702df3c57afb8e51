"""The residuals of a corpus, layer by layer: what a lens is fitted on, and the held-out ones that it is judged by."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from einops import pack, rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mechmask.measure.reading import SCHEMA_VERSION
from mechmask.measure.statistics import Interval, mean_interval
from mechmask.models.corpora import Corpus
from mechmask.models.gradients import without_gradients
from mechmask.models.packing import Batch
from mechmask.progress import Tick
from mechmask.read.backends import Backend
from mechmask.read.lenses.affine import linear_of
from mechmask.read.lenses.divergence import Readout, Target

_READ_TOGETHER = 16  # sequences
_LEVEL = 0.95


class Stream:
    """Residuals of a corpus, layers 0 to L, in float32: computed when they are asked for, never all at once.

    Args:
        backend: who watches the residual stream.
        corpus: what is read.
    """

    def __init__(self, backend: Backend, corpus: Corpus) -> None:
        self._backend = backend
        self._corpus = corpus

    @property
    def n_batches(self) -> int:
        """How many batches ``once`` gives."""
        return math.ceil(len(self._corpus.sequences) / _READ_TOGETHER)

    def once(self) -> Iterator[Float[Tensor, "layer node width"]]:
        """Every sequence once, in its order, some at a time."""
        yield from self._in_order(range(len(self._corpus.sequences)))

    def shuffled(self, n_nodes: int, generator: torch.Generator) -> Iterator[Float[Tensor, "layer node width"]]:
        """Batches of ``n_nodes`` for ever: each mixes the positions of several sequences."""
        pool: Tensor | None = None
        while True:
            order = torch.randperm(len(self._corpus.sequences), generator=generator).tolist()
            for fresh in self._in_order(order):
                pool = fresh if pool is None else _joined([pool, fresh])
                pool = pool[:, torch.randperm(pool.shape[1], generator=generator).to(pool.device)]
                while pool.shape[1] >= n_nodes:
                    yield pool[:, :n_nodes]
                    pool = pool[:, n_nodes:]

    def _in_order(self, order: Sequence[int]) -> Iterator[Tensor]:
        for start in range(0, len(order), _READ_TOGETHER):
            chosen = self._corpus.part(order[start : start + _READ_TOGETHER])
            yield self._backend.residuals(_batch(chosen)).float()


@dataclass(frozen=True)
class HeldOut:
    """What a lens is judged by.

    Attributes:
        residuals: of held-out tokens.
        target: the model's output there.
        lengths: how many of these tokens each sequence has.
    """

    residuals: Float[Tensor, "layer node width"]
    target: Target
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, stream: Stream, lengths: tuple[int, ...], readout: Readout, tick: Tick) -> HeldOut:
        """All residuals of a stream and the model's output there; ``tick`` is called after each batch."""
        parts = []
        for residuals in stream.once():
            parts.append(residuals)
            tick("")
        whole = _joined(parts)
        return cls(whole, readout.target(whole[-1]), lengths)

    def kl(self, readout: Readout, translators: nn.ModuleList | None, layer: int) -> Interval:
        """KL from the model's output at a layer in nats: mean over sequences; ``None`` is the logit lens."""
        residual = self.residuals[layer]
        with without_gradients():
            carried = residual if translators is None else residual + linear_of(translators, layer)(residual)
        each = readout.kl(carried, self.target).double()
        return mean_interval([rows.mean().item() for rows in each.split(self.lengths)], _LEVEL)


def quality_report(judged: Mapping[str, Sequence[Interval]], layers: Sequence[int], n_layers: int) -> xr.Dataset:
    """``kl[lens, layer]`` in nats with its interval, as ``draw.lens_quality`` takes it.

    Args:
        judged: by lens, the divergence at each of ``layers``.
        layers: the layers that were judged, below L; L is added, where every lens is the model.
        n_layers: L.
    """
    at_the_end = Interval(0.0, 0.0, 0.0, 0)
    intervals = [[*row, at_the_end] for row in judged.values()]
    coordinates = np.array([*layers, n_layers])
    nats = {
        name: (("lens", "layer"), np.maximum(0.0, [[getattr(i, field) for i in row] for row in intervals]))
        for name, field in (("kl", "estimate"), ("kl_low", "low"), ("kl_high", "high"))
    }
    report = xr.Dataset(nats, {"lens": list(judged), "layer": coordinates, "depth": ("layer", coordinates / n_layers)})
    for name in nats:
        report[name].attrs["units"] = "nats"
    return report.assign_attrs(schema_version=SCHEMA_VERSION, level=_LEVEL)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Residuals of several batches as those of one."""
    return pack(list(parts), "layer * width")[0]


def _batch(corpus: Corpus) -> Batch:
    """A forward pass over whole sequences; the padding on the right is read by nobody."""
    ids = pad_sequence([torch.tensor(row) for row in corpus.sequences], batch_first=True)
    positions = repeat(torch.arange(ids.shape[1]), "position -> row position", row=len(ids))
    nodes = [(r, c) for r, row in enumerate(corpus.sequences) for c in range(corpus.n_left_out, len(row))]
    rows, columns = rearrange(torch.tensor(nodes), "node place -> place node")
    return Batch(ids, positions, None, rows, columns, (), {})
