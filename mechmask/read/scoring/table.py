"""Sums of token log-probabilities by fact and route, filled batch by batch; a layer axis may come along.

What ``read_logits`` and ``read_depth`` have in common once a batch has been scored.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from transformers import PreTrainedTokenizerBase

from mechmask.facts.fact import Fact
from mechmask.models.packing import Batch
from mechmask.read.scoring.labels import fact_coordinates, route_names, value_coordinate


class RouteTable:
    """Log-probability of every route of every contest in nats, as far as it has been read.

    Args:
        tokenizer: spells the tokens that were read.
        facts: the facts, in the order in which contests are numbered.
        n_layers: entries of the layer axis; none where only the output is read.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, facts: Sequence[Fact], n_layers: int | None = None) -> None:
        self.facts = list(facts)
        self._tokenizer = tokenizer
        self._tokens: dict[tuple[int, int], list[int]] = {}
        self.routes = route_names(self.facts)
        shape = (len(self.facts), len(self.routes))
        self._column = {route: i for i, route in enumerate(self.routes)}
        self.logprob = np.zeros(shape if n_layers is None else (*shape, n_layers))
        self.n_tokens = np.zeros(shape, dtype=int)
        self.first_token = np.zeros(shape, dtype=int)

    def add(self, batch: Batch, logprob: np.ndarray) -> None:
        """Add what was read: ``[query]``, or ``[layer, query]``."""
        for query, value in zip(batch.queries, np.moveaxis(logprob, -1, 0), strict=True):
            cell = self.cell(query.contest, query.route)
            if not self.n_tokens[cell]:
                self.first_token[cell] = query.index
            self.n_tokens[cell] += 1
            self._tokens.setdefault(cell, []).append(query.token)
            self.logprob[cell] += value

    def cell(self, contest: int, route: str) -> tuple[int, int]:
        """Row and column of a route."""
        return contest, self._column[route]

    def dataset(self, score: str) -> xr.Dataset:
        """``logprob[fact, route]`` or ``[fact, route, layer]``, NaN where nothing was read."""
        count = self.n_tokens.reshape(self.n_tokens.shape + (1,) * (self.logprob.ndim - 2))
        values = np.where(count > 0, self.logprob / np.where((count > 0) & (score == "mean"), count, 1), np.nan)
        dims = ("fact", "route", "layer")[: values.ndim]
        coordinates = {
            **fact_coordinates(self.facts),
            "route": self.routes,
            "value": value_coordinate(self.facts, self.routes),
            "token": (("fact", "route"), self._token_texts()),
        }
        return xr.Dataset({"logprob": (dims, values, {"units": "nats"})}, coordinates)

    def _token_texts(self) -> np.ndarray:
        """The tokens that the score reads, ``|`` between two; empty where nothing was read."""
        texts = np.full(self.n_tokens.shape, "", dtype=object)
        for cell, ids in self._tokens.items():
            texts[cell] = "|".join(self._tokenizer.batch_decode([[token] for token in ids]))
        return texts.astype(str)
