"""FT-L: constrained fine-tuning of one MLP output projection (Zhu et al. 2020, as ROME's ``FT+L``).

Adam on the projection, early stop on the loss, and after every step a clamp to an L-infinity ball around the weights as
they were. ROME's published objective asks for every target token at the last prompt position; with K different tokens
its loss cannot fall below log K, so its early stop never comes. The teacher-forced objective is the default here, the
published one is there by name.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from mechmask.errors import ChangeError
from mechmask.facts.fact import Example, Fact
from mechmask.models.anatomy import Projection
from mechmask.models.model import Model
from mechmask.models.replay import Replay
from mechmask.models.routes import encode_examples
from mechmask.write.change import WeightChange, set_weights, tensor_digest
from mechmask.write.objective import Targets, nll, targets


class FTLConfig(BaseModel):
    """How FT-L edits.

    Attributes:
        layer: the block whose MLP output projection is changed, 0..L-1.
        clamp: radius of the L-infinity ball around the old weights, in units of the weight; ``None`` for plain FT.
        lr: learning rate of Adam.
        steps: at most so many.
        loss_stop: stop when the loss is below this, in nats a token.
        objective: ``target_new`` (teacher-forced) or ``prompt_last`` (as published: all target tokens at the last
            prompt position).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layer: int = Field(ge=0)
    clamp: float | None = Field(gt=0)
    lr: float = Field(default=5e-4, gt=0)
    steps: int = Field(default=25, ge=1)
    loss_stop: float = Field(default=1e-2, ge=0)
    objective: Literal["target_new", "prompt_last"] = "target_new"

    @classmethod
    def preset(cls, name: str) -> FTLConfig:
        """A named setting.

        Raises:
            ChangeError: if there is none of that name.
        """
        if name not in PRESETS:
            raise ChangeError(f"There is no FT-L preset {name!r}. There are {', '.join(PRESETS)}.")
        return PRESETS[name][1]


# Family, number of blocks and width tell which model a preset belongs to. GPT settings: hparams/FT/*_constr.json of
# kmeng01/rome at 0874014. SmolLM2: found by tests/benchmarks/ft_l_setting.py; its results
# lie beside it.
PRESETS: dict[str, tuple[tuple[str, int, int], FTLConfig]] = {
    "gpt2-medium": (("gpt2", 24, 1024), FTLConfig(layer=0, clamp=2e-3)),
    "gpt2-large": (("gpt2", 36, 1280), FTLConfig(layer=0, clamp=1e-3)),
    "gpt2-xl": (("gpt2", 48, 1600), FTLConfig(layer=0, clamp=5e-4)),
    "gpt-j-6b": (("gptj", 28, 4096), FTLConfig(layer=0, clamp=5e-5)),
    "smollm2-135m": (("llama", 30, 576), FTLConfig(layer=0, clamp=5e-3)),
}


def preset_for(model: Model) -> FTLConfig:
    """The preset of a model's family and size.

    Raises:
        ChangeError: if there is none.
    """
    shape = (model.family, model.n_layers, model.width)
    for owner, config in PRESETS.values():
        if owner == shape:
            return config
    raise ChangeError(
        f"No FT-L setting is known for a {model.family} of {model.n_layers} layers and width {model.width}: the "
        "clamp belongs to the weight scale. "
        f"Pass FTLConfig(layer=..., clamp=...), or one of the presets {', '.join(PRESETS)}."
    )


def ft_l(model: Model, facts: Sequence[Fact], config: FTLConfig | None = None) -> WeightChange:
    """Write the new value of every fact into one MLP output projection.

    Args:
        model: the model; it is left as it was.
        facts: the facts, edited together.
        config: how; the preset of the model's family and size by default.

    Raises:
        ChangeError: if there is no fact or no setting, the loss is not a number, or nothing changed.
        RouteError: if a value merges with its prompt.
    """
    config = config or preset_for(model)
    projection = model.anatomy.mlp_output(config.layer)
    batch = _targets(model, facts, config)
    weights = _weights(projection)
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    _warn_of_coarse_weights(before, config)
    with _only_trainable(model, weights), model.evaluation(), torch.enable_grad():
        try:
            losses = _descend(_loss_of(model, batch, config), weights, before, config, batch.labels)
            after = {name: weight.detach().clone() for name, weight in weights.items()}
        finally:
            set_weights(weights, before)
    details = {"config": config.model_dump(mode="json"), "facts": [fact.id for fact in facts], "losses_nats": losses}
    return WeightChange(after, {name: tensor_digest(tensor) for name, tensor in before.items()}, "ft_l", details)


