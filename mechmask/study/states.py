"""States of a study: what was done to the model, as a value that later steps take and name among their inputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import xarray as xr

from mechmask.facts.fact import Role
from mechmask.facts.fact_set import FactSet
from mechmask.measure.reading import load_reading, save_reading
from mechmask.models.model import Model
from mechmask.models.states import Variant
from mechmask.progress import progress_bar
from mechmask.study.run import Run
from mechmask.study.step import Settings, Step
from mechmask.write.change import Change
from mechmask.write.edit import EditConfig, edit, preset_for
from mechmask.write.load import load_change

if TYPE_CHECKING:
    from mechmask.read.lenses.lens import Lens

# Options of a reading that change its cost and nothing that it says.
_COST_ONLY = frozenset({"batch_size", "progress"})


@dataclass(frozen=True, eq=False)
class StudyState:
    """A state of the model in a run.

    Attributes:
        name: its name in the run; ``ft_l/0003`` is one of several states of one method.
        state: the model, or the model with changes on.
        inputs: what makes it that state: digests of the changes that are on, by the names of their steps.
        method: by which tables and figures show it.
        fact_ids: the facts that are read under it; ``None`` for all.
    """

    name: str
    state: Model | Variant
    inputs: Mapping[str, str]
    method: str
    fact_ids: tuple[str, ...] | None = None

    @property
    def change(self) -> Change | None:
        """What was done last; ``None`` where the model is as it came."""
        return self.state.change if isinstance(self.state, Variant) else None  # pyright: ignore[reportReturnType]

    def facts_of(self, facts: FactSet) -> FactSet:
        """The facts that are read under it.

        Args:
            facts: all facts of the run.
        """
        return facts if self.fact_ids is None else facts.select(self.fact_ids)


@dataclass(frozen=True, eq=False)
class FittedLens:
    """A lens of a run, and digests of the steps that hold it, by name; none for a lens that is not fitted."""

    lens: Lens
    inputs: Mapping[str, str]


def untouched(run: Run) -> StudyState:
    """The model as it came.

    Args:
        run: whose model it is.
    """
    return StudyState("untouched", run.model, {}, "untouched")


def state_of_step(
    step: Step, base: StudyState, name: str, method: str, facts: Sequence[str] | None = None
) -> StudyState:
    """The state that a stored change makes of another state.

    Raises:
        StudyError: if the step's files are damaged.
    """
    change = load_change(step.directory / "change")
    ids = None if facts is None else tuple(facts)
    return StudyState(name, change.on(base.state), {**base.inputs, step.name: step.digest}, method, ids)


def edit_settings(model: Model, edits: Sequence[str | EditConfig]) -> dict[str, EditConfig]:
    """The configuration of every editor, by the name that its states get.

    Args:
        model: the model that is edited.
        edits: configurations, or names of methods, of which the preset for this model is taken.

    Returns:
        By method; a second editor of one method is ``ft_l_2``.

    Raises:
        ChangeError: if a method is not known, or has no preset for this model.
        ModelError: if the model lacks the block that is to be edited.
    """
    settings: dict[str, EditConfig] = {}
    for entry in edits:
        config = preset_for(model, entry) if isinstance(entry, str) else entry
        model.anatomy.mlp_output(config.layer)  # refuses a block that the model lacks before any work
        n = sum(there.method == config.method for there in settings.values())
        settings[f"{config.method}_{n + 1}" if n else config.method] = config
    return settings


def each_edit(
    run: Run, start: StudyState, facts: Sequence[str], edits: Mapping[str, EditConfig]
) -> dict[str, StudyState]:
    """Every fact edited alone by every editor, on one state; other facts of the run are read under each edit.

    Args:
        run: where the edits are kept.
        start: what is edited.
        facts: ids of the facts to edit, each by itself.
        edits: configuration of each editor, by the name that its states have.

    Returns:
        A state for each editor and fact, named ``editor/number``; under it the edited fact is read, and every fact that
        is not edited.
    """
    others = [fact.id for fact in run.facts if fact.id not in set(facts)]
    states: dict[str, StudyState] = {}
    for method, config in edits.items():
        with progress_bar(method, len(facts)) as bar:
            for number, fact_id in enumerate(facts):
                name = f"{method}/{number:04d}"
                step = _edited(run, start, fact_id, name, config)
                states[name] = state_of_step(step, start, name, method, [fact_id, *others])
                bar(fact_id)
    return states


def _edited(run: Run, start: StudyState, fact_id: str, name: str, config: EditConfig) -> Step:
    def make(directory: Any) -> dict[str, Any]:
        with warnings.catch_warnings():  # that an edit did not take stands in every table, as ``took``
            warnings.simplefilter("ignore", UserWarning)
            change = edit(start.state, run.facts.select([fact_id]), config=config, progress=False)
        change.save(directory / "change")
        return {"fact": fact_id, "method": change.method}

    inputs = {**run.inputs, **start.inputs, "edited": run.facts.select([fact_id]).fingerprint()}
    return run.step(f"changes/{name}", Settings.of(config), inputs, make)


def read_states(
    run: Run,
    states: Mapping[str, StudyState],
    reading: Callable[..., xr.Dataset],
    *,
    roles: Sequence[Role] | None = None,
    lens: FittedLens | None = None,
    **options: Any,
) -> dict[str, xr.Dataset]:
    """One reading of every state, each a step of the run: taken up where it is there, made where it is not.

    Args:
        run: where the readings are kept, below ``readings/`` and the name of the reading.
        states: what is read, by name.
        reading: a function of a state and facts, such as ``read_logits``.
        roles: of the facts that are read; all by default.
        lens: handed to the reading.
        **options: of the reading, as JSON values.

    Returns:
        The reading of every state, by its name, such as ``logprob[fact, route]`` in nats. Where several states have
        one method, as each fact edited alone has, ``mechmask.study.tables.by_method`` joins them.

    Raises:
        FactError: if a state names a fact that the run does not have.
        ReadingError: if a reading disagrees with the model's own output.
        StudyError: if a step cannot be written.
    """
    return {
        name: reading_in(step)
        for name, step in readings_of(run, states, reading, roles=roles, lens=lens, **options).items()
    }


def readings_of(
    run: Run,
    states: Mapping[str, StudyState],
    reading: Callable[..., xr.Dataset],
    *,
    roles: Sequence[Role] | None = None,
    lens: FittedLens | None = None,
    **options: Any,
) -> dict[str, Step]:
    """As ``read_states``, the steps themselves: what tables name among their inputs."""
    settings = Settings.of_call(reading, options, leave_out=_COST_ONLY | {"lens"})
    chosen = Settings({"roles": list(roles)}, {"roles": list(roles)}) if roles is not None else Settings({}, {})
    arguments = options if lens is None else {**options, "lens": lens.lens}
    lens_input = {} if lens is None else {"lens": lens.lens.name, **lens.inputs}
    steps: dict[str, Step] = {}
    with progress_bar(reading.__name__, len(states)) as bar:
        for name, state in states.items():
            facts = state.facts_of(run.facts)
            if roles is not None:
                facts = facts.select(fact.id for fact in facts if fact.role in roles)
            inputs = {**run.inputs, **state.inputs, "read": facts.fingerprint(), **lens_input}

            def make(directory: Any, state: StudyState = state, facts: FactSet = facts) -> None:
                save_reading(reading(state.state, facts, **arguments), directory / "reading.nc")

            steps[name] = run.step(f"readings/{reading.__name__}/{name}", settings | chosen, inputs, make)
            bar(name)
    return steps


def reading_in(step: Step) -> xr.Dataset:
    """The reading that a step holds."""
    return load_reading(step.directory / "reading.nc")
