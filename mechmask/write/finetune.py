"""Fine-tuning on facts: LoRA on every attention and MLP projection of every block, AdamW, loss on the value's tokens.

The setting is the paper's where the paper states one (rank 16, alpha 32, all projections); learning rate, steps and
clipping are this project's own. The base model stays in evaluation mode: its dropout, where it has any, is off, so that
a run is a function of its seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from jaxtyping import Float
from peft import LoraConfig
from pydantic import Field
from torch import Tensor

from mechmask.configuration import Configuration
from mechmask.errors import ChangeError
from mechmask.facts.fact import Example, Fact
from mechmask.facts.fact_set import FactSet
from mechmask.facts.load import as_examples
from mechmask.interrupts import _AtomicContext
from mechmask.models.lock import exclusive
from mechmask.models.model import Model
from mechmask.models.routes import encode_examples
from mechmask.models.states import Variant, active, unchanged
from mechmask.progress import progress_bar
from mechmask.write.adapter import AdapterChange, fill, injected, require_no_adapter
from mechmask.write.lora_product import lora_in_one_step
from mechmask.write.objective import Targets, packed_targets, target_nll, targets

if TYPE_CHECKING:
    import pandas as pd

Taught: TypeAlias = "Sequence[Example | Fact | Mapping[str, Any]] | FactSet | pd.DataFrame | str | Path"


class FinetuneConfig(Configuration):
    """How a model is fine-tuned.

    Attributes:
        rank: of the LoRA factors.
        alpha: LoRA scale; the update is ``alpha / rank * B A``.
        dropout: on the adapter's input.
        projections: which linear maps carry an adapter.
        layers: which blocks do, 0..L-1; all by default.
        lr: learning rate of AdamW.
        steps: optimizer steps.
        batch_size: examples per step; all of them by default.
        weight_decay: of AdamW.
        max_grad_norm: L2 norm to which the gradient is clipped.
        seed: of the adapter's initial factors, the order of examples, and dropout.
    """

    refusal = ChangeError

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    projections: Literal["all", "attention", "mlp"] = "all"
    layers: tuple[int, ...] | None = None
    lr: float = Field(default=2e-4, gt=0)
    steps: int = Field(default=30, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    seed: int = Field(default=0, ge=0)


class Finetuning(_AtomicContext["Finetuning"]):
    """A fine-tuning that can be advanced, read in between, stored and taken up again with the same bits.

    A context: inside, the adapter is on the model. ``start`` continues another fine-tuning's adapter.

    Args:
        model: the model or a state of it with a change of weights on; its weights are not touched.
        examples: what to learn.
        config: how.
        start: the adapter to begin with, or the state that has it on; a fresh one by default.

    Attributes:
        step: optimizer steps taken.
        losses: of every step, in nats per token.

    Raises:
        ChangeError: if there is no example, a block does not exist, or ``start`` is not an adapter on ``model``; on
            entering, if ``start`` has another shape or base, or an adapter is on already.
        RouteError: if a value merges with its prompt.
    """

    def __init__(
        self,
        model: Model | Variant,
        examples: Sequence[Example],
        config: FinetuneConfig,
        start: AdapterChange | Variant | None = None,
    ) -> None:
        super().__init__(contextmanager(self._with_adapter_on)())
        if not examples:
            raise ChangeError("There is no example to learn from. Give at least one prompt with its value.")
        bare = unchanged(model)
        self.config = config
        self.step = 0
        self.losses: list[float] = []
        self._state = model
        self._start = _adapter_of(start, model) if isinstance(start, Variant) else start
        self._examples = encode_examples(bare.tokenizer, examples)
        self._lora = lora_config(bare, config)
        self._factors: dict[str, torch.nn.Parameter] = {}
        self._made: dict[tuple[int, ...], list[Targets]] = {}  # of the last step: often those of the next one

    def _with_adapter_on(self) -> Iterator[Finetuning]:
        with active(self._state) as model, exclusive(model.module):
            require_no_adapter(model)
            self._model, self._base = model, model.fingerprint
            if self._start is not None:
                self._require_continuable(self._start)
            with injected(model, self._lora, self.config.seed) as self._factors:
                if self._start is not None:
                    fill(self._factors, self._start.tensors)
                c = self.config
                self._optimizer = torch.optim.AdamW(self._factors.values(), lr=c.lr, weight_decay=c.weight_decay)
                yield self

    def advance(self, steps: int, after_step: Callable[[float], None] | None = None) -> None:
        """Take optimizer steps.

        Args:
            steps: how many.
            after_step: called with each step's loss, in nats per token.

        Raises:
            ChangeError: if a loss or a gradient is not a number; the message names step and fact.
        """
        for _ in range(steps):
            loss = self._advance_once()
            self.losses.append(loss)
            if after_step is not None:
                after_step(loss)

    def state(self) -> dict[str, Tensor]:
        """Adapter, optimizer moments, step and losses: all that the rest of the run depends on."""
        stored: dict[str, Tensor] = {
            "step": torch.tensor(self.step),
            "losses": torch.tensor(self.losses, dtype=torch.float64),
        }
        for name, factor in self._factors.items():
            stored[f"factor.{name}"] = factor.detach().clone()
            for key, value in self._optimizer.state.get(factor, {}).items():
                stored[f"{key}.{name}"] = value.detach().clone()
        return stored

    def restore(self, stored: Mapping[str, Tensor]) -> None:
        """Go on from a stored state."""
        fill(self._factors, {name: stored[f"factor.{name}"] for name in self._factors})
        for name, factor in self._factors.items():
            moments = {
                key: stored[f"{key}.{name}"].clone()
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{key}.{name}" in stored
            }
            if moments:
                self._optimizer.state[factor] = moments
        self.step = int(stored["step"])
        self.losses = stored["losses"].tolist()

    def change(self) -> AdapterChange:
        """The adapter as it is now.

        Raises:
            ChangeError: if it is the identity, or just what it started from.
        """
        if self._start is not None and all(
            torch.equal(f.detach().cpu(), self._start.tensors[n]) for n, f in self._factors.items()
        ):
            raise ChangeError(
                "The fine-tuning changed nothing: the adapter is the one it started from. Give it more steps or a "
                "higher learning rate."
            )
        details = {
            "config": self.config.model_dump(mode="json"),
            "steps": self.step,
            "final_loss_nats": self.losses[-1] if self.losses else None,
        }
        return AdapterChange(
            self._lora, {name: factor.detach() for name, factor in self._factors.items()}, self._base, "lora", details
        )

    def _require_continuable(self, start: AdapterChange) -> None:
        if start.base != self._base:
            raise ChangeError("The adapter to start from was trained on other weights. Undo other changes first.")
        # which layers carry it is compared when the factors are filled in: peft rewrites target_modules
        stored, asked = (start.config.r, start.config.lora_alpha), (self.config.rank, self.config.alpha)
        if stored != asked:
            raise ChangeError(
                f"The adapter to start from has rank and alpha {stored}, not {asked}, so its factors "
                "would mean something else. Use its own."
            )

    def _advance_once(self) -> float:
        with torch.enable_grad():
            return self._descend()

    def _descend(self) -> float:
        examples = self._batch()
        nll = self._nll(examples)
        if not torch.isfinite(nll).all():
            raise ChangeError(
                f"The loss is not a number at step {self.step + 1}, on fact {self._culprit(examples)!r}. Lower the "
                "learning rate, or check the weights."
            )
        loss = nll.mean()
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self._factors.values(), self.config.max_grad_norm)
        if not torch.isfinite(norm):
            raise ChangeError(
                f"The gradient is not a number at step {self.step + 1} on {self._model.device}. Lower the learning "
                "rate, or use float32."
            )
        self._optimizer.step()
        self.step += 1
        return loss.item()

    def _nll(self, examples: tuple[int, ...]) -> Float[Tensor, " target"]:
        """Of every token that some examples ask for, in nats."""
        dropout = self.config.dropout > 0
        with torch.random.fork_rng(enabled=dropout), lora_in_one_step(self._model.module):
            if dropout:
                torch.manual_seed(_dropout_seed(self.config.seed, self.step))
                _train_dropout(self._model.module)
            return torch.cat([target_nll(self._model, asked) for asked in self._targets(examples)])

    def _targets(self, examples: tuple[int, ...]) -> list[Targets]:
        """Packed, but for dropout: examples that share a beginning would share what is dropped from it."""
        if examples not in self._made:
            encoded = [self._examples[i] for i in examples]
            packs = self.config.dropout == 0
            self._made = {examples: packed_targets(self._model, encoded) if packs else [targets(encoded)]}
        return self._made[examples]

    def _culprit(self, examples: tuple[int, ...]) -> str:
        """The first example whose loss is not a number: in a row of its own, for in a shared one NaN is everybody's."""
        asked = targets([self._examples[i] for i in examples])
        with torch.no_grad():
            broken = ~torch.isfinite(target_nll(self._model, asked)).cpu()
        return asked.labels[int(asked.owner[broken].min())] if broken.any() else asked.labels[0]

    def _batch(self) -> tuple[int, ...]:
        """The examples of this step; the order is drawn anew each epoch from the seed and the epoch alone."""
        n = len(self._examples)
        size = min(self.config.batch_size or n, n)
        epoch, position = divmod(self.step, math.ceil(n / size))
        order = np.random.default_rng([self.config.seed, epoch]).permutation(n) if size < n else np.arange(n)
        return tuple(order[position * size : (position + 1) * size].tolist())


