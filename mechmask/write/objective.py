"""The loss that writes a value: negative log-probability of its tokens after the prompt, teacher-forced.

Rows are padded on the right, which a causal model cannot see, and logits are made at the value's positions only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy

from mechmask.models.anatomy import Anatomy
from mechmask.models.model import Model
from mechmask.models.routes import EncodedExample


@dataclass(frozen=True)
class Targets:
    """Examples as one batch.

    Attributes:
        input_ids: prompt and value but its last token ``[row, position]``, padded on the right.
        rows: row of each target ``[target]``.
        columns: position whose logits decide it ``[target]``.
        tokens: the token asked for ``[target]``.
        owner: the example of each target ``[target]``.
        labels: name of each example.
    """

    input_ids: Int[Tensor, "row position"]
    rows: Int[Tensor, " target"]
    columns: Int[Tensor, " target"]
    tokens: Int[Tensor, " target"]
    owner: Int[Tensor, " target"]
    labels: tuple[str, ...]


def targets(examples: Sequence[EncodedExample]) -> Targets:
    """Every value token of every example as a target."""
    length = max(len(e.prompt) + len(e.value) - 1 for e in examples)
    ids = torch.zeros(len(examples), length, dtype=torch.long)
    rows, columns, tokens = [], [], []
    for row, example in enumerate(examples):
        known = example.prompt + example.value[:-1]
        ids[row, : len(known)] = torch.tensor(known)
        rows += [row] * len(example.value)
        columns += range(len(example.prompt) - 1, len(known))
        tokens += example.value
    owner = torch.tensor(rows)
    return Targets(ids, owner, torch.tensor(columns), torch.tensor(tokens), owner, tuple(e.fact_id for e in examples))


def target_nll(model: Model, batch: Targets) -> Float[Tensor, " target"]:
    """Negative log-probability of every target in nats, differentiable, in float32."""
    hidden = model.anatomy.decoder(input_ids=batch.input_ids.to(model.device), use_cache=False).last_hidden_state
    return nll(model.anatomy, hidden[batch.rows.to(hidden.device), batch.columns.to(hidden.device)], batch.tokens)


def nll(
    anatomy: Anatomy, normed: Float[Tensor, "target width"], tokens: Int[Tensor, " target"]
) -> Float[Tensor, " target"]:
    """Negative log-probability of tokens after normed residuals, in nats."""
    logits = anatomy.capped(anatomy.unembedding(normed).float())
    return cross_entropy(logits, tokens.to(logits.device), reduction="none")
