"""From residuals to log-probabilities of the tokens that are asked for, in float32, the vocabulary in chunks.

Only the rows that are needed are ever whole: a chunk of logits is reduced to its log-sum-exp, its best token and the
logits of the queried tokens, then dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from einops import einsum, rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor, nn

from mechmask.models.anatomy import Anatomy
from mechmask.models.packing import Batch
from mechmask.models.unembedding import by_layer, plain_matrix

# Residuals and tokens whose logits are made together, 4 MiB in float32: on two cores a fifth faster than 512 x 8192.
_ROWS = 1024
_VOCABULARY = 1024


@dataclass(frozen=True)
class TokenScores:
    """What is read at residuals.

    Attributes:
        logprob: log-probability of each query's token in nats ``[query]``.
        best: the most probable token at each residual ``[node]``.
    """

    logprob: Float[Tensor, " query"]
    best: Int[Tensor, " node"]


def score_tokens(
    anatomy: Anatomy, normed: Float[Tensor, "node width"], nodes: Int[Tensor, " query"], tokens: Int[Tensor, " query"]
) -> TokenScores:
    """Log-probabilities of tokens after residuals that have passed the final norm.

    Args:
        anatomy: whose unembedding and softcap are used.
        normed: what the unembedding reads.
        nodes: the residual of each query.
        tokens: the token that each query asks for.
    """
    parts = [
        _score_rows(anatomy, rows, nodes, tokens, first)
        for first, rows in zip(range(0, len(normed), _ROWS), normed.split(_ROWS), strict=True)
    ]
    logits = torch.stack([part.logits for part in parts]).sum(0)
    normaliser = torch.cat([part.normaliser for part in parts])
    return TokenScores(logits - normaliser[nodes], torch.cat([part.best for part in parts]))


def score_layers(
    anatomy: Anatomy, normed: Float[Tensor, "layer node width"], batch: Batch
) -> Float[Tensor, "layer query"]:
    """Log-probabilities of the tokens that a batch asks for, at every layer; all go through the unembedding together.

    Args:
        anatomy: whose unembedding and softcap are used.
        normed: what the unembedding reads at the nodes of the batch.
        batch: says which token is read at which node.
    """
    n_layers, n_nodes, _ = normed.shape
    nodes, tokens = batch.asked(normed.device)
    offsets = torch.arange(n_layers, device=normed.device) * n_nodes
    scores = score_tokens(
        anatomy,
        rearrange(normed, "layer node width -> (layer node) width"),
        rearrange(offsets[:, None] + nodes, "layer query -> (layer query)"),
        repeat(tokens, "query -> (layer query)", layer=n_layers),
    )
    return rearrange(scores.logprob, "(layer query) -> layer query", layer=n_layers)


def entropy(anatomy: Anatomy, normed: Float[Tensor, "node width"]) -> Float[Tensor, " node"]:
    """Entropy of the next-token distribution at each residual, in nats."""
    values = []
    for rows in normed.split(_ROWS // 8):
        logprobs = torch.cat([chunk for _, chunk in _logit_chunks(anatomy, rows)], dim=1).log_softmax(-1)
        values.append(-(logprobs.exp() * logprobs).sum(-1))
    return torch.cat(values)


def lead(
    anatomy: Anatomy, normed: Float[Tensor, "query width"], tokens: Int[Tensor, " query"]
) -> Float[Tensor, " query"]:
    """By how many nats each token leads the best other one of the vocabulary; negative where it does not."""
    logits = torch.full((len(tokens),), -torch.inf, device=normed.device)
    rival = logits.clone()
    for start, chunk in _logit_chunks(anatomy, normed):
        inside = ((tokens >= start) & (tokens < start + chunk.shape[1])).nonzero()[:, 0]
        logits[inside] = chunk[inside, tokens[inside] - start]
        chunk[inside, tokens[inside] - start] = -torch.inf
        rival = torch.maximum(rival, chunk.max(1).values)
    return logits - rival


def token_logits(
    anatomy: Anatomy, normed: Float[Tensor, "layer node width"], tokens: Int[Tensor, "node token"]
) -> Float[Tensor, "layer node token"]:
    """Logits of a few tokens at each residual in float32, no other row of the vocabulary touched.

    Args:
        anatomy: whose unembedding and softcap are used.
        normed: what the unembedding reads.
        tokens: which tokens at each node.
    """
    matrix = plain_matrix(anatomy.unembedding)
    if matrix is None:
        chosen = repeat(tokens, "node token -> layer node token", layer=len(normed))
        return anatomy.given_out(by_layer(anatomy.unembedding, normed).float().gather(2, chosen))
    weight, bias = matrix
    rows = weight[tokens.to(weight.device)].to(normed.device).float()
    logits = einsum(normed.float(), rows, "layer node width, node token width -> layer node token")
    return anatomy.given_out(logits if bias is None else logits + bias[tokens.to(bias.device)].to(logits))


@dataclass(frozen=True)
class _Part:
    logits: Tensor
    normaliser: Tensor
    best: Tensor


def _score_rows(anatomy: Anatomy, rows: Tensor, nodes: Tensor, tokens: Tensor, first: int) -> _Part:
    n = len(rows)
    asked_here = (nodes >= first) & (nodes < first + n)
    logits = rows.new_zeros(len(nodes), dtype=torch.float32)
    normaliser = rows.new_full((n,), -torch.inf, dtype=torch.float32)
    best_logit = normaliser.clone()
    best = torch.zeros(n, dtype=torch.long, device=rows.device)
    for start, chunk in _logit_chunks(anatomy, rows):
        inside = asked_here & (tokens >= start) & (tokens < start + chunk.shape[1])
        logits[inside] = chunk[nodes[inside] - first, tokens[inside] - start]
        top = chunk.amax(1)
        better = (top > best_logit).nonzero()[:, 0]  # few of the rows, after the first chunks
        best[better] = chunk[better].argmax(1) + start
        best_logit = torch.maximum(best_logit, top)
        # in place: a second copy of the chunk costs as much as the product that made it
        normaliser = torch.logaddexp(normaliser, chunk.sub_(top[:, None]).exp_().sum(1).log() + top)
    return _Part(logits, normaliser, best)


def _logit_chunks(anatomy: Anatomy, rows: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Chunks of float32 logits with the id of their first token, the final softcap applied."""
    matrix = plain_matrix(anatomy.unembedding)
    if matrix is None:
        yield 0, anatomy.given_out(by_layer(anatomy.unembedding, rows).float())
        return
    weight, bias = matrix
    rows = rows.float()
    for start in range(0, len(weight), _VOCABULARY):
        part = weight[start : start + _VOCABULARY].to(rows)
        added = None if bias is None else bias[start : start + _VOCABULARY].to(rows)
        yield start, anatomy.given_out(nn.functional.linear(rows, part, added))
