"""An edit method at work on one model: what it has made ready, and what it remembers from edit to edit.

``Editor.edit`` gives a change and goes on from it, so that a sequence of edits is a sequence of calls. Nothing of it is
shared with another editor: two of them on one model do not know each other.
"""

from __future__ import annotations

import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeAlias, TypeVar

from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor

from mechmask.configuration import Configuration
from mechmask.errors import ChangeError
from mechmask.facts.fact import Fact
from mechmask.facts.fact_set import FactSet
from mechmask.facts.load import as_fact_set
from mechmask.models.context import require_context
from mechmask.models.gradients import recording
from mechmask.models.model import Model
from mechmask.models.routes import encode_contests
from mechmask.models.states import Variant, active, unchanged
from mechmask.models.writable import require_writable
from mechmask.progress import Tick, progress_bar
from mechmask.write.change import named_weights
from mechmask.write.low_rank import LowRankChange
from mechmask.write.outcome import outcomes
from mechmask.write.precision import computing_in
from mechmask.write.weights import WeightChange, tensor_digest

if TYPE_CHECKING:
    import pandas as pd

Facts: TypeAlias = "FactSet | Sequence[Fact | Mapping[str, Any]] | pd.DataFrame | str | Path"
Edit: TypeAlias = WeightChange | LowRankChange
Config = TypeVar("Config", bound=Configuration)


class _Standing(NamedTuple):
    """Where an editor stands: replaced as a whole, so that an interrupt finds the old or the new.

    Attributes:
        state: what the next edit goes on.
        memory: what the method keeps from edit to edit.
        base: fingerprint of what the editor started from, once something was written.
        before: digests of the weights that were written into, as they were then.
    """

    state: Model | Variant
    memory: Any = None
    base: str = ""
    before: Mapping[str, str] = {}


class Editor(ABC, Generic[Config]):
    """An edit method made ready for a model. ``prepare`` makes one.

    A new method is a subclass with ``_make``, and where it remembers something ``_remember``.

    Args:
        state: the model as it is now, or a state of it; it is left as it was.
        config: how it edits.

    Attributes:
        method: the name under which it is registered.
        needs_training: whether something is trained for the model before it can edit, which no preset can hold.
        start, config: as above.
    """

    method: ClassVar[str]
    needs_training: ClassVar[bool] = False
    _read_of: str = ""  # fingerprint of the model that something was read of when the editor was prepared, if anything

    def __init__(self, state: Model | Variant, config: Config) -> None:
        require_writable(unchanged(state), f"The edit method {self.method}")
        self.start, self.config = state, config
        self._standing = _Standing(state)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.state.name!r})"

    @property
    def state(self) -> Model | Variant:
        """The model with every edit so far on, to the bit what their changes stacked are: what the next one goes on."""
        return self._standing.state

    def edit(self, facts: Facts, *, progress: bool = True) -> Edit:
        """Write the new value of every fact, on top of the edits so far; the model is left as it was.

        What became of each fact stands in ``change.details["facts"]``, see ``mechmask.write.outcome``; facts on which
        the edit did not take are warned of. Where it fails or is interrupted, the editor stands where it stood.

        Args:
            facts: the facts in any form that ``as_fact_set`` takes, edited together.
            progress: whether a bar shows how far it is.

        Returns:
            The change, made on ``state`` as it was before the call.

        Raises:
            ChangeError: if the edit fails, changes nothing or leaves a model whose output is not finite, or the model
                has changed since the editor was prepared.
            FactError: if the facts cannot be used together.
            RouteError: if a value merges with its prompt, cannot be told from another one, or is longer than the model
                reads.
        """
        change = self.edited(facts, progress=progress)
        warn_of_failures(self.method, change.details["facts"])
        return change

    def edited(self, facts: Facts, *, progress: bool = True) -> Edit:
        """As ``edit``, without a warning where the edit did not take.

        Args:
            facts: as in ``edit``.
            progress: as in ``edit``.
        """
        chosen = as_fact_set(facts)
        self.get_ready()
        # the module first, and then where the editor stands: another thread may be at it
        with recording(), unchanged(self.start).exclusive():
            change, self._standing = self._next(chosen, progress)
        return change

    def _next(self, facts: FactSet, progress: bool) -> tuple[Edit, _Standing]:
        """The change, and where the editor stands with it; nothing of the editor changes."""
        with active(self.state) as model, computing_in(model, "float32"):
            if not self._standing.base:
                self._require_as_prepared(model)
            require_context(model, encode_contests(model.tokenizer, facts))
            with progress_bar(self.method, self._n_ticks(len(facts)), shown=progress) as tick:
                change = self._make(model, tuple(facts), tick)
            weights = named_weights(model.module)
            before = {name: tensor_digest(weights[name]) for name in change.weights} | dict(self._standing.before)
            with change.applied(model) as changed:
                change.details["facts"] = outcomes(changed, facts)
                _require_finite(self.method, change.details["facts"])
                memory = self._remember(changed, tuple(facts), self._memory)
                standing = _Standing(self._with(change, changed, before), memory, self._base(change), before)
        return change, standing

    def get_ready(self) -> None:
        """Make what is made once of the model as it was given; no change of this editor is on."""

    @abstractmethod
    def _make(self, model: Model, facts: tuple[Fact, ...], tick: Tick | None) -> Edit:
        """The change; the model is left as it was.

        Args:
            model: the model as it is now, with the edits so far on.
            facts: what is written.
            tick: called ``_n_ticks`` times at most.
        """

    def _n_ticks(self, n_facts: int) -> int:
        """How many pieces the work has."""
        return n_facts

    def _remember(self, model: Model, facts: tuple[Fact, ...], memory: Any) -> Any:  # noqa: ARG002
        """What the method keeps for later edits.

        Args:
            model: the model with this edit on too.
            facts: what was written.
            memory: what was kept so far, ``None`` at first.
        """
        return memory

    @property
    def _memory(self) -> Any:
        return self._standing.memory

    def _require_as_prepared(self, model: Model) -> None:
        """Refuse a model that has changed since something was read of it."""
        if self._read_of and model.fingerprint != self._read_of:
            raise ChangeError(
                f"{model.name} has changed since this {self.method} editor was prepared on it, so that what the editor "
                "has read of it no longer holds. Prepare another one."
            )

    def _base(self, change: Edit) -> str:
        return self._standing.base or change.base

    def _with(self, change: Edit, changed: Model, before: Mapping[str, str]) -> Variant:
        """The start with all edits on; where there are several, as one change to the weights that they lead to."""
        if not self._standing.base:
            return change.on(self.start)
        weights = named_weights(changed.module)
        after: dict[str, Tensor] = {name: weights[name] for name in before}
        return WeightChange(after, before, self._base(change), self.method, {}).on(self.start)


