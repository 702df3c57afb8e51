"""MALMEN: many facts at once by what a trained network makes of their gradients (Tan et al. 2024).

One pass forward and backward over the answers gives every block a key and a gradient at each answer token; a
hypernetwork makes value differences of them, and a ridge regression one update. ``train_malmen`` trains the networks.
Without training a network is the identity: one step of gradient descent, solved for all facts together. That is another
method, and has to be asked for by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from mechmask.configuration import Configuration, Layers
from mechmask.errors import ChangeError
from mechmask.facts.fact import Fact
from mechmask.models.model import Model
from mechmask.models.routes import encode_examples
from mechmask.models.states import Variant, active
from mechmask.progress import Tick
from mechmask.write.editor import Edit, Editor
from mechmask.write.low_rank import Factors, low_rank_change, writing
from mechmask.write.malmen.answers import answer_signals
from mechmask.write.malmen.networks import Hypernetworks, hypernetworks_for, load_hypernetworks, widths_of
from mechmask.write.weights import WeightChange, compact, tensor_digest, trainable

IDENTITY = "identity"


class MALMENConfig(Configuration):
    """How MALMEN edits.

    Attributes:
        layers: the blocks whose MLP output projections are written into, 0..L-1, in order.
        hypernetwork: the directory of networks that ``train_malmen`` trained and ``save`` wrote; ``identity`` for one
            step of gradient descent with the ridge, which is what networks begin as, on pairs as they are.
        other_base: whether networks that were trained on none of the states that are edited here are refused, or used
            where names and shapes fit; the change's details say which it was.
        lr: eta of ``identity``; trained networks bring their own.
        ridge: of ``identity``; trained networks bring their own.
        micro_batch: facts that are read together; affects memory only.
    """

    refusal = ChangeError

    method: Literal["malmen"] = "malmen"
    layers: Layers
    hypernetwork: str | None = None
    other_base: Literal["refuse", "accept"] = "refuse"
    lr: float = Field(default=1e-6, gt=0, allow_inf_nan=False)
    ridge: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    micro_batch: int = Field(default=32, ge=1)

    @field_validator("hypernetwork", mode="before")
    @classmethod
    def _as_text(cls, given: object) -> object:
        return str(given) if isinstance(given, Path) else given


class MALMEN(Editor[MALMENConfig]):
    """MALMEN at work on a model; it remembers nothing from edit to edit.

    Args:
        state: the model as it is now, or a state of it; it is left as it was.
        config: how it edits.

    Attributes:
        networks: what makes differences of gradients.

    Raises:
        ChangeError: if there is no such block, no network is named, the directory holds none or damaged ones, or they
            are for other blocks, other shapes or another model.
    """

    method: ClassVar[str] = "malmen"
    needs_training: ClassVar[bool] = True

    def __init__(self, state: Model | Variant, config: MALMENConfig) -> None:
        super().__init__(state, config)
        if config.hypernetwork is None:
            raise ChangeError(
                "MALMEN edits by networks that were trained on the model, and none are named. Train some with "
                "train_malmen, save them and give their directory as hypernetwork=, or 'identity' for one step of "
                "gradient descent with the ridge, which is not the published method."
            )
        with active(state) as model:
            self._read_of = model.fingerprint
            if config.hypernetwork == IDENTITY:
                self.networks = hypernetworks_for(model, config.layers, lr=config.lr, ridge=config.ridge)
            else:
                self.networks = load_hypernetworks(config.hypernetwork)
                _require_fit(self.networks, widths_of(model, config.layers), config.hypernetwork)
            self.networks.to(_where(model))
        self._trained_on = "nothing" if config.hypernetwork == IDENTITY else self._relation()

    def _n_ticks(self, n_facts: int) -> int:  # noqa: ARG002
        return len(self.config.layers)

    def _make(self, model: Model, facts: tuple[Fact, ...], tick: Tick | None) -> Edit:
        c = self.config
        examples = encode_examples(model.tokenizer, [f.example(f.prompt, f.new) for f in facts])
        with trainable(model, {}):
            signals = answer_signals(model, examples, c.layers, c.micro_batch, self.method)
        factors = {}
        for layer in c.layers:
            factors[f"{model.anatomy.mlp_output(layer).name}.weight"] = self.networks.update(layer, signals).factors
            if tick is not None:
                tick(f"block {layer}")
        return _change(
            model, factors, self.method, self._details(signals.loss_nats, len(next(iter(signals.keys.values()))))
        )

    def _details(self, loss_nats: float, n_tokens: int) -> dict[str, Any]:
        lrs, ridges = {}, {}
        for layer in self.networks.layers:
            network, number = self.networks.of(layer)
            lrs[str(layer)], ridges[str(layer)] = network.lr[number].item(), network.ridges[number]
        return {
            "config": self.config.model_dump(mode="json"),
            "loss_before_nats": loss_nats,
            "answer_tokens": n_tokens,
            "hypernetwork": {
                "trained": bool(self.networks.training),
                "trained_on": self._trained_on,
                "base": self.networks.base,
                "digest": self.networks.digest,
                "training": self.networks.training,
                "lr": lrs,
                "ridge": ridges,
            },
        }

    def _relation(self) -> str:
        """On what the networks were trained, as seen from what is edited.

        Raises:
            ChangeError: if that is none of the states under this one, and it was not said to be accepted.
        """
        state, place = self.start, "this model"
        while True:
            with active(state) as model:
                found = model.fingerprint
            if found == self.networks.base:
                return place
            if isinstance(state, Model):
                break
            state, place = state.model, "an earlier state of this model"
        if self.config.other_base == "refuse":
            raise ChangeError(
                f"The hypernetworks in {self.config.hypernetwork} were not trained on {self.start.name}, but on "
                "another model or other weights, and what they have learned need not hold here. Train some on this "
                "one, or give other_base='accept'; the change will say so."
            )
        return "another model"


def _require_fit(networks: Hypernetworks, widths: Mapping[int, tuple[int, int]], directory: str) -> None:
    if networks.layers != tuple(widths):
        raise ChangeError(
            f"The hypernetworks in {directory} are for the blocks {', '.join(map(str, networks.layers))}, not "
            f"{', '.join(map(str, widths))}. Give layers={list(networks.layers)}."
        )
    apart = next((layer for layer in widths if networks.widths[layer] != widths[layer]), None)
    if apart is not None:
        (key, value), (here, there) = networks.widths[apart], widths[apart]
        raise ChangeError(
            f"The hypernetworks in {directory} are for a map from {key} to {value} in block {apart}, and here it leads "
            f"from {here} to {there}. Train some on this model."
        )


def _where(model: Model) -> Any:
    """The device of the networks and their solves; where there is no float64, the processor."""
    return "cpu" if model.device.type == "mps" else model.device


def _change(model: Model, factors: Mapping[str, Factors], method: str, details: Mapping[str, Any]) -> Edit:
    """The change in factors, or as whole weights where those hold fewer numbers: with very many answer tokens."""
    as_factors = sum(outputs.numel() + inputs.numel() for outputs, inputs in factors.values())
    as_weights = sum(len(outputs) * inputs.shape[1] for outputs, inputs in factors.values())
    if as_factors < as_weights:
        return low_rank_change(model, factors, method, details)
    weights = {f"{p.name}.weight": p.weight for p in model.anatomy.projections() if f"{p.name}.weight" in factors}
    base = model.fingerprint
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    with writing(model, factors) as add:
        for name, pair in factors.items():
            add(name, pair)
        after = {name: compact(before[name], weight) for name, weight in weights.items()}
        return WeightChange(after, {name: tensor_digest(old) for name, old in before.items()}, base, method, details)
