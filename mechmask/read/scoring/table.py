"""Sums of token log-probabilities by contest and route, filled batch by batch; a layer axis may come along.

What ``read_logits``, ``read_depth`` and ``patch_residual`` have in common once a batch has been scored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import numpy as np
import xarray as xr
from einops import rearrange
from transformers import PreTrainedTokenizerBase

from mechmask.models.packing import Batch
from mechmask.models.routes import alias_of, is_alias
from mechmask.read.scoring.contests import ContestSet
from mechmask.read.scoring.labels import Score, route_names, token_texts, value_coordinate


class RouteTable:
    """Log-probability of every route of every contest in nats, as far as it has been read.

    Args:
        tokenizer: spells the tokens that were read.
        contests: what is read.
        score: which of a value's tokens are read, and whether their sum or their mean is given.
        n_layers: L, where every layer is read; ``None`` where only the output is.

    Attributes:
        routes: the routes that a reading has; other spellings of their values stand in columns behind them.
        logprob: sums over the tokens read, in nats ``[contest, column]`` or ``[contest, column, layer]``.
        n_tokens: how many they are ``[contest, column]``.
        first_token: which of the value's tokens was the first of them ``[contest, column]``.
        masked: whether a contest was read in a batch with a mask of its own ``[contest]``.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, contests: ContestSet, score: Score, n_layers: int | None = None
    ) -> None:
        self.contests = contests
        self.score: Score = score
        self.routes = route_names(contests.facts)
        self._tokenizer = tokenizer
        self._tokens: dict[tuple[int, int], list[int]] = defaultdict(list)
        spellings = dict.fromkeys(route for contest in contests for route in contest.routes if is_alias(route))
        self._column = {route: i for i, route in enumerate([*self.routes, *spellings])}
        shape = (len(contests), len(self._column))
        self.logprob = np.zeros(shape if n_layers is None else (*shape, n_layers + 1))
        self.n_tokens = np.zeros(shape, dtype=int)
        self.first_token = np.zeros(shape, dtype=int)
        self.masked = np.zeros(len(contests), dtype=bool)

    def add(self, batch: Batch, logprob: np.ndarray) -> None:
        """Add what was read: ``[query]``, or ``[layer, query]``."""
        for query, value in zip(batch.queries, rearrange(logprob, "... query -> query ..."), strict=True):
            cell = self.cell(query.contest, query.route)
            if not self.n_tokens[cell]:
                self.first_token[cell] = query.index
            self.n_tokens[cell] += 1
            self._tokens[cell].append(query.token)
            self.logprob[cell] += value
            self.masked[query.contest] = batch.attention_mask is not None

    def cell(self, contest: int, route: str) -> tuple[int, int]:
        """Row and column of a route."""
        return contest, self._column[route]

    @property
    def at_output(self) -> np.ndarray:
        """``logprob`` at the model's output ``[contest, route]``."""
        return self.logprob if self.logprob.ndim == 2 else self.logprob[..., -1]

    def dataset(self) -> xr.Dataset:
        """``logprob[fact, route]``, with ``phrasing`` and ``layer`` where they are read; NaN where nothing was."""
        axes = "contest route -> contest route 1" if self.logprob.ndim == 3 else "contest route -> contest route"
        count = rearrange(self.n_tokens, axes)
        values = np.where(count > 0, self.logprob / np.where((count > 0) & (self.score == "mean"), count, 1), np.nan)
        values = self.by_route(values, _log_sum)
        dims = ("route", "layer")[: values.ndim - 1]
        reading = self.contests.dataset({"logprob": (dims, values, {"units": "nats"})}, route=self.routes)
        reading = reading.assign_coords(
            value=value_coordinate(self.contests.facts, self.routes), token=self._token_texts()
        )
        return reading.assign_attrs(aliases="summed") if len(self._column) > len(self.routes) else reading

    def by_route(self, by_column: np.ndarray, join: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
        """``[contest, column, ...]`` as ``[contest, route, ...]``: what belongs to spellings of one value is joined."""
        by_route = by_column[:, : len(self.routes)].copy()
        for spelling, column in list(self._column.items())[len(self.routes) :]:
            route = self._column[alias_of(spelling)]
            by_route[:, route] = join(by_route[:, route], by_column[:, column])
        return by_route

    def _token_texts(self) -> xr.DataArray:
        """The tokens that the score reads; empty where nothing was read, by phrasing where phrasings differ in them."""
        texts = np.full(self.n_tokens.shape, "", dtype=object)
        for cell, tokens in self._tokens.items():
            texts[cell] = token_texts(self._tokenizer, tokens)
        texts = self.by_route(texts, _either)
        folded = xr.DataArray(self.contests.fold(texts.astype(str)), dims=(*self.contests.dims, "route"))
        if "phrasing" not in folded.dims:
            return folded
        prompt = folded.isel(phrasing=0)
        return prompt if bool((folded == prompt).all()) else folded


def _log_sum(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The logarithm of two probabilities together; NaN is one that was not read."""
    return np.where(np.isnan(other), one, np.logaddexp(one, other))


def _either(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Both texts, a stroke between them; the first where there is no second."""
    return np.where(other == "", one, one + " / " + other)
