"""States of a study: what was done to the model, as a value that later steps take and name among their inputs."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import xarray as xr

from mechmask.errors import StudyError
from mechmask.facts.fact import Role
from mechmask.facts.fact_set import FactSet
from mechmask.files import content_digest
from mechmask.measure.reading import load_reading, save_reading
from mechmask.models.model import Model
from mechmask.models.states import Variant, unchanged
from mechmask.progress import progress_bar
from mechmask.read.lenses.lens import LensName
from mechmask.study.lenses import FittedLens, fitted_lens
from mechmask.study.run import Run
from mechmask.study.step import NO_SETTINGS, Settings, Step, code_digest, digest_of, file_in
from mechmask.write.change import Change
from mechmask.write.edit import EditConfig, edit, layers_of, preset_for
from mechmask.write.load import load_change

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

    Raises:
        StudyError: if more changes are on than inputs are named: what is read would count as read from another state.
    """

    name: str
    state: Model | Variant
    inputs: Mapping[str, str]
    method: str
    fact_ids: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        n_changes = len(self.state.changes) if isinstance(self.state, Variant) else 0
        if n_changes > len(self.inputs):
            raise StudyError(
                f"The state {self.name!r} has {n_changes} changes on and names {len(self.inputs)} of them among its "
                "inputs, so that what is read could not be told from another state's. Make it with train, each_edit or "
                "state_of_change."
            )

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


def state_of_change(run: Run, name: str, change: Change, base: StudyState | None = None) -> StudyState:
    """The state that a change makes which was made outside of the run, such as one that was loaded.

    Args:
        run: where the change is stored.
        name: of the state.
        change: what is put on.
        base: what it is put on; the model as it came by default.

    Raises:
        StudyError: if it cannot be stored.
    """
    base = base or untouched(run)
    with tempfile.TemporaryDirectory() as scratch:
        saved = Path(scratch) / "change"
        change.save(saved)
        digest = digest_of({path.name: content_digest(path) for path in sorted(saved.iterdir())})

        def make(directory: Path) -> None:
            shutil.copytree(saved, directory / "change")

        step = run.step(f"changes/{name}", NO_SETTINGS, {**run.inputs, **base.inputs, "change": digest}, make)
    return state_of_step(step, base, name, change.method)


def edit_settings(model: Model, edits: Sequence[str | EditConfig]) -> dict[str, EditConfig]:
    """The configuration of every editor, by the name that its states get.

    Args:
        model: the model that is edited.
        edits: configurations, or names of methods, of which the preset for this model is taken.

    Returns:
        By method; a second editor of one method is ``ft_l_2``.

    Raises:
        ChangeError: if a method is not known, or has no preset for this model.
        ModelError: if the model lacks a block that is to be edited.
    """
    settings: dict[str, EditConfig] = {}
    for entry in edits:
        config = preset_for(model, entry) if isinstance(entry, str) else entry
        for layer in layers_of(config):
            model.anatomy.mlp_output(layer)  # refuses a block that the model lacks before any work
        n = sum(there.method == config.method for there in settings.values())
        settings[f"{config.method}_{n + 1}" if n else config.method] = config
    return settings


def edit_sources(config: EditConfig) -> dict[str, str]:
    """What an editor reads of files that its configuration names, as digests: other contents make other edits.

    Their names are without a slash: an input with one is a step, which results look for.

    Args:
        config: of the editor.

    Raises:
        FileError: if a file cannot be read.
    """
    digests = {}
    for name in ("corpus", "hypernetwork"):
        value = getattr(config, name, None)
        if not isinstance(value, str) or not Path(value).exists():
            continue
        path = Path(value)
        files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
        digests[name] = digest_of({file.relative_to(path.parent).as_posix(): content_digest(file) for file in files})
    return digests


def each_edit(
    run: Run, start: StudyState, facts: Sequence[str], edits: Mapping[str, EditConfig], *, below: str = ""
) -> dict[str, StudyState]:
    """Every fact edited alone by every editor, on one state; other facts of the run are read under each edit.

    Args:
        run: where the edits are kept.
        start: what is edited.
        facts: ids of the facts to edit, each by itself.
        edits: configuration of each editor, by the name that its states have.
        below: what stands before the names of the states, where several states are edited alike.

    Returns:
        A state for each editor and fact, by its name, ``editor/number``; under it the edited fact is read, and every
        fact that is not edited.
    """
    require_of_run(run, start)
    others = [fact.id for fact in run.facts if fact.id not in set(facts)]
    states: dict[str, StudyState] = {}
    for method, config in edits.items():
        with progress_bar(method, len(facts)) as bar:
            for number, fact_id in enumerate(facts):
                name = "/".join(filter(None, (below, method, f"{number:04d}")))
                step = _edited(run, start, [fact_id], name, config)
                states[name] = state_of_step(step, start, name, method, [fact_id, *others])
                bar(fact_id)
    return states


def edited_together(
    run: Run, start: StudyState, facts: Sequence[str], name: str, config: EditConfig, *, read: Sequence[str]
) -> StudyState:
    """Some facts edited at once.

    Args:
        run: where the edit is kept.
        start: what is edited.
        facts: ids of the facts.
        name: of the state.
        config: of the editor.
        read: ids of the facts that are read under it.
    """
    require_of_run(run, start)
    step = _edited(run, start, facts, name, config)
    return state_of_step(step, start, name, config.method, read)


