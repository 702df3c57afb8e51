"""Contests packed for one forward pass: routes share their prompt and every common token, facts their common prefix.

A contest becomes a tree of tokens: the prompt is its trunk, the values branch off where they differ, and a route's last
token is left out because nothing is read after it. Contests that stand in one row are one forest, and those whose
prompts begin alike share that beginning. A token attends to its ancestors only (by a four-dimensional attention mask,
or by attention along paths where a whole batch is one row) and takes the position that it has on its own route, so the
logits are those of each route read alone. With eight distractors that is about a third of the tokens, and memory
depends on the batch, not on the number of facts.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Cache

from mechmask.errors import ModelError
from mechmask.models.paths import Paths, paths_of, require_followed
from mechmask.models.routes import Contest

# Attention over a row of so many tokens is 4% of a block's own products on SmolLM2-135M, and rows of a full budget
# leave little padding.
ROW_TOKENS = 128
_LONGEST_ROW = 1.5  # times that, where it saves padding


@dataclass(frozen=True)
class Query:
    """One token of one route, the ``index``-th of its value: its log-probability is read at ``node``."""

    contest: int
    route: str
    index: int
    node: int
    token: int


@dataclass
class _Tree:
    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    children: dict[tuple[int, int], int] = field(default_factory=dict)

    def grow(self, node: int, token: int) -> int:
        """The child of ``node`` that holds ``token``, made where it is not there yet."""
        if (node, token) not in self.children:
            self.children[node, token] = len(self.tokens)
            self.tokens.append(token)
            self.parents.append(node)
            self.positions.append(0 if node < 0 else self.positions[node] + 1)
        return self.children[node, token]


@dataclass(frozen=True)
class Batch:
    """What one forward pass takes, and where its results are read.

    Attributes:
        input_ids: token ids ``[row, position]``, padded on the right.
        position_ids: each token's position on its own route ``[row, position]``.
        attention_mask: ``True`` where a token may look ``[row, 1, position, position]``; ``None`` where every row is a
            plain sequence, for which the causal mask suffices, and where attention follows ``paths`` instead.
        rows: row of each node that is read ``[node]``.
        columns: position of each node that is read ``[node]``.
        queries: which token of which route is read at which of those nodes.
        divergence: for each contest, the node at which old and new diverge.
        past: what keeps the keys and values of the pass, where somebody goes on from it; none are kept by default.
        paths: what each token sees, where all stand in one row that is read inside ``attention_along``.
        is_apart: whether each node ends a row of its own, to be read in a pass of its own (``passes``).
    """

    input_ids: Int[Tensor, "row position"]
    position_ids: Int[Tensor, "row position"]
    attention_mask: Bool[Tensor, "row 1 position position"] | None
    rows: Int[Tensor, " node"]
    columns: Int[Tensor, " node"]
    queries: tuple[Query, ...]
    divergence: dict[int, int]
    past: Cache | None = None
    paths: Paths | None = None
    is_apart: bool = False

    def asked(self, device: torch.device) -> tuple[Int[Tensor, " query"], Int[Tensor, " query"]]:
        """Node and token of every query."""
        nodes = torch.tensor([query.node for query in self.queries], device=device)
        return nodes, torch.tensor([query.token for query in self.queries], device=device)

    def path(self, node: int) -> Int[Tensor, " position"]:
        """The positions, in its row, of what a node sees: the prompt and the tokens of its route, itself the last."""
        row, column = self.rows[node], self.columns[node]
        if self.paths is not None:
            return self.paths.upto(int(column))
        if self.attention_mask is None:
            return torch.arange(int(column) + 1)
        return self.attention_mask[row, 0, column].nonzero()[:, 0]

    def inputs(self, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
        """Keyword arguments of a transformers decoder.

        Raises:
            ModelError: if the batch stands along paths that this thread's attention does not follow, or its nodes are
                to be read in a pass each.
        """
        if self.is_apart and len(self.rows) > 1:
            raise ModelError("The nodes of a batch that stands apart are read in a pass each, batch.passes().")
        if self.paths is not None:
            require_followed(self.paths)
        inputs = {"input_ids": self.input_ids.to(device), "position_ids": self.position_ids.to(device)}
        inputs |= {"use_cache": self.past is not None, "past_key_values": self.past}
        if self.attention_mask is not None:
            inputs["attention_mask"] = additive(self.attention_mask, dtype).to(device)
        return inputs

    def passes(self) -> Iterator[Batch]:
        """The forward passes that read the nodes of this batch, one after the other: itself, or one for each node.

        The batch of one node holds nothing but the tokens up to it, without padding; it has no queries.
        """
        if not self.is_apart:
            yield self
            return
        for row, column in zip(self.rows.tolist(), self.columns.tolist(), strict=True):
            upto = slice(column + 1)
            yield replace(
                self,
                input_ids=self.input_ids[row : row + 1, upto],
                position_ids=self.position_ids[row : row + 1, upto],
                rows=torch.tensor([0]),
                columns=torch.tensor([column]),
                queries=(),
                divergence={},
            )


def apart(batch: Batch) -> Batch:
    """A batch in which each node that is read ends a row of its own, with the tokens that it sees before it.

    Args:
        batch: any but one along paths.
    """
    seen = [batch.input_ids[row, batch.path(node)] for node, row in enumerate(batch.rows.tolist())]
    ids = pad_sequence(seen, batch_first=True)
    return replace(
        batch,
        input_ids=ids,
        position_ids=torch.arange(ids.shape[1]).expand_as(ids),
        attention_mask=None,
        rows=torch.arange(len(seen)),
        columns=torch.tensor([len(tokens) - 1 for tokens in seen]),
        is_apart=True,
    )


def with_twins(batch: Batch, n: int) -> Batch:
    """A batch of plain rows in which n more tokens stand behind each row, each a twin of the token that is read.

    A twin has the token, the position and the past of its original, and no other token sees it: what is done to its
    residual stream is done to it alone.

    Args:
        batch: rows that are plain sequences, each read at one node.
        n: twins of each node; they stand in the row's last n columns.
    """
    length = batch.input_ids.shape[1]
    last = torch.empty(len(batch.input_ids), dtype=torch.long)
    last[batch.rows] = batch.columns
    mask = torch.eye(length + n, dtype=torch.bool).repeat(len(last), 1, 1)
    mask[:, :length, :length] = torch.ones(length, length, dtype=torch.bool).tril()
    mask[:, length:, :length] = (torch.arange(length) < last[:, None])[:, None]
    return replace(
        batch,
        input_ids=_behind(batch.input_ids, last, n),
        position_ids=_behind(batch.position_ids, last, n),
        attention_mask=mask[:, None],
    )


def _behind(table: Int[Tensor, "row position"], last: Int[Tensor, " row"], n: int) -> Int[Tensor, "row more"]:
    """Each row, and its entry at ``last`` n times behind it."""
    return torch.cat([table, table.gather(1, last[:, None]).expand(-1, n)], dim=1)


def additive(mask: Bool[Tensor, "*shape"], dtype: torch.dtype) -> Float[Tensor, "*shape"]:
    """Zero where a token may look, the lowest number of ``dtype`` elsewhere."""
    return torch.zeros(mask.shape, dtype=dtype).masked_fill_(~mask, torch.finfo(dtype).min)


def batches(
    contests: Sequence[Contest | None],
    *,
    score: str,
    batch_size: int = 32,
    pack: bool = True,
    row_tokens: int = ROW_TOKENS,
    along_paths: bool = False,
    alone: bool = False,
    threshold: int | None = None,
) -> Iterator[Batch]:
    """The contests in batches; those whose prompts begin alike stand together.

    Some models choose their rotary frequencies by the longest row of a batch (``Anatomy.rope_threshold``): one long
    contest would move all others of its batch, so contests on either side of the threshold never share one.

    Args:
        contests: what is read; a query names a contest by its index here. ``None`` is passed over.
        score: ``divergence`` asks for one token of each route, ``sequence`` and ``mean`` for all.
        batch_size: contests per batch.
        pack: whether the routes of a contest share a row; else each route has its own.
        row_tokens: contests share a row up to about so many tokens, half as many more where that saves padding; 0 gives
            each contest a row of its own.
        along_paths: whether all contests of a batch share one row instead, in which each token stands once, for an
            attention that follows paths.
        alone: whether each token that is asked for is read in a pass of its own instead, behind what stands before it
            and with nothing else (``Batch.passes``).
        threshold: the most tokens of a route, prompt included, with which a model computes as with fewer.
    """
    present = [(i, contest) for i, contest in enumerate(contests) if contest is not None]
    present.sort(key=lambda entry: (entry[1].prompt, entry[0]))
    is_long = {i: threshold is not None and max(n_read(contest, score).values()) > threshold for i, contest in present}
    for side in (False, True):
        alike = [(i, contest) for i, contest in present if is_long[i] is side]
        for start in range(0, len(alike), batch_size):
            batch = dict(alike[start : start + batch_size])
            single = _rows_alone(batch, score)
            if along_paths:
                yield _batch(batch, [[entry for row in single for entry in row]], score, along_paths=True)
            elif alone:
                yield apart(_batch(batch, _rows(batch, score, row_tokens=0), score))
            else:
                yield _batch(batch, _rows(batch, score, row_tokens) if pack else single, score)


def n_read(contest: Contest, score: str) -> dict[str, int]:
    """How many tokens the model reads for each route: the prompt, and the value up to the token before the last."""
    return {route: len(contest.prompt) + asked.stop - 1 for route, asked in scored_tokens(contest, score).items()}


def _rows(contests: Mapping[int, Contest], score: str, row_tokens: int) -> list[list[tuple[int, str]]]:
    """Which routes of which contests stand in one row: in as many rows as need the least padding."""
    routes = [[(index, route) for route in scored_tokens(contest, score)] for index, contest in contests.items()]
    if not row_tokens:
        return routes
    sizes = [_tokens_of(contest, score) for contest in contests.values()]
    fewest, most = (math.ceil(sum(sizes) / length) for length in (_LONGEST_ROW * row_tokens, row_tokens))
    rows_of = min((_filled(sizes, n) for n in range(most, fewest - 1, -1)), key=lambda rows: _padded_size(sizes, rows))
    rows: list[list[tuple[int, str]]] = [[] for _ in range(rows_of[-1] + 1)]
    for asked, row in zip(routes, rows_of, strict=True):
        rows[row] += asked
    return rows


def _filled(sizes: Sequence[int], n_rows: int) -> list[int]:
    """The row of each contest, one after the other, in about so many rows of about equal length."""
    rows, filled, mean = [0], sizes[0], sum(sizes) / n_rows
    for size in sizes[1:]:
        is_full = filled + size / 2 > mean
        rows.append(rows[-1] + is_full)
        filled = size if is_full else filled + size
    return rows


def _padded_size(sizes: Sequence[int], rows: Sequence[int]) -> int:
    """How many tokens a pass reads, padding included."""
    lengths = Counter()
    for size, row in zip(sizes, rows, strict=True):
        lengths[row] += size
    return len(lengths) * max(lengths.values())


def _rows_alone(contests: Mapping[int, Contest], score: str) -> list[list[tuple[int, str]]]:
    return [[(index, route)] for index, contest in contests.items() for route in scored_tokens(contest, score)]


def _tokens_of(contest: Contest, score: str) -> int:
    """How many tokens a contest's own tree has."""
    paths = [contest.routes[route][: asked.stop - 1] for route, asked in scored_tokens(contest, score).items()]
    return len(contest.prompt) + len({path[:n] for path in paths for n in range(1, len(path) + 1)})