@contextmanager
def _only_trainable(model: Model, weights: dict[str, nn.Parameter]) -> Iterator[None]:
    """Only ``weights`` ask for gradients inside; flags and gradients come back afterwards."""
    asked = {parameter: (parameter.requires_grad, parameter.grad) for parameter in model.module.parameters()}
    for parameter in asked:
        parameter.requires_grad_(False)
    for weight in weights.values():
        weight.requires_grad_(True)
        weight.grad = None
    try:
        yield
    finally:
        for parameter, (flag, gradient) in asked.items():
            parameter.requires_grad_(flag)
            parameter.grad = gradient


def _targets(model: Model, facts: Sequence[Fact], config: FTLConfig) -> Targets:
    if not facts:
        raise ChangeError("There is no fact to edit. Give at least one.")
    examples = encode_examples(model.tokenizer, [Example(prompt=f.prompt, value=f.new, fact_id=f.id) for f in facts])
    batch = targets(examples)
    if config.objective == "target_new":
        return batch
    last = torch.tensor([len(example.prompt) - 1 for example in examples])
    return replace(batch, columns=last[batch.owner])


def _weights(projection: Projection) -> dict[str, nn.Parameter]:
    """Weight and, where there is one, bias: ROME selects every parameter whose name contains the projection's."""
    bias = {} if projection.bias is None else {f"{projection.name}.bias": projection.bias}
    return {f"{projection.name}.weight": projection.weight, **bias}


def _loss_of(model: Model, batch: Targets, config: FTLConfig) -> Callable[[], Tensor]:
    """The mean over facts of the mean over target tokens of the loss, re-running only the edited block and those above.

    What enters the edited block does not depend on the weights that are trained, so it is computed once.
    """
    replay = Replay(model, {"input_ids": batch.input_ids.to(model.device)}, first=config.layer)
    entering = replay.residual(config.layer)
    share = 1 / (torch.bincount(batch.owner)[batch.owner] * len(batch.labels))

    def loss() -> Tensor:
        residual = replay.from_layer(config.layer, entering)
        normed = model.anatomy.final_norm(residual[batch.rows.to(residual.device), batch.columns.to(residual.device)])
        each = nll(model.anatomy, normed, batch.tokens)
        return (each * share.to(each.device)).sum()

    return loss


def _descend(
    loss_of: Callable[[], Tensor],
    weights: dict[str, nn.Parameter],
    before: dict[str, Tensor],
    config: FTLConfig,
    labels: Sequence[str],
) -> list[float]:
    optimizer = torch.optim.Adam(weights.values(), lr=config.lr)
    losses: list[float] = []
    for step in range(config.steps):
        loss = loss_of()
        losses.append(loss.item())
        if not torch.isfinite(loss):
            raise ChangeError(
                f"The FT-L loss is not a number at step {step + 1}, on {', '.join(map(repr, labels))}. Lower the "
                "learning rate, or check the weights."
            )
        if losses[-1] < config.loss_stop:
            break
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if config.clamp is not None:
            with torch.no_grad():
                for name, weight in weights.items():
                    weight.clamp_(before[name] - config.clamp, before[name] + config.clamp)
    return losses


def _warn_of_coarse_weights(before: dict[str, Tensor], config: FTLConfig) -> None:
    for name, weight in before.items():
        if config.clamp is not None and torch.finfo(weight.dtype).eps * weight.abs().median() > config.clamp:
            warnings.warn(
                f"The clamp {config.clamp:g} is finer than {weight.dtype} resolves at the median weight of "
                f"{name}: most weights cannot move "
                "within it. Load the model in float32.",
                stacklevel=4,
            )
