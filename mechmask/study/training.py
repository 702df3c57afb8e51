"""Fine-tuning as steps of a run: checkpoints that are read, a state to go on from, the change that it ends with.

What a training is but for its length (examples, configuration without the number of steps, what it starts from) is its
*course*. Two trainings of one course pass through the same states, so that a longer one goes on where the shorter one
ended, and what was read at a checkpoint is not read again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xarray as xr
from safetensors.torch import load_file, save_file

from mechmask.errors import StudyError
from mechmask.facts.fact import Example
from mechmask.measure.reading import load_reading, save_reading
from mechmask.models.model import Model
from mechmask.progress import PhaseBar, phase_bar
from mechmask.study.run import Run
from mechmask.study.states import StudyState, state_of_step, untouched
from mechmask.study.step import NO_SETTINGS, Settings, Step, code_digest, digest_of, file_in
from mechmask.study.until import Until, UntilHeldOut, recall_of
from mechmask.write.finetune import FinetuneConfig, Finetuning, can_continue

OUTPUT = "output"  # the reading at a checkpoint that says what is recalled
_CHECKPOINT_EVERY = 10  # optimizer steps, where nothing is watched: what a killed training loses at most


@dataclass(frozen=True)
class Watch:
    """What is read at a checkpoint.

    Attributes:
        read: takes the model as it is and gives readings by name; ``output`` has ``recalled[fact, route]``.
        settings: what ``read`` is configured by, variables from around it included; its own text counts by itself.
        every: optimizer steps between two checkpoints.
        inputs: digests of what ``read`` depends on beside the model and the facts of the run.
    """

    read: Callable[[Model], Mapping[str, xr.Dataset]]
    settings: Settings = NO_SETTINGS
    every: int = _CHECKPOINT_EVERY
    inputs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Trained(StudyState):
    """A state that was reached by fine-tuning.

    Attributes:
        checkpoints: what was read on the way, by the number of optimizer steps.
    """

    checkpoints: Mapping[int, Step] = field(default_factory=dict)

    def readings(self, name: str) -> dict[int, xr.Dataset]:
        """The readings of one name, by the number of optimizer steps.

        Raises:
            StudyError: if another training of this name has taken the place of this one.
        """
        return {number: load_reading(file_in(step, f"{name}.nc")) for number, step in self.checkpoints.items()}


def train(
    run: Run,
    name: str,
    examples: Sequence[Example],
    config: FinetuneConfig,
    *,
    start: StudyState | None = None,
    on: StudyState | None = None,
    until: Until | UntilHeldOut | float | None = None,
    watch: Watch | None = None,
) -> Trained:
    """Fine-tune in a run: to the last step, or to the first checkpoint at which it is far enough.

    Args:
        run: where change, checkpoints and training state are kept.
        name: of the state that results.
        examples: what is taught.
        config: how.
        start: the state to go on from: what was trained in it is trained further, with a new optimizer. What the
            method begins with, on the model as it came, by default.
        on: the state whose change stays as it is while another one is trained on top of it, such as an edit; not
            beside ``start``. The model as it came by default.
        until: where it ends before its last step: by recall, by margin, or by examples that are held out; a number is
            a share that is recalled.
        watch: what is read at checkpoints; nothing by default.

    Returns:
        The state: the model with what was trained on.

    Raises:
        StudyError: if ``until`` is given and nothing is watched, or it is reached before the first step.
        ChangeError: if a loss is not a number, nothing changes, or what it starts from is of another shape.
        ReadingError: if a reading disagrees with the model's output.
    """
    until = Until(recall=until) if isinstance(until, float | int) else until
    if until is not None and watch is None:
        raise StudyError(
            f"The training {name!r} is to end at {until}, but nothing is read on the way. Give watch=, or leave until= "
            "out."
        )
    if start is not None and on is not None:
        raise StudyError(f"The training {name!r} goes on from one state and lies on another. Give start or on.")
    base = on or untouched(run)
    training = _Training(run, name, examples, config, start or untouched(run), base, until, watch)
    step = training.finished() or training.carried_out()
    state = state_of_step(step, base, name, "finetune")
    return Trained(state.name, state.state, state.inputs, state.method, None, dict(training.checkpoints))


class _Training:
    """One training in a run, as far as it has come."""

    def __init__(
        self,
        run: Run,
        name: str,
        examples: Sequence[Example],
        config: FinetuneConfig,
        start: StudyState,
        base: StudyState,
        until: Until | UntilHeldOut | None,
        watch: Watch | None,
    ) -> None:
        self._run, self._name, self._examples, self._config = run, name, examples, config
        self._start, self._base, self._until, self._watch = start, base, until, watch
        self._course = Settings.of(config, leave_out=frozenset({"steps"}))
        examples_digest = digest_of([example.written() for example in examples])
        self._inputs = {**run.inputs, "examples": examples_digest, **start.inputs, **base.inputs}
        self._taught = {(example.fact_id, example.value) for example in examples}
        self.checkpoints: dict[int, Step] = {}

    @property
    def _numbers(self) -> list[int]:
        """The optimizer steps at which there is a checkpoint, as long as it does not end early."""
        every = self._watch.every if self._watch else _CHECKPOINT_EVERY
        return [*range(0, self._config.steps, every), self._config.steps]

    def finished(self) -> Step | None:
        """The change that it ends with, if that and every checkpoint on the way are there."""
        last = self._config.steps
        if self._watch:
            for number in self._numbers:
                checkpoint = self._run.find(*self._checkpoint_key(self._watch, number))
                if checkpoint is None:
                    return None
                self.checkpoints[number] = checkpoint
                if self._is_far_enough(checkpoint):
                    last = number
                    break
        return self._run.find(f"changes/{self._name}", self._at(last), self._inputs)

    def carried_out(self) -> Step:
        """The change, trained from the latest state that is of use."""
        change = self._start.change
        if change is not None and not can_continue(change, self._config):
            raise StudyError(
                f"The training {self._name!r} starts from {self._start.name!r}, which is nothing that the method "
                f"{self._config.method} could train further. Start from a state that train() returned for this method."
            )
        steps = self._config.steps
        with Finetuning(self._base.state, self._examples, self._config, change) as tuning:
            self._restore(tuning)
            with phase_bar(self._name, steps, tuning.step) as bar:
                for number in self._numbers:
                    if number < tuning.step:
                        continue
                    tuning.advance(number - tuning.step, bar.step)
                    if self._checkpoint(number, bar) and number < steps:
                        self._require_begun(number)
                        bar.end_early(f"{self._until} is reached at step {number}: no more are needed")
                        break
                    self._keep(tuning)
            self._keep(tuning)
            return self._change(tuning)

    def _require_begun(self, number: int) -> None:
        if not number:
            raise StudyError(
                f"The training {self._name!r} is to end at {self._until}, which is so before its first step: there is "
                "nothing to train. Leave until out, or ask for more."
            )

    def _at(self, number: int) -> Settings:
        return self._course | Settings({"step": number}, {"step": number})

    def _checkpoint_key(self, watch: Watch, number: int) -> tuple[str, Settings, dict[str, str]]:
        """Name, settings and inputs of what is read at an optimizer step."""
        settings = Settings(
            {"course": self._course.chosen, "watch": watch.settings.chosen, "step": number},
            {"course": self._course.whole, "watch": watch.settings.whole, "step": number},
        )
        inputs = {**self._inputs, **watch.inputs, **code_digest(watch.read)}
        return f"checkpoints/{self._name}/{number:06d}", settings, inputs

    def _checkpoint(self, number: int, bar: PhaseBar) -> bool:
        """Read, if it has not been; whether enough is recalled for the training to end."""
        if self._watch is None:
            return False
        read = self._watch.read

        def make(directory: Path) -> None:
            for name, reading in read(self._run.model).items():
                save_reading(reading, directory / f"{name}.nc")

        step = self._run.step(*self._checkpoint_key(self._watch, number), make)
        self.checkpoints[number] = step
        bar.recall(self._recall(step))
        return self._is_far_enough(step)

    def _is_far_enough(self, checkpoint: Step) -> bool:
        return self._until is not None and self._until.reached(self._output(checkpoint), self._taught)

    def _recall(self, checkpoint: Step) -> float:
        return recall_of(self._output(checkpoint), self._taught)

    def _output(self, checkpoint: Step) -> xr.Dataset:
        """What was read of the prompts at a checkpoint."""
        output = load_reading(checkpoint.directory / f"{OUTPUT}.nc")
        return output.sel(phrasing=0) if "phrasing" in output.dims else output

    def _state_key(self, number: int) -> tuple[str, Settings, dict[str, str]]:
        """Name, settings and inputs of the training state at an optimizer step."""
        return f"{self._states_below}/{number:06d}", self._at(number), self._inputs

    @property
    def _states_below(self) -> str:
        return f"training/{self._name}/{digest_of([self._course.whole, self._inputs])[:12]}"

    def _restore(self, tuning: Finetuning) -> None:
        """Go on from the latest state at or before the first checkpoint that is still to be read."""
        latest = self._config.steps
        if self._watch:
            unread = (number for number in self._numbers if number not in self.checkpoints)
            ends = (number for number, step in self.checkpoints.items() if self._is_far_enough(step))
            latest = min([latest, *unread, *ends])
        stored = (int(step.directory.name) for step in self._run.steps_below(self._states_below))
        for number in sorted(stored, reverse=True):
            if number <= latest and (state := self._run.find(*self._state_key(number))):
                tuning.restore(load_file(state.directory / "state.safetensors"))
                return

    def _keep(self, tuning: Finetuning) -> None:
        """Store the training state, then drop the one before: a process killed in between goes on from either."""
        number = tuning.step
        stored = [int(step.directory.name) for step in self._run.steps_below(self._states_below)]
        if not number or max(stored, default=0) >= number:
            return

        def make(directory: Path) -> None:
            save_file(tuning.state(), directory / "state.safetensors")

        self._run.step(*self._state_key(number), make)
        for earlier in stored:
            self._run.drop(f"{self._states_below}/{earlier:06d}")

    def _change(self, tuning: Finetuning) -> Step:
        def make(directory: Path) -> dict[str, Any]:
            tuning.change().save(directory / "change")
            return {"steps": tuning.step}

        return self._run.step(f"changes/{self._name}", self._at(tuning.step), self._inputs, make)
