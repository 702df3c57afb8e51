"""Fine-tuning on facts: an adapter or the weights themselves, AdamW, loss on the value's tokens.

The setting is the paper's where the paper states one (LoRA of rank 16 and alpha 32 on all projections); learning rate,
steps and clipping are this project's own. The base model stays in evaluation mode: its dropout, where it has any, is
off, so that a run is a function of its seed. What a method trains is a file in ``mechmask.write.trained``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeGuard

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mechmask.errors import ChangeError
from mechmask.facts.fact import Example, Fact
from mechmask.facts.fact_set import FactSet
from mechmask.facts.load import as_examples
from mechmask.interrupts import _AtomicContext, atomic_context
from mechmask.models.gradients import recording, with_gradients, without_gradients
from mechmask.models.lock import exclusive
from mechmask.models.model import Model
from mechmask.models.routes import encode_examples
from mechmask.models.states import Variant, active, unchanged
from mechmask.models.writable import require_writable
from mechmask.progress import progress_bar
from mechmask.write.adapter import fill, require_no_adapter
from mechmask.write.change import Change
from mechmask.write.finetune_config import FinetuneConfig
from mechmask.write.objective import Targets, packed_targets, target_nll, targets
from mechmask.write.precision import computing_in
from mechmask.write.trained import METHODS, trained_by
from mechmask.write.trained.adapter import lora_config
from mechmask.write.trained.trained import Finetuned
from mechmask.write.weights import tensor_digest

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FinetuneConfig", "Finetuning", "can_continue", "finetune", "lora_config"]

_FUSED = ("cpu", "cuda")  # devices on which an update is one pass through weight, gradient and moments

Taught: TypeAlias = "Sequence[Example | Fact | Mapping[str, Any]] | FactSet | pd.DataFrame | str | Path"


class Finetuning(_AtomicContext["Finetuning"]):
    """A fine-tuning that can be advanced, read in between, stored and taken up again with the same bits.

    A context: inside, what is trained is on the model: an adapter beside its weights, or new values of them. Leaving
    restores every bit. ``start`` continues another fine-tuning.

    Args:
        model: the model or a state of it with a change of weights on.
        examples: what to learn.
        config: how.
        start: the change to begin with, of the kind that ``config`` makes, or the state that has it on; a fresh adapter
            or the weights as they are by default.

    Attributes:
        step: optimizer steps taken.
        losses: of every step, in nats per token.

    Raises:
        ChangeError: if there is no example, a block does not exist, or ``start`` is not such a change on ``model``; on
            entering, if ``start`` has another shape or base, or an adapter is on already.
        RouteError: if a value merges with its prompt.
    """

    def __init__(
        self,
        model: Model | Variant,
        examples: Sequence[Example],
        config: FinetuneConfig,
        start: Finetuned | Variant | None = None,
    ) -> None:
        super().__init__(contextmanager(self._open)())
        if not examples:
            raise ChangeError("There is no example to learn from. Give at least one prompt with its value.")
        bare = unchanged(model)
        require_writable(bare, "Fine-tuning")
        self.config = config
        self.step = 0
        self.losses: list[float] = []
        self._state = model
        self._trained = trained_by(bare, config)
        computing_in(bare, config.precision)  # refuses what this device would imitate
        self._start = _change_of(start, model, config) if isinstance(start, Variant) else start
        self._examples = encode_examples(bare.tokenizer, examples)
        self._parameters: Mapping[str, torch.nn.Parameter] = {}
        self._made: dict[tuple[int, ...], list[Targets]] = {}  # of the last step: often those of the next one

    def _open(self) -> Iterator[Finetuning]:
        with recording(), active(self._state) as model, exclusive(model.module):
            require_no_adapter(model)
            self._model, self._base = model, model.fingerprint
            if self._start is not None:
                self._require_continuable(self._start)
            with self._trained.on(model, self._start) as self._parameters:
                self._began = self._digests()
                c = self.config
                self._optimizer = torch.optim.AdamW(
                    self._parameters.values(), lr=c.lr, weight_decay=c.weight_decay, fused=model.device.type in _FUSED
                )
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
        """What is trained, optimizer moments, step and losses: all that the rest of the run depends on."""
        stored: dict[str, Tensor] = {
            "step": torch.tensor(self.step),
            "losses": torch.tensor(self.losses, dtype=torch.float64),
        }
        for name, parameter in self._parameters.items():
            stored[f"factor.{name}"] = parameter.detach().clone()
            for key, value in self._optimizer.state.get(parameter, {}).items():
                stored[f"{key}.{name}"] = value.detach().clone()
        return stored

    def restore(self, stored: Mapping[str, Tensor]) -> None:
        """Go on from a stored state."""
        fill(self._parameters, {name: stored[f"factor.{name}"] for name in self._parameters})
        for name, parameter in self._parameters.items():
            moments = {
                key: stored[f"{key}.{name}"].to(parameter.device, copy=True)
                for key in ("step", "exp_avg", "exp_avg_sq")
                if f"{key}.{name}" in stored
            }
            if moments:
                self._optimizer.state[parameter] = moments
        self.step = int(stored["step"])
        self.losses = stored["losses"].tolist()

    def change(self) -> Finetuned:
        """What was trained, as it is now.

        Raises:
            ChangeError: if it changes nothing, or is just what it started from.
        """
        details = {
            "config": self.config.model_dump(mode="json"),
            "steps": self.step,
            "final_loss_nats": self.losses[-1] if self.losses else None,
        }
        change = self._trained.change(self._parameters, self._base, details)
        if self._digests() == self._began:
            raise ChangeError(
                "The fine-tuning changed nothing: all is where it started. Give "
                "it more steps or a higher learning rate."
            )
        return change

    def _digests(self) -> dict[str, str]:
        return {name: tensor_digest(parameter) for name, parameter in self._parameters.items()}

    def _require_continuable(self, start: Finetuned) -> None:
        if not can_continue(start, self.config):
            raise ChangeError(
                f"The {start.method} change to start from is not {self._trained.noun}, which is what "
                f"the method {self.config.method} trains. Start from a change that this method made."
            )
        if start.base != self._base:
            raise ChangeError(
                f"The {start.method} change to start from was made on other weights. Undo other changes first."
            )

    def _advance_once(self) -> float:
        with with_gradients():
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
        norm = torch.nn.utils.clip_grad_norm_(self._parameters.values(), self.config.max_grad_norm)
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
        computing = computing_in(self._model, self.config.precision)
        seed = _dropout_seed(self.config.seed, self.step) if dropout else None
        with _drawing(seed), self._trained.computing(self._model.module), computing:
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
        with without_gradients():
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
    start: Finetuned | Variant | None = None,
    progress: bool = True,
) -> Finetuned:
    """Fine-tune on examples; the model is left as it was and the change returned.

    Args:
        model: the model, or a state of it with a change of weights on, such as ``edit.on(model)``.
        examples: prompts and values, such as ``facts.contradiction_examples()``; facts stand for those.
        config: how; ``FinetuneConfig()`` by default.
        start: continue this change (or the one that is on in this state) instead of beginning anew, with a new
            optimizer, as the paper's second phase does. The change that is returned replaces it.
        progress: whether a bar shows how far it is, when it takes more than two seconds.

    Returns:
        An adapter, or of the method ``full`` new values of the blocks' weights.

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


def can_continue(change: Change, config: FinetuneConfig) -> TypeGuard[Finetuned]:
    """Whether a change is of the kind that a configuration trains, so that a training can start from it.

    Args:
        change: what is to be started from.
        config: how it is to be trained further.
    """
    return isinstance(change, METHODS[config.method].kind)


def _change_of(state: Variant, model: Model | Variant, config: FinetuneConfig) -> Finetuned:
    """The change that is on in a state of ``model``, of the kind that is to be trained further."""
    change: Any = state.change
    if not can_continue(change, config) or state.model is not model:
        raise ChangeError(
            f"{state.name} is not {model.name} with {METHODS[config.method].noun} on, so it cannot be continued there. "
            "Pass the change itself as start=, with the model that it was made on."
        )
    return change


@atomic_context
def _drawing(seed: int | None) -> Iterator[None]:
    """Torch draws from a seed of its own, or nothing is drawn."""
    with torch.random.fork_rng(enabled=seed is not None):
        if seed is not None:
            torch.manual_seed(seed)
        yield


def _dropout_seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0])
