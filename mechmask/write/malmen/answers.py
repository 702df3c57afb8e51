"""What the answers to some prompts say to linear maps: the key and the gradient of its value at every answer token.

An answer token is asked for where the token before it stands. There each MLP output projection has met a key, and the
loss has a gradient by what the projection gave out; MALMEN (Tan et al. 2024) edits by these pairs alone. Gradients are
made from the lowest of the projections on, of no weight, and prompts are read some at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from mechmask.errors import ChangeError
from mechmask.interrupts import atomic_context
from mechmask.models.context import require_context
from mechmask.models.gradients import with_gradients
from mechmask.models.model import Model
from mechmask.models.routes import Contest, EncodedExample
from mechmask.write.objective import Targets, target_nll, targets


@dataclass(frozen=True)
class AnswerSignals:
    """Keys and gradients at the answer tokens of some examples, in float32 or the model's type, if that is finer.

    Attributes:
        keys: what entered the projection of each block ``[token, key]``.
        gradients: of the summed loss by what left it ``[token, value]``.
        loss_nats: mean over the tokens.
    """

    keys: dict[int, Float[Tensor, "token key"]]
    gradients: dict[int, Float[Tensor, "token value"]]
    loss_nats: float


def answer_signals(
    model: Model, examples: Sequence[EncodedExample], layers: Sequence[int], micro_batch: int, where: str
) -> AnswerSignals:
    """What the loss of some answers says to the MLP output projections of some blocks.

    The loss is summed over answer tokens, so that no other example counts in what a token gets. Gradients, evaluation
    mode and the lock are the caller's.

    Args:
        model: the model.
        examples: prompts and their answers.
        layers: the blocks, 0..L-1.
        micro_batch: examples that are read together; affects memory only.
        where: what is at work, to end a message, such as ``malmen``.

    Raises:
        ChangeError: if a loss or a gradient is not a number; the message names the facts.
        RouteError: if an example is longer than the model reads.
    """
    keys: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    gradients: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    losses, kind = [], torch.promote_types(model.dtype, torch.float32)
    for asked in micro_batches(model, examples, micro_batch):
        with with_gradients(), _probing(model, layers) as seen:
            loss = target_nll(model, asked)
            require_finite(loss, asked, where)
            found = torch.autograd.grad(loss.sum(), [seen[layer].probe for layer in layers])
        for layer, gradient in zip(layers, found, strict=True):
            places = _flat(asked).to(gradient.device)
            rows = gradient.flatten(0, -2)[places].to(kind)
            require_finite(rows.sum(1), asked, where)
            gradients[layer].append(rows)
            keys[layer].append(seen[layer].keys.flatten(0, -2)[places].to(kind))
        losses.append(loss.detach())
    return AnswerSignals(
        {layer: torch.cat(rows) for layer, rows in keys.items()},
        {layer: torch.cat(rows) for layer, rows in gradients.items()},
        torch.cat(losses).mean().item(),
    )


def micro_batches(model: Model, examples: Sequence[EncodedExample], size: int) -> Iterator[Targets]:
    """Examples by length, some at a time, each in a row of its own: in one order, whatever the size.

    Examples on either side of the length at which a model changes its rotary frequencies are never read together.

    Args:
        model: what will read them.
        examples: prompts and their answers.
        size: of a batch.

    Raises:
        RouteError: if an example is longer than the model reads.
    """
    contests = [Contest(e.fact_id, e.prompt, {"value": e.value}, 0, None) for e in examples]
    require_context(model, contests)
    ordered = sorted(examples, key=lambda example: len(example.prompt) + len(example.value))
    threshold = model.rope_threshold
    short = [e for e in ordered if threshold is None or _n_read(e) <= threshold]
    for alike in (short, ordered[len(short) :]):
        for start in range(0, len(alike), size):
            yield targets(alike[start : start + size])


def require_finite(values: Float[Tensor, " target"], asked: Targets, where: str) -> None:
    """Refuse numbers that are none, one of every answer token.

    Args:
        values: the numbers.
        asked: what they are of.
        where: what is at work, to end a message.

    Raises:
        ChangeError: if one is not finite; the message names the facts that have one.
    """
    broken = ~values.detach().isfinite().cpu()
    if broken.any():
        names = [asked.labels[i] for i in asked.owner[broken].unique().tolist()]
        raise ChangeError(
            f"A loss or a gradient is not a number in {where}, on {', '.join(map(repr, names[:5]))}. Check the "
            "weights, or load the model in float32."
        )


@dataclass(frozen=True)
class _Seen:
    """What a projection met: its keys, and zeros added to what it gave out, whose gradient is that of its value."""

    keys: Tensor
    probe: Tensor


@atomic_context
def _probing(model: Model, layers: Sequence[int]) -> Iterator[dict[int, _Seen]]:
    """Inside, what goes through projections is kept; the last run counts."""
    seen: dict[int, _Seen] = {}
    hooks: list[RemovableHandle] = []

    def keep(layer: int, args: tuple[Tensor, ...], output: Any) -> Tensor:
        probe = torch.zeros_like(output, requires_grad=True)
        seen[layer] = _Seen(args[0].detach(), probe)
        return output + probe

    try:
        for layer in layers:
            projection = model.module.get_submodule(model.anatomy.mlp_output(layer).name)
            hooks.append(projection.register_forward_hook(lambda _, args, out, layer=layer: keep(layer, args, out)))
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _flat(asked: Targets) -> Int[Tensor, " target"]:
    """Where each answer token is asked for, all rows end to end: OPT's MLP takes all tokens in one row."""
    return asked.rows * asked.batch.input_ids.shape[1] + asked.columns


def _n_read(example: EncodedExample) -> int:
    return len(example.prompt) + len(example.value) - 1