def scored_tokens(contest: Contest, score: str) -> dict[str, range]:
    """Which value tokens of each route are read, by index.

    The divergence score reads one token after the common prefix of old and new; a distractor that does not share that
    prefix, or that continues as old or new does, has no place in that contest and is not read.
    """
    if score != "divergence":
        return {route: range(len(ids)) for route, ids in contest.routes.items()}
    n = contest.n_common
    old, new = contest.routes["old"], contest.routes["new"]
    rivals = {old[n], new[n]}
    return {
        route: range(n, n + 1)
        for route, ids in contest.routes.items()
        if route in ("old", "new") or (ids[:n] == old[:n] and len(ids) > n and ids[n] not in rivals)
    }


def _batch(
    contests: Mapping[int, Contest],
    rows: Sequence[Sequence[tuple[int, str]]],
    score: str,
    along_paths: bool = False,
) -> Batch:
    trees: list[_Tree] = []
    nodes: dict[tuple[int, int], int] = {}
    queries: list[Query] = []
    divergence: dict[int, int] = {}
    scored = {index: scored_tokens(contest, score) for index, contest in contests.items()}
    for row in rows:
        tree = _Tree()
        for index, route in row:
            contest, asked = contests[index], scored[index][route]
            node_at = -1
            for token in contest.prompt:
                node_at = tree.grow(node_at, token)
            for i, token in enumerate(contest.routes[route][: asked.stop]):
                if i in asked:
                    node = nodes.setdefault((len(trees), node_at), len(nodes))
                    queries.append(Query(index, route, i, node, token))
                    if route == "old" and i == contest.n_common:
                        divergence[index] = node
                if i + 1 < asked.stop:
                    node_at = tree.grow(node_at, token)
        trees.append(tree)
    rows_of, columns = (torch.tensor(axis) for axis in zip(*nodes, strict=True))
    ids, positions = _padded(trees)
    read = (rows_of, columns, tuple(queries), divergence)
    if along_paths:
        return Batch(ids, positions, None, *read, paths=paths_of(trees[0].parents))
    return Batch(ids, positions, _mask(trees), *read)


def _padded(trees: Sequence[_Tree]) -> tuple[Int[Tensor, "row position"], Int[Tensor, "row position"]]:
    length = max(len(tree.tokens) for tree in trees)
    ids = torch.zeros(len(trees), length, dtype=torch.long)
    positions = torch.zeros_like(ids)
    for row, tree in enumerate(trees):
        ids[row, : len(tree.tokens)] = torch.tensor(tree.tokens)
        positions[row, : len(tree.tokens)] = torch.tensor(tree.positions)
    return ids, positions


def _mask(trees: Sequence[_Tree]) -> Bool[Tensor, "row 1 position position"] | None:
    """Each token sees its ancestors; ``None`` where every row is a plain sequence."""
    if all(tree.parents == list(range(-1, len(tree.tokens) - 1)) for tree in trees):
        return None
    length = max(len(tree.tokens) for tree in trees)
    mask = torch.eye(length, dtype=torch.bool).repeat(len(trees), 1, 1)
    for row, tree in enumerate(trees):
        for node, parent in enumerate(tree.parents):
            if parent >= 0:
                mask[row, node] |= mask[row, parent]
    return mask[:, None]
