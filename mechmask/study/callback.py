"""``ContestCallback``: the contest of old and new value in the user's own training run, read as it goes.

For transformers' Trainer and what builds on it (TRL's SFTTrainer and DPOTrainer), whole models and peft adapters. The
run itself is left as it is: training mode, gradients, dropout and random state come back, and losses are the same to
the bit with the callback and without. What it reads are the weights that are trained, in their own precision: where the
run computes in another one by autocast, that is switched off for the reading.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch.distributed as dist
import xarray as xr
from torch import nn
from transformers import (
    PreTrainedTokenizerBase,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import CallbackHandler

from mechmask.errors import ReadingError, StudyError
from mechmask.interrupts import atomic_context
from mechmask.measure.reading import load_reading, save_reading
from mechmask.measure.trajectory import along_steps
from mechmask.models.load import load_model
from mechmask.models.model import Model
from mechmask.read.checkpoint import read_logits_and_depth
from mechmask.read.logits import read_logits
from mechmask.read.scoring.contests import Facts, facts_of

_FILES = {"output": "trajectory.nc", "depth": "depth_trajectory.nc"}
_LOGGED = ("standing", "ceiling", "margin")
_FRAMES = 6  # between a callback and the handler that calls it; subclasses may stand between


class ContestCallback(TrainerCallback):
    """Reads the contest of some facts at steps of a training run, logs its means and keeps the trajectory.

    Args:
        facts: what is read, in any form that a reading takes.
        every: optimizer steps between two readings; the first is before the run's first step and the last after its
            last one.
        depth: whether every layer is read too, by the logit lens.
        directory: where the trajectory is kept as well, after every reading. It travels with the trainer's checkpoints
            in any case, and a run that goes on from one goes on with it.
        tokenizer: of the model, where the trainer has none (``processing_class``).
        batch_size: prompts per forward pass; affects memory only.

    The means over the facts of each role go to the trainer's own logs under ``contest/``, such as
    ``contest/contradicted/margin``: ``logp_old`` and ``logp_new``, ``standing``, ``ceiling`` and ``margin`` in nats,
    ``rank_old`` among distractors, and the shares ``recalled_old`` and ``recalled_new``. Whatever ``report_to`` names
    has them.

    In distributed training the first process reads while the others wait. Weights that are sharded over processes are
    refused.

    Raises:
        FactError: listing every problem of the facts in one message.
        StudyError: if ``every`` is below 1, or ``directory`` holds a trajectory already.
    """

    def __init__(
        self,
        facts: Facts,
        every: int = 50,
        depth: bool = False,
        directory: str | Path | None = None,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        batch_size: int = 32,
    ) -> None:
        if every < 1:
            raise StudyError(f"every is {every}. Give the optimizer steps between two readings, 1 or more.")
        self.facts, self.every, self.depth = facts_of(facts), every, depth
        self.directory = None if directory is None else Path(directory)
        self._tokenizer, self._batch_size = tokenizer, batch_size
        self._readings: dict[str, dict[int, xr.Dataset]] = {}
        self._model: Model | None = None
        self._handler: CallbackHandler | None = None

    @property
    def trajectory(self) -> xr.Dataset:
        """What was read at the output so far: ``read_logits`` along ``step``, for ``mechmask.draw.trajectory``.

        Raises:
            ReadingError: if nothing was read yet.
        """
        return along_steps(self._readings.get("output", {}))

    @property
    def depth_trajectory(self) -> xr.Dataset:
        """What was read at every layer so far: ``read_depth`` along ``step``, for ``mechmask.draw.checkpoints``.

        Raises:
            ReadingError: if nothing was read yet, or ``depth`` is off.
        """
        return along_steps(self._readings.get("depth", {}))

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        processing_class: Any = None,
        **_: Any,
    ) -> None:
        """Make the model readable, take up the trajectory of the checkpoint that the run goes on from, and read.

        Args:
            args: the run's arguments.
            state: how far it is.
            control: what it does next.
            model: what is trained.
            processing_class: the trainer's tokenizer.
            **_: what else the trainer gives.

        Raises:
            ReadingError: if the weights are sharded over processes, or a reading disagrees with the model's own output.
            ModelError: if there is no tokenizer, or the model cannot be read.
            RouteError: if a value cannot be told from the prompt or from its rival.
            StudyError: if ``directory`` holds the trajectory of another run, or the checkpoint's is of other facts.
        """
        if state.is_world_process_zero:
            self._handler = _calling_handler()
            self._model = _readable(model, self._tokenizer or processing_class)
            self._readings = self._taken_up(args, state.global_step)
        self._read(args, state, control)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Read at every so many steps, and where the run says that this was its last.

        Args:
            args: the run's arguments.
            state: how far it is.
            control: what it does next.
            **_: what else the trainer gives.
        """
        if state.global_step % self.every == 0 or control.should_training_stop:
            self._read(args, state, control)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Read after the last step, unless the trainer has put its best checkpoint in the place of the last state.

        Args:
            args: the run's arguments.
            state: how far it is.
            control: what it does next.
            **_: what else the trainer gives.
        """
        if not args.load_best_model_at_end:
            self._read(args, state, control)
        self._model = self._handler = None  # the callback can be copied and pickled, and holds no model

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:  # noqa: ARG002
        """Put the trajectory beside the weights of a checkpoint.

        Args:
            args: the run's arguments.
            state: how far it is.
            control: what it does next.
            **_: what else the trainer gives.
        """
        checkpoint = _checkpoint(args, state.global_step)
        if state.is_world_process_zero and self._readings and checkpoint.is_dir():
            self._save(checkpoint)

    def _read(self, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> None:
        if self._model is not None and state.global_step not in self._readings.get("output", {}):
            self._read_now(self._model, args, state, control)
        if dist.is_available() and dist.is_initialized():
            dist.barrier()  # a process that went on might be done, and gone, before this one asks it for something

    def _read_now(self, model: Model, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> None:
        step = state.global_step
        with _own_precision(model.module):
            if self.depth:
                output, depth = read_logits_and_depth(model, self.facts, batch_size=self._batch_size)
                self._readings.setdefault("depth", {})[step] = depth
            else:
                output = read_logits(model, self.facts, batch_size=self._batch_size)
        self._readings.setdefault("output", {})[step] = output
        if self.directory is not None:
            self._save(self.directory)
        self._log(means(output), args, state, control)

    def _log(
        self, values: Mapping[str, float], args: TrainingArguments, state: TrainerState, control: TrainerControl
    ) -> None:
        """To the trainer's history and to every other callback, as the trainer's own numbers are."""
        logs = dict(values)
        if state.epoch is not None:
            logs["epoch"] = state.epoch
        state.log_history.append({**logs, "step": state.global_step})
        if self._handler is not None:
            asked = control.should_log, control.should_evaluate, control.should_save
            self._handler.call_event("on_log", args, state, control, logs=logs)
            control.should_log, control.should_evaluate, control.should_save = asked

    def _save(self, directory: Path) -> None:
        for name, readings in self._readings.items():
            save_reading(along_steps(readings).assign_attrs(self._asked()), directory / _FILES[name])

    def _asked(self) -> dict[str, Any]:
        return {"facts": self.facts.fingerprint()}

    def _taken_up(self, args: TrainingArguments, step: int) -> dict[str, dict[int, xr.Dataset]]:
        """What was read up to a step by the run that goes on."""
        places = [_checkpoint(args, step)] if step else []
        if self.directory is not None and (self.directory / _FILES["output"]).is_file():
            if not step:
                raise StudyError(
                    f"{self.directory} holds the trajectory of another run already. Name another directory, or remove "
                    "it."
                )
            places.append(self.directory)
        found = next((place for place in places if (place / _FILES["output"]).is_file()), None)
        if found is None:
            if step:
                warnings.warn(
                    f"The run goes on at step {step} and no trajectory lies beside that checkpoint, so it begins here.",
                    stacklevel=2,
                )
            return {}
        names = ("output", "depth") if self.depth else ("output",)
        return {name: self._loaded(found / _FILES[name], step) for name in names}

    def _loaded(self, path: Path, step: int) -> dict[int, xr.Dataset]:
        course = load_reading(path)
        if course.attrs.pop("facts", None) != self.facts.fingerprint():
            raise StudyError(
                f"The trajectory in {path} is of other facts. Give the facts that the run began with, or another "
                "directory."
            )
        return {int(n): _at(course, int(n)) for n in course.step.values if n <= step}


def means(reading: xr.Dataset) -> dict[str, float]:
    """What is logged of a reading: means over the facts of each role, without those that no fact has.

    Args:
        reading: ``logprob[fact, route]`` in nats and so on, as ``read_logits`` returns it.
    """
    found = {}
    for role in dict.fromkeys(map(str, reading.role.values)):
        of = reading.isel(fact=np.flatnonzero(reading.role.values == role))
        numbers = {f"logp_{route}": of.logprob.sel(route=route) for route in ("old", "new")}
        numbers |= {name: of[name] for name in _LOGGED}
        numbers["rank_old"] = of["rank"].sel(route="old")
        numbers |= {f"recalled_{route}": of.recalled.sel(route=route) for route in ("old", "new")}
        found |= {f"contest/{role}/{name}": float(values.mean("fact")) for name, values in numbers.items()}
    return {name: value for name, value in found.items() if np.isfinite(value)}


def _at(course: xr.Dataset, step: int) -> xr.Dataset:
    """The reading at one step, as it was before it was joined."""
    reading = course.sel(step=step).drop_vars("step")
    return reading.drop_vars("fingerprint").assign_attrs(fingerprint=str(reading.fingerprint.item()))


def _checkpoint(args: TrainingArguments, step: int) -> Path:
    return Path(args.output_dir or ".") / f"checkpoint-{step}"


def _readable(module: nn.Module | None, tokenizer: object) -> Model:
    """The model that is trained, as readings take it.

    Raises:
        ReadingError: if its weights are sharded over processes.
        ModelError: if there is no tokenizer, or the model cannot be read.
    """
    module = getattr(module, "module", module)  # under a wrapper of torch's own
    if not isinstance(module, nn.Module):
        raise ReadingError("The trainer has no model, so nothing can be read.")
    sharded = next((n for n, p in module.named_parameters() if not p.numel() or hasattr(p, "device_mesh")), None)
    if sharded is not None:
        raise ReadingError(
            f"{sharded} is sharded over processes (FSDP, or DeepSpeed's stage 3), so no process can read the model. "
            "Read the run's checkpoints with load_checkpoints, or train with DDP."
        )
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        tokenizer = getattr(tokenizer, "tokenizer", None)  # a processor of a multimodal model has one
    return load_model(module, tokenizer=tokenizer)  # pyright: ignore[reportArgumentType]


@atomic_context
def _own_precision(module: nn.Module) -> Iterator[None]:
    """Inside, the module computes as it does without the autocast that accelerate put around its ``forward``."""
    wrapped = vars(module).get("forward")
    if wrapped is None or "_original_forward" not in vars(module):
        yield
        return
    del module.forward
    try:
        yield
    finally:
        module.forward = wrapped


def _calling_handler() -> CallbackHandler | None:
    """Who calls the callback, which the trainer does not tell it, and by which the other callbacks are reached."""
    frame = sys._getframe(1)
    for _ in range(_FRAMES):
        if frame is None:
            break
        caller = frame.f_locals.get("self")
        if isinstance(caller, CallbackHandler):
            return caller
        frame = frame.f_back
    warnings.warn(
        "The trainer's other callbacks are not reached, so what is read goes into its log_history alone.", stacklevel=2
    )
    return None
