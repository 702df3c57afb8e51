"""A state of a run as it would be with its weights in narrower types: what any correction can be judged under again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mechmask.measure.precision import CONTROL
from mechmask.progress import progress_bar
from mechmask.study.run import Run
from mechmask.study.states import StudyState, require_as_it_came, require_of_run, state_of_step
from mechmask.study.step import Settings, Step
from mechmask.write.round_trip import AlreadyRoundedError, round_trip
from mechmask.write.rounding import PRECISIONS, require_precision


def each_precision(run: Run, state: StudyState, precisions: Sequence[str] = PRECISIONS) -> dict[str, StudyState]:
    """A state as it is, and with the linear maps of its blocks rounded to each type and back.

    Args:
        run: where the round trips are kept.
        state: such as ``train`` returned, or ``untouched(run)``.
        precisions: of ``bfloat16``, ``int8`` and ``nf4``.

    Returns:
        By name, ``float32/finetune`` for the state itself first, then ``nf4/finetune`` and so on; ``method`` is the
        precision. Where a weight has the narrower type's numbers already, as where a model came in bfloat16, the
        rounded state is the state itself.

    Raises:
        ChangeError: if a precision is not known, or a weight is not a finite number.
        StudyError: if the state is of another model, or the model was changed while the run was open.
    """
    require_of_run(run, state)
    for precision in precisions:
        require_precision(precision)
    whole = replace(state, name=f"{CONTROL}/{state.name}", method=CONTROL)
    states = {whole.name: whole}
    with progress_bar(f"round {state.name}", len(precisions)) as bar:
        for precision in precisions:
            name = f"{precision}/{state.name}"
            step = _rounded(run, state, name, precision)
            if (step.directory / "change").is_dir():
                states[name] = state_of_step(step, state, name, precision, state.fact_ids)
            else:
                states[name] = replace(
                    state, name=name, method=precision, inputs={**state.inputs, step.name: step.digest}
                )
            bar(precision)
    return states


def _rounded(run: Run, state: StudyState, name: str, precision: str) -> Step:
    def make(directory: Path) -> dict[str, Any]:
        require_as_it_came(run, state)
        try:
            change = round_trip(state.state, precision)
        except AlreadyRoundedError:
            return {"relative_error": 0.0, "n_maps": 0}
        change.save(directory / "change")
        return change.details

    settings = Settings({"precision": precision}, {"precision": precision})
    return run.step(f"changes/{name}", settings, {**run.inputs, **state.inputs}, make)
