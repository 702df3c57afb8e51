"""The course of a correction: what became of every old value at each checkpoint, and where new had just won.

Shared by the protocols that correct facts step by step, whatever they hold them against. Labelled arrays in and out; no
model and no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import xarray as xr

from mechmask.measure.erase import erase_index
from mechmask.study.tables import by_state, concatenated


def course_of(readings: xr.Dataset, options: Mapping[str, Any], reference: xr.Dataset | None = None) -> xr.Dataset:
    """What became of every fact at every checkpoint, held against the first.

    Args:
        readings: ``logprob[step, fact, phrasing, route]`` and so on in nats, with ``twin`` in front where there are
            twins; the first step is before the correction.
        options: of ``erase_index``.
        reference: the same of a model that never held the contradicted facts, at the same steps of the same correction.

    Returns:
        What ``erase_index`` gives, along ``step``; ``won_step[fact]`` is the first checkpoint of the correction at
        which it took on a fact, NaN where it never did.
    """
    before = readings.isel(step=0, drop=True)

    def judged(step: Any) -> xr.Dataset:
        pair = None if reference is None else (reference.isel(step=0, drop=True), reference.sel(step=step))
        return erase_index(before, readings.sel(step=step), reference=pair, **options)

    along = [judged(step) for step in readings.step.values]
    joined = concatenated(along, "step", readings.step.values.tolist())
    corrected = joined.step > joined.step[0]  # that new leads before it is no win of the correction
    return joined.assign(won_step=joined.step.where(joined.took & corrected).min("step"))


def judged_states(course: xr.Dataset, edits: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """The correction where it has just won on each fact and where it was driven on, beside edits of the same facts.

    Args:
        course: what ``course_of`` returned.
        edits: what ``erase_index`` gave of each editor, by its name.

    Returns:
        The same along ``state``: ``won``, each fact at its own ``won_step`` (at the last one where it never won, on
        which it did not take then), ``driven_on``, all at the last step, and the editors.
    """
    last = course.step.values[-1]
    spread = course.map(lambda values: values.broadcast_like(course.fact))
    won = spread.sel(step=course.won_step.fillna(last).astype(course.step.dtype))
    states = {"won": won, "driven_on": course.isel(step=-1), **edits}
    return by_state({name: state.drop_vars(["step", "won_step"], errors="ignore") for name, state in states.items()})
