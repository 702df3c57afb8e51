"""The course of a correction: what became of every old value at each checkpoint, and where new had just won.

Shared by the protocols that correct facts step by step, whatever they hold them against. Labelled arrays in and out; no
model and no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from mechmask.measure.erase import erase_index
from mechmask.study.tables import by_state, concatenated


def course_of(readings: xr.Dataset, won_margin: float, options: Mapping[str, Any]) -> xr.Dataset:
    """What became of every fact at every checkpoint, held against the first.

    Args:
        readings: ``logprob[step, fact, phrasing, route]`` and ``margin`` in nats, with ``twin`` in front where there
            are twins; the first step is before the correction.
        won_margin: nats by which new leads old in the mean where the correction has just won.
        options: of ``erase_index``.

    Returns:
        What ``erase_index`` gives, along ``step``; ``attrs["won_step"]`` is the first checkpoint at which the mean
        margin on the prompt is that large, NaN if none is.
    """
    before = readings.isel(step=0, drop=True)
    along = [erase_index(before, readings.sel(step=step), **options) for step in readings.step.values]
    contradicted = readings.isel(fact=np.flatnonzero(readings.role.values == "contradicted"), phrasing=0)
    margins = contradicted.margin.mean([dim for dim in contradicted.margin.dims if dim != "step"])
    won = margins.values >= won_margin
    step = float(readings.step.values[won][0]) if won.any() else np.nan
    joined = concatenated(along, "step", readings.step.values.tolist())
    return joined.assign_attrs(won_step=step, won_margin=won_margin)


def judged_states(course: xr.Dataset, edits: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """The correction where it has just won and where it was driven on, beside edits of the same facts.

    Args:
        course: what ``course_of`` returned.
        edits: what ``erase_index`` gave of each editor, by its name.

    Returns:
        The same along ``state``: ``won`` (left out where new never won), ``driven_on``, and the editors.
    """
    won_step = course.attrs["won_step"]
    won = {} if np.isnan(won_step) else {"won": course.sel(step=won_step)}
    states = {**won, "driven_on": course.isel(step=-1), **edits}
    return by_state({name: state.drop_vars("step", errors="ignore") for name, state in states.items()})