def _require_finite(method: str, facts: Sequence[Mapping[str, Any]]) -> None:
    broken = [fact["id"] for fact in facts if not math.isfinite(fact["logp_new"])]
    if broken:
        raise ChangeError(
            f"With the {method} edit on, the output of the model is not finite, on {broken[0]!r} for one. Lower the "
            "learning rate, or narrow the clamp."
        )


def require_layers(state: Model | Variant, layers: Sequence[int]) -> None:
    """Refuse blocks that a model does not have.

    Args:
        state: the model, or a state of it.
        layers: the blocks, 0..L-1.

    Raises:
        ChangeError: naming those that are not there.
    """
    missing = [layer for layer in layers if layer not in range(state.n_layers)]
    if missing:
        raise ChangeError(
            f"There is no block {', '.join(map(str, missing))}: {state.name} has blocks 0 to {state.n_layers - 1}. "
            "Name others."
        )


def require_plain_projections(model: Model, layers: Sequence[int]) -> None:
    """Refuse MLP output projections with an adapter that does more than add to what their weight gives out.

    A DoRA scales each output by the weight's own norm, so that a value that is written into the weight is not the one
    that comes out.

    Args:
        model: the model.
        layers: the blocks, 0..L-1.

    Raises:
        ChangeError: naming the first block with such an adapter on.
    """
    for layer in layers:
        wrapper = model.module.get_submodule(model.anatomy.mlp_output(layer).name)
        if not isinstance(wrapper, BaseTunerLayer) or wrapper.disable_adapters or wrapper.merged_adapters:
            continue
        variants = getattr(wrapper, "lora_variant", {})
        if not isinstance(wrapper, LoraLayer) or any(name in variants for name in wrapper.active_adapters):
            raise ChangeError(
                f"The adapter on the MLP output projection of block {layer} of {model.name} does more than add to what "
                "the weight gives out, as a DoRA does, so that no value can be written into the weight below it. Edit "
                "another layer, merge the adapter, or train it as a LoRA."
            )


def warn_of_failures(method: str, facts: Sequence[dict[str, Any]]) -> None:
    """Warn the caller's caller of facts on which an edit did not take.

    Args:
        method: the name of the editor.
        facts: what ``outcomes`` said of each.
    """
    failed = [repr(fact["id"]) for fact in facts if not fact["took"]]
    if failed:
        shown = ", ".join(failed[:5]) + (f" and {len(failed) - 5} more" if len(failed) > 5 else "")
        warnings.warn(
            f"The {method} edit did not take on {len(failed)} of {len(facts)} facts ({shown}): the new value does not "
            "lead, so whether the old one is masked cannot be judged there. Give the edit more steps or a wider clamp.",
            stacklevel=3,
        )