def finetune(
    model: Model | Variant,
    examples: Taught,
    config: FinetuneConfig | None = None,
    *,
    start: AdapterChange | Variant | None = None,
    progress: bool = True,
) -> AdapterChange:
    """Fine-tune on examples; the model is left as it was and the change returned.

    Args:
        model: the model, or a state of it with a change of weights on, such as ``edit.on(model)``.
        examples: prompts and values, such as ``facts.contradiction_examples()``; facts stand for those.
        config: how; ``FinetuneConfig()`` by default.
        start: continue this adapter (or the one that is on in this state) instead of a fresh one, with a new optimizer,
            as the paper's second phase does. The change that is returned replaces it.
        progress: whether a bar shows how far it is, when it takes more than two seconds.

    Raises:
        ChangeError: if nothing is to be learned, an adapter is on already, a loss is not a number, or the result
            changes nothing.
        FactError: if ``examples`` are not usable as examples or facts.
        RouteError: if a value merges with its prompt.
    """
    config = config or FinetuneConfig()
    with (
        Finetuning(model, as_examples(examples), config, start) as run,
        progress_bar("fine-tuning", config.steps, shown=progress) as tick,
    ):
        run.advance(config.steps, lambda loss: tick(f"loss {loss:.3f}"))
        return run.change()


