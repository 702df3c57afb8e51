"""The value that an editor writes: what has to stand at the subject's last token so that the new value follows.

ROME (Meng et al. 2022, eq. 4) seeks it as the output of one MLP, MEMIT (Meng et al. 2023, eq. 16) as the residual
stream behind the last block that it writes into; both move it by a ``delta`` that Adam finds. The loss is the mean
negative log-probability of the new value over prompts and tokens, a KL divergence at the end of the subject in
"{subject} is a" that keeps what the subject is, and a decay on the size of delta.

Published code runs the whole model on whole prompts, one fact at a time, with logits everywhere. Here facts are sought
together, each with its own optimizer, clamp and stop, and nothing is run that delta does not reach (``value_loss``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from mechmask.configuration import Configuration, LearningRate
from mechmask.errors import ChangeError
from mechmask.models.gradients import with_gradients, without_gradients
from mechmask.models.model import Model
from mechmask.models.prepack import prepacked
from mechmask.progress import Tick
from mechmask.write.requests import Request
from mechmask.write.value_loss import Place, ValueLoss
from mechmask.write.weights import trainable

_FACTS = 16  # facts that are sought together; affects memory and time only
_WORTH_ANOTHER_PASS = 0.5  # of the facts are still sought: reading those alone costs less than the rest in every step


class ValueConfig(Configuration):
    """How the value of a fact is sought; names in brackets are those of the published code.

    Attributes:
        value_steps: iterations, the last of which looks at the loss alone (``v_num_grad_steps``).
        value_lr: learning rate of Adam (``v_lr``).
        value_decay: weight of the decay, ``value_decay * |delta| / |initial|**2`` (``v_weight_decay``).
        value_clamp: delta is at most so many times as long as what it is added to (``clamp_norm_factor``).
        value_kl: weight of the KL divergence (``kl_factor``).
        value_stop: stop where the whole loss of a fact is below this, in nats.
    """

    refusal = ChangeError

    value_steps: int = Field(default=20, ge=2)
    value_lr: LearningRate = 0.5
    value_decay: float = Field(default=0.5, ge=0, allow_inf_nan=False)
    value_clamp: float = Field(default=4.0, gt=0, allow_inf_nan=False)
    value_kl: float = Field(default=0.0625, ge=0, allow_inf_nan=False)
    value_stop: float = Field(default=0.05, ge=0, allow_inf_nan=False)


@dataclass(frozen=True)
class Values:
    """The values of some facts, in float64.

    Attributes:
        initial: what the bare prompt has at the subject's last token ``[request, width]``.
        delta: what is added to it ``[request, width]``.
        losses: the whole loss of each at the end, in nats.
        steps: how often delta was moved, for each.
    """

    initial: Float[Tensor, "request width"]
    delta: Float[Tensor, "request width"]
    losses: tuple[float, ...]
    steps: tuple[int, ...]

    @property
    def targets(self) -> Float[Tensor, "request width"]:
        """What is to stand there."""
        return self.initial + self.delta

    def details(self, requests: Sequence[Request]) -> list[dict[str, Any]]:
        """How the search went for each fact, as JSON values."""
        sizes, lengths = self.initial.norm(dim=1).tolist(), self.delta.norm(dim=1).tolist()
        return [
            {"id": request.fact_id, "loss_nats": loss, "steps": steps, "delta_norm": length, "initial_norm": size}
            for request, loss, steps, length, size in zip(
                requests, self.losses, self.steps, lengths, sizes, strict=True
            )
        ]


def said_already(method: str) -> ChangeError:
    """What is raised where every value that was sought is what stands there."""
    return ChangeError(
        f"The {method} change changes nothing: the model says every new value as it is, to a loss below value_stop. "
        "Take facts whose new value it does not say, or lower value_stop."
    )


def seek_values(
    model: Model,
    requests: Sequence[Request],
    layer: int,
    config: ValueConfig,
    place: Place,
    tick: Tick | None = None,
) -> Values:
    """The value of every fact at the subject's last token, each sought as if it were alone.

    Args:
        model: the model; it is left as it was.
        requests: the facts.
        layer: the block, 0..L-1.
        config: how it is sought.
        place: ``mlp``: what the block's MLP output projection gives out; ``residual``: the residual stream behind it.
        tick: called after each fact.

    Raises:
        ChangeError: if a loss is not a number, the attention takes no mask, a prompt is longer than its window, or no
            block is left to carry what is written at the subject's end to the end of the prompt.
    """
    _require_masks(model, requests)
    _require_reach(model, requests, layer)
    groups = _groups(requests)
    order, found = [n for group in groups for n in group], []
    with trainable(model, {}), prepacked(_layers_from(model, layer + 1)):
        for group in groups:
            chosen = [requests[n] for n in group]
            found.append(_sought_together(model, chosen, layer, config, place))
            for request in chosen if tick is not None else ():
                tick(request.fact_id)  # pyright: ignore[reportOptionalCall]
    place_of = np.argsort(order).tolist()
    losses = [loss for values in found for loss in values.losses]
    steps = [n_steps for values in found for n_steps in values.steps]
    return Values(
        torch.cat([values.initial for values in found])[place_of],
        torch.cat([values.delta for values in found])[place_of],
        tuple(losses[n] for n in place_of),
        tuple(steps[n] for n in place_of),
    )


def _layers_from(model: Model, layer: int) -> Iterator[nn.Module]:
    """The layers of what a step runs: the blocks from one on, and the unembedding."""
    for part in (*model.anatomy.blocks[layer:], model.anatomy.unembedding):
        yield from part.modules()


def _groups(requests: Sequence[Request]) -> list[list[int]]:
    """Numbers of the facts that are sought together: those of which as many tokens are reached, so that none is padded.

    A product of two dozen tokens is nearly as fast, a token, as one of hundreds.
    """
    by_reach: dict[int, list[int]] = {}
    for n, request in enumerate(requests):
        reach = max(len(prompt.ids) - prompt.subject + len(prompt.target) for prompt in request.prompts)
        by_reach.setdefault(reach, []).append(n)
    return [group[start : start + _FACTS] for group in by_reach.values() for start in range(0, len(group), _FACTS)]


def _sought_together(
    model: Model, requests: Sequence[Request], layer: int, config: ValueConfig, place: Place
) -> Values:
    loss = ValueLoss.of(model, requests, layer, place, kl=config.value_kl, decay=config.value_decay)
    initial = loss.initial
    _require_signal(initial, requests, layer)
    longest = config.value_clamp * initial.norm(dim=1)
    deltas = [nn.Parameter(torch.zeros_like(row)) for row in initial]
    losses, steps = [0.0] * len(requests), [0] * len(requests)
    read = live = list(range(len(requests)))
    optimizer = torch.optim.Adam(deltas, lr=config.value_lr)
    for iteration in range(config.value_steps):
        with with_gradients():
            each = loss(torch.stack([deltas[i] for i in read]))
            of = dict(zip(read, each, strict=True))
        found = dict(zip(read, _finite(each, [requests[i] for i in read], iteration), strict=True))
        for i in live:
            losses[i], steps[i] = found[i], iteration
        live = [i for i in live if losses[i] >= config.value_stop]
        if iteration == config.value_steps - 1 or not live:
            break
        optimizer.zero_grad(set_to_none=True)
        torch.stack([of[i] for i in live]).sum().backward()
        for i in set(read) - set(live):
            deltas[i].grad = None  # done: its momentum does not move it either
        optimizer.step()
        with without_gradients():
            for i in live:
                deltas[i].mul_((longest[i] / deltas[i].norm()).clamp(max=1))
        if len(live) <= _WORTH_ANOTHER_PASS * len(read):
            loss, read = loss.only([read.index(i) for i in live]), live
    return Values(
        initial.double().cpu(), torch.stack(list(deltas)).detach().double().cpu(), tuple(losses), tuple(steps)
    )


def _require_masks(model: Model, requests: Sequence[Request]) -> None:
    attention = getattr(model.module.config, "_attn_implementation", "eager")
    if attention not in ("eager", "sdpa"):
        raise ChangeError(
            f"The {attention} attention of {model.name} takes no mask, so values cannot be sought behind tokens that "
            "were read before. Load the model with attn_implementation='sdpa'."
        )
    window = model.anatomy.sliding_window
    long = [r.fact_id for r in requests if window and max(len(p.ids) + len(p.target) for p in r.prompts) > window]
    if long:
        raise ChangeError(
            f"The prompt of {long[0]!r}, in its contexts, is longer than the attention window of {model.name}, "
            f"{window} tokens, so its value cannot be sought. Shorten it."
        )


def _require_reach(model: Model, requests: Sequence[Request], layer: int) -> None:
    apart = [request.fact_id for request in requests if request.bare.subject < len(request.bare.ids) - 1]
    if layer == model.n_layers - 1 and apart:
        raise ChangeError(
            f"Block {layer} is the last, so what it gives at the end of the subject of {apart[0]!r} is not seen at the "
            "end of the prompt. Edit a lower layer."
        )


def _require_signal(initial: Float[Tensor, "request width"], requests: Sequence[Request], layer: int) -> None:
    silent = [request.fact_id for request, norm in zip(requests, initial.norm(dim=1).tolist(), strict=True) if not norm]
    if silent:
        raise ChangeError(
            f"Block {layer} gives out nothing at the end of the subject of {silent[0]!r}, and a value is at most some "
            "times as long as what stands there. Edit another layer, or check the weights."
        )


def _finite(losses: Float[Tensor, " request"], requests: Sequence[Request], iteration: int) -> list[float]:
    bad = [r.fact_id for r, ok in zip(requests, losses.detach().isfinite().tolist(), strict=True) if not ok]
    if bad:
        raise ChangeError(
            f"The loss of the value of {bad[0]!r} is not a number at iteration {iteration + 1}. Lower value_lr, or "
            "check the weights."
        )
    return losses.tolist()