def _edited(run: Run, start: StudyState, facts: Sequence[str], name: str, config: EditConfig) -> Step:
    def make(directory: Path) -> dict[str, Any]:
        require_as_it_came(run, start)
        with warnings.catch_warnings():  # that an edit did not take stands in every table, as ``took``
            warnings.simplefilter("ignore", UserWarning)
            change = edit(start.state, run.facts.select(facts), config=config, progress=False)
        change.save(directory / "change")
        return {"fact": ", ".join(facts), "method": change.method}

    edited = run.facts.select(facts).fingerprint()
    inputs = {**run.inputs, **start.inputs, **edit_sources(config), "edited": edited}
    return run.step(f"changes/{name}", Settings.of(config), inputs, make)


def read_states(
    run: Run,
    states: Mapping[str, StudyState],
    reading: Callable[..., xr.Dataset],
    *,
    roles: Sequence[Role] | None = None,
    lens: FittedLens | LensName | None = None,
    **options: Any,
) -> dict[str, xr.Dataset]:
    """One reading of every state, each a step of the run: taken up where it is there, made where it is not.

    Args:
        run: where the readings are kept, below ``readings/`` and the name of the reading.
        states: what is read, by name.
        reading: a function of a state and facts, such as ``read_logits``; one of your own has a name, and all that it
            depends on is an option.
        roles: of the facts that are read; all by default.
        lens: handed to the reading; a name stands for the lens that ``fitted_lens`` fits.
        **options: of the reading, as JSON values; a ``StudyState`` stands for what it is a state of, where a reading
            takes a second model.

    Returns:
        The reading of every state, by its name, such as ``logprob[fact, route]`` in nats. Where several states have
        one method, as each fact edited alone has, ``mechmask.study.tables.by_method`` joins them.

    Raises:
        FactError: if a state names a fact that the run lacks.
        ReadingError: if a reading disagrees with the model's own output.
        StudyError: if an option cannot be written as JSON, a state is of another model, or the model was changed while
            the run was open; if the reading is a lambda, or takes variables from around it; if a step cannot be
            written.
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
    lens: FittedLens | LensName | None = None,
    **options: Any,
) -> dict[str, Step]:
    """As ``read_states``, the steps themselves: what tables name among their inputs."""
    _require_named(reading)
    lens = fitted_lens(run, lens) if isinstance(lens, str) else lens
    others = {option: value for option, value in options.items() if isinstance(value, StudyState)}
    plain = {option: value for option, value in options.items() if option not in others}
    settings = Settings.of_call(reading, plain, leave_out=_COST_ONLY | {"lens", *others})
    chosen = Settings({"roles": list(roles)}, {"roles": list(roles)}) if roles is not None else Settings({}, {})
    arguments = {**plain, **{option: other.state for option, other in others.items()}}
    arguments |= {} if lens is None else {"lens": lens.lens}
    lens_input = {} if lens is None else {"lens": lens.lens.name, **lens.inputs}
    beside = {name: digest for other in others.values() for name, digest in other.inputs.items()}
    beside |= {option: digest_of(dict(other.inputs)) for option, other in others.items()}
    read_by = {**lens_input, **beside, **code_digest(reading)}
    for other in others.values():
        require_of_run(run, other)
    steps: dict[str, Step] = {}
    with progress_bar(reading.__name__, len(states)) as bar:
        for name, state in states.items():
            require_of_run(run, state)
            facts = state.facts_of(run.facts)
            if roles is not None:
                facts = facts.select(fact.id for fact in facts if fact.role in roles)
            inputs = {**run.inputs, **state.inputs, "read": facts.fingerprint(), **read_by}
            if others:  # whose steps stand among the inputs too: which are the state's own
                inputs["state"] = digest_of(dict(state.inputs))

            def make(directory: Path, state: StudyState = state, facts: FactSet = facts) -> None:
                for one in (state, *others.values()):
                    require_as_it_came(run, one)
                save_reading(reading(state.state, facts, **arguments), directory / "reading.nc")

            steps[name] = run.step(f"readings/{reading.__name__}/{name}", settings | chosen, inputs, make)
            bar(name)
    return steps


def reading_in(step: Step) -> xr.Dataset:
    """The reading that a step holds.

    Raises:
        StudyError: if another step of its name has taken its place since.
    """
    return load_reading(file_in(step, "reading.nc"))


def _require_named(reading: Callable[..., xr.Dataset]) -> None:
    """Refuse a function that its name, its text and its options do not describe."""
    name, closure = getattr(reading, "__name__", ""), getattr(reading, "__closure__", None)
    if not name.isidentifier() or (closure and code_digest(reading)):
        cause = "takes variables from around it" if name.isidentifier() else "has no name"
        raise StudyError(
            f"The reading {name or reading!r} {cause}, so that a study could not tell it from another one. Define it "
            "with def at the top of a file or cell, and hand what it depends on as options."
        )


def require_of_run(run: Run, state: StudyState) -> None:
    """Refuse a state of another model.

    Raises:
        StudyError: if it is one.
    """
    base = unchanged(state.state)
    if base.module is not run.model.module and base.fingerprint != run.inputs["model"]:
        raise StudyError(
            f"The state {state.name!r} is one of {base.name}, and the run is of {run.model.name} with other weights. "
            "Open a run of its own for each model."
        )


def require_as_it_came(run: Run, state: StudyState) -> None:
    """Refuse to read as untouched what was changed while the run was open; a change refuses that by itself.

    Raises:
        StudyError: if it was.
    """
    if isinstance(state.state, Model) and state.state.fingerprint != run.inputs["model"]:
        raise StudyError(
            f"{state.name!r} is to be read as the model came, but the model was changed since the run was opened. "
            "Take the change off, or read it as a state: state_of_change(run, name, change)."
        )
