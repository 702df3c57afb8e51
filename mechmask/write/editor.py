"""An edit method at work on one model: what it has made ready, and what it remembers from edit to edit.

``Editor.edit`` gives a change and goes on from it, so that a sequence of edits is a sequence of calls. Nothing of it is
shared with another editor: two of them on one model do not know each other.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, TypeAlias, TypeVar

from torch import Tensor

from mechmask.configuration import Configuration
from mechmask.facts.fact import Fact
from mechmask.facts.fact_set import FactSet
from mechmask.facts.load import as_fact_set
from mechmask.models.model import Model
from mechmask.models.states import Variant, active
from mechmask.progress import Tick, progress_bar
from mechmask.write.change import named_weights
from mechmask.write.low_rank import LowRankChange
from mechmask.write.outcome import outcomes
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
        start, config: as above.
    """

    method: ClassVar[str]

    def __init__(self, state: Model | Variant, config: Config) -> None:
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
            ChangeError: if the edit fails or changes nothing.
            FactError: if the facts cannot be used together.
            RouteError: if a value merges with its prompt.
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
        with active(self.state) as model:
            with progress_bar(self.method, self._n_ticks(len(chosen)), shown=progress) as tick:
                change = self._make(model, tuple(chosen), tick)
            weights = named_weights(model.module)
            before = {name: tensor_digest(weights[name]) for name in change.weights} | dict(self._standing.before)
            with change.applied(model) as changed:
                change.details["facts"] = outcomes(changed, chosen)
                memory = self._remember(changed, tuple(chosen), self._memory)
                standing = _Standing(self._with(change, changed, before), memory, self._base(change), before)
        self._standing = standing
        return change

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

    def _base(self, change: Edit) -> str:
        return self._standing.base or change.base

    def _with(self, change: Edit, changed: Model, before: Mapping[str, str]) -> Variant:
        """The start with all edits on; where there are several, as one change to the weights that they lead to."""
        if not self._standing.base:
            return change.on(self.start)
        weights = named_weights(changed.module)
        after: dict[str, Tensor] = {name: weights[name] for name in before}
        return WeightChange(after, before, self._base(change), self.method, {}).on(self.start)


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