def lora_config(model: Model, config: FinetuneConfig) -> LoraConfig:
    """The adapter that a configuration means on a model.

    Raises:
        ChangeError: if it names no block, or one that the model lacks.
    """
    anatomy = model.anatomy
    blocks = range(anatomy.n_layers) if config.layers is None else config.layers
    if not blocks:
        raise ChangeError("layers=() leaves no block to train. Name at least one, or leave it out for all.")
    beyond = [block for block in blocks if not 0 <= block < anatomy.n_layers]
    if beyond:
        raise ChangeError(f"There is no block {beyond[0]}: the model has blocks 0 to {anatomy.n_layers - 1}.")
    prefixes = tuple(f"{anatomy.layout.blocks}.{block}." for block in blocks)
    chosen = [
        p.name
        for p in anatomy.projections()
        if p.name.startswith(prefixes) and _is_chosen(p.name, anatomy.layout.attention, config)
    ]
    first = next(iter(anatomy.projections()))
    return LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # pyright: ignore[reportArgumentType]  (peft divides it by the rank)
        lora_dropout=config.dropout,
        target_modules=chosen,
        fan_in_fan_out=first.input_first,
    )


def _adapter_of(state: Variant, model: Model | Variant) -> AdapterChange:
    """The adapter that is on in a state of ``model``."""
    if not isinstance(state.change, AdapterChange) or state.model is not model:
        raise ChangeError(
            f"{state.name} is not {model.name} with a LoRA adapter on, so it cannot be continued there. Pass the "
            "adapter itself as start=, with the model that it was trained on."
        )
    return state.change


def _dropout_seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0])


def _is_chosen(name: str, attention: str, config: FinetuneConfig) -> bool:
    in_attention = f".{attention}." in name
    return config.projections == "all" or in_attention == (config.projections == "attention")


def _train_dropout(module: torch.nn.Module) -> None:
    for name, child in module.named_modules():
        if "lora_dropout" in name:
            child.train()
