"""The loss that writes a value: negative log-probability of its tokens after the prompt, teacher-forced.

Logits are made where a token of a value is asked for and nowhere else. Examples stand in rows of their own, padded on
the right, which a causal model cannot see; or packed: each distinct beginning is then read once, forward and backward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from mechmask.models.anatomy import Anatomy
from mechmask.models.forward import decoded, may_go_along_paths, may_pack
from mechmask.models.model import Model
from mechmask.models.packing import Batch, batches
from mechmask.models.routes import Contest, EncodedExample

# In longer rows more beginnings are shared and attention, backward above all, takes more: 48 examples of 13 tokens on
# SmolLM2-135M take least at 64, 4% less than at the 128 of a reading, which has no backward pass.
_ROW_TOKENS = 64


@dataclass(frozen=True)
class Targets:
    """Examples as one forward pass.

    Attributes:
        batch: prompt and value but its last token of every example, and the nodes at which the targets are read.
        nodes: node of each target ``[target]``; of one node several tokens may be asked.
        tokens: the token asked for ``[target]``.
        owner: the example of each target ``[target]``.
        labels: name of each example.
    """

    batch: Batch
    nodes: Int[Tensor, " target"]
    tokens: Int[Tensor, " target"]
    owner: Int[Tensor, " target"]
    labels: tuple[str, ...]

    @property
    def rows(self) -> Int[Tensor, " target"]:
        """Row of each target."""
        return self.batch.rows[self.nodes]

    @property
    def columns(self) -> Int[Tensor, " target"]:
        """Position in its row whose logits decide each target."""
        return self.batch.columns[self.nodes]


def targets(examples: Sequence[EncodedExample]) -> Targets:
    """Every value token of every example as a target, each example in a row of its own."""
    (whole,) = _passes(examples, _contests(examples), pack=False)
    return whole


def packed_targets(model: Model, examples: Sequence[EncodedExample]) -> list[Targets]:
    """The same targets in fewer tokens: each beginning that examples have in common stands once.

    Args:
        model: what will read them. Where its attention cannot follow paths, examples share rows of some length under a
            mask; where it takes no mask either, or its window is narrower than an example, each has a row of its own.
        examples: what is asked.

    Returns:
        One pass; two where some examples are so long that the model would read all others by other rotary frequencies
        beside them. Each names all examples and holds its own targets.
    """
    contests = _contests(examples)
    return _passes(
        examples,
        contests,
        pack=may_pack(model, contests),
        along_paths=may_go_along_paths(model, contests),
        threshold=model.rope_threshold,
        row_tokens=_ROW_TOKENS,
    )


def target_nll(model: Model, asked: Targets) -> Float[Tensor, " target"]:
    """Negative log-probability of every target in nats, differentiable, in float32."""
    normed = decoded(model, asked.batch)
    return nll(model.anatomy, normed[asked.nodes.to(normed.device)], asked.tokens)


def nll(
    anatomy: Anatomy, normed: Float[Tensor, "target width"], tokens: Int[Tensor, " target"]
) -> Float[Tensor, " target"]:
    """Negative log-probability of tokens after normed residuals, in nats."""
    return cross_entropy(logits_of(anatomy, normed), tokens)


def logits_of(anatomy: Anatomy, normed: Float[Tensor, "target width"]) -> Float[Tensor, "target vocabulary"]:
    """Logits after normed residuals, in float32."""
    return anatomy.given_out(anatomy.unembedding(normed).float())


def cross_entropy(
    logits: Float[Tensor, "target vocabulary"], tokens: Int[Tensor, " target"]
) -> Float[Tensor, " target"]:
    """Negative log-probability of tokens by logits, in nats; the logits are used up."""
    return _CrossEntropy.apply(logits, tokens.to(logits.device))  # pyright: ignore[reportReturnType]


class _CrossEntropy(torch.autograd.Function):
    """``cross_entropy(logits, tokens, reduction="none")`` in the memory of the logits, which become their gradient.

    With torch's, three more arrays of ``[target, vocabulary]`` are made and gone through in a training step.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Float[Tensor, "target vocabulary"], tokens: Int[Tensor, " target"]
    ) -> Float[Tensor, " target"]:
        of_token, top = logits.gather(1, tokens[:, None]), logits.amax(-1, keepdim=True)
        exponentials = logits.sub_(top).exp_()
        total = exponentials.sum(-1, keepdim=True)
        ctx.save_for_backward(exponentials, total, tokens)
        return (top + total.log() - of_token)[:, 0]

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, gradient: Float[Tensor, " target"]
    ) -> tuple[Tensor | None, ...]:
        exponentials, total, tokens = ctx.saved_tensors  # a second time they have been changed, which autograd refuses
        gradient = gradient[:, None]
        return exponentials.mul_(gradient / total).scatter_add_(1, tokens[:, None], -gradient), None


def _contests(examples: Sequence[EncodedExample]) -> list[Contest]:
    """Each example as a contest of one route, which is what rows are packed from."""
    return [Contest(e.fact_id, e.prompt, {"value": e.value}, n_common=0, subject_position=None) for e in examples]


def _passes(examples: Sequence[EncodedExample], contests: Sequence[Contest], **options: Any) -> list[Targets]:
    labels = tuple(example.fact_id for example in examples)
    return [
        Targets(batch, *batch.asked(torch.device("cpu")), torch.tensor([q.contest for q in batch.queries]), labels)
        for batch in batches(contests, score="sequence", batch_size=len(examples), **options)
    ]
