"""Gradient descent on one MLP output projection: what fine-tuning editors of a single layer have in common.

Adam on weight and bias of the projection, loss on the new values' tokens, early stop on the loss. ROME's published
objective (kmeng01/rome, baselines/ft) asks for every target token at the last prompt position; with K different tokens
its loss cannot fall below log K, so its early stop never comes. The teacher-forced objective is the default here, the
published one is there by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from mechmask.configuration import Configuration, LearningRate
from mechmask.errors import ChangeError
from mechmask.facts.fact import Fact
from mechmask.models.anatomy import Projection
from mechmask.models.gradients import with_gradients
from mechmask.models.model import Model
from mechmask.models.replay import Replay
from mechmask.models.routes import encode_examples
from mechmask.models.states import Variant
from mechmask.progress import Tick
from mechmask.write.editor import Editor, require_layers
from mechmask.write.objective import Targets, nll, targets
from mechmask.write.requests import require_one_rope
from mechmask.write.weights import WeightChange, compact, tensor_digest, trainable

Weights = Mapping[str, nn.Parameter]
Constraint = Callable[[Weights, Mapping[str, Tensor]], None]
Objective = Literal["target_new", "prompt_last"]


class DescentConfig(Configuration):
    """How one projection is trained.

    Attributes:
        layer: the block whose MLP output projection is changed, 0..L-1.
        lr: learning rate of Adam.
        steps: at most so many.
        loss_stop: stop when the loss is below this, in nats per token.
    """

    refusal = ChangeError

    layer: int = Field(ge=0)
    lr: LearningRate = 5e-4
    steps: int = Field(default=25, ge=1)
    loss_stop: float = Field(default=1e-2, ge=0, allow_inf_nan=False)


Config = TypeVar("Config", bound=DescentConfig)


class DescentEditor(Editor[Config]):
    """An editor that descends; it remembers nothing from edit to edit.

    Args:
        state: the model as it is now, or a state of it; it is left as it was.
        config: how it edits.

    Raises:
        ChangeError: if there is no such block.
    """

    def __init__(self, state: Model | Variant, config: Config) -> None:
        super().__init__(state, config)
        require_layers(state, [config.layer])

    def _n_ticks(self, n_facts: int) -> int:  # noqa: ARG002
        return self.config.steps


def descend(
    model: Model,
    facts: Sequence[Fact],
    config: DescentConfig,
    method: str,
    objective: Objective,
    *,
    constrain: Constraint | None = None,
    tick: Tick | None = None,
) -> WeightChange:
    """Write the new value of every fact into one MLP output projection.

    Args:
        model: the model; it is left as it was.
        facts: the facts, edited together.
        config: how.
        method: the editor's name, for the change and for errors.
        objective: ``target_new`` (teacher-forced) or ``prompt_last`` (all target tokens at the last prompt position).
        constrain: called after every step with the weights and their values before the edit.
        tick: called after every step with how it stands.

    Raises:
        ChangeError: if the loss is not a number, nothing changed, or the weights are float16.
        RouteError: if a value merges with its prompt, or the facts lie on both sides of a change of rotary frequencies.
    """
    projection = model.anatomy.mlp_output(config.layer)
    asked = _targets(model, facts, objective)
    weights = projection_weights(projection)
    _require_range(weights, method)
    base = model.fingerprint
    with trainable(model, weights) as before, with_gradients():
        losses: list[float] = []
        loss_of = _loss_of(model, asked, config)
        optimizer = torch.optim.Adam(weights.values(), lr=config.lr)
        for _ in range(config.steps):
            loss = loss_of()
            losses.append(_finite(loss, len(losses) + 1, asked.labels, method))
            if losses[-1] < config.loss_stop:
                break
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            if constrain is not None:
                constrain(weights, before)
            if tick is not None:
                tick(f"loss {losses[-1]:.3f}")
        after = {name: compact(before[name], weight) for name, weight in weights.items()}
        digests = {name: tensor_digest(value) for name, value in before.items()}
        details = {"config": config.model_dump(mode="json"), "losses_nats": losses}
        return WeightChange(after, digests, base, method, details)


def projection_weights(projection: Projection) -> dict[str, nn.Parameter]:
    """Weight and, where there is one, bias: ROME selects every parameter whose name contains the projection's."""
    bias = {} if projection.bias is None else {f"{projection.name}.bias": projection.bias}
    return {f"{projection.name}.weight": projection.weight, **bias}


def _require_range(weights: Weights, method: str) -> None:
    """Refuse float16: squares of small gradients and Adam's epsilon are zero there, so that its steps have no bound.

    A clamp would hide that: all that has a small gradient then moves as far as it may.
    """
    if any(weight.dtype == torch.float16 for weight in weights.values()):
        raise ChangeError(
            f"The {method} edit descends in the weights' own numbers, and in float16 squares of small gradients are "
            "zero. Load the model in float32 or bfloat16."
        )


def _targets(model: Model, facts: Sequence[Fact], objective: Objective) -> Targets:
    examples = encode_examples(model.tokenizer, [f.example(f.prompt, f.new) for f in facts])
    require_one_rope(model, [len(example.prompt) + len(example.value) - 1 for example in examples])
    asked = targets(examples)
    if objective == "target_new":
        return asked
    last = torch.tensor([len(example.prompt) - 1 for example in examples])
    at_prompt = replace(asked.batch, columns=last[asked.owner])  # in rows of their own each target has its own node
    return replace(asked, batch=at_prompt)


def _loss_of(model: Model, asked: Targets, config: DescentConfig) -> Callable[[], Float[Tensor, ""]]:
    """The mean over facts of the mean over target tokens of the loss, re-running only the edited block and those above.

    What enters the edited block does not depend on the weights that are trained, so it is computed once.
    """
    replay = Replay(model, {"input_ids": asked.batch.input_ids.to(model.device)}, first=config.layer)
    entering = replay.residual(config.layer)
    share = 1 / (torch.bincount(asked.owner)[asked.owner] * len(asked.labels))
    rows, columns = asked.rows, asked.columns

    def loss() -> Float[Tensor, ""]:
        residual = replay.from_layer(config.layer, entering)
        normed = model.anatomy.final_norm(residual[rows.to(residual.device), columns.to(residual.device)])
        each = nll(model.anatomy, normed, asked.tokens)
        return (each * share.to(each.device)).sum()

    return loss


def _finite(loss: Tensor, step: int, labels: Sequence[str], method: str) -> float:
    if not torch.isfinite(loss):
        raise ChangeError(
            f"The loss of {method} is not a number at step {step}, on {', '.join(map(repr, labels))}. Lower the "
            "learning rate, or check the weights."
        )
    return loss.item()
