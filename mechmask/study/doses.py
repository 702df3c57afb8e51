"""The readings of every dose joined, and what they say: erase index, margin, and what else the dose cost.

Labelled arrays in and out; no model and no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from mechmask.measure.erase import erase_index
from mechmask.measure.trace import TWIN
from mechmask.study.tables import by_state, concatenated

BY_STEP, BY_SCALE = "step", "scale"
COORDINATES = ("path", "course", "by", "at", "step", "scale", "lr", "rank", "method")


def doses_of(readings: xr.Dataset, options: Mapping[str, Any]) -> xr.Dataset:
    """What became of every fact at every dose, and of what was not to change.

    Args:
        readings: ``logprob[dose, fact, phrasing, route]`` and so on in nats, ``text_nll[dose, sequence]`` in nats per
            token, ``n_tokens[sequence]`` and ``norm[dose]``, with ``twin`` as well where there are twins, and the
            coordinates of ``COORDINATES`` along ``dose``.
        options: of ``erase_index``.

    Returns:
        What ``erase_index`` gives, along ``dose``; ``margin[dose, fact]`` on the prompt and ``probability_new[dose,
        fact]``; ``control_drop[dose, control]``, the fall of ``logp(old)`` of each control; ``text_cost[dose,
        sequence]``, the rise of the negative log-probability of held-out text in nats per token, scaled so that the
        mean over sequences is that over tokens; ``norm[dose]`` of the change. All of the same course before it began.
    """
    rows = [_of_dose(readings, number, options) for number in range(readings.sizes["dose"])]
    joined = concatenated(rows, "dose", np.arange(len(rows)))
    return joined.assign_coords({name: readings[name] for name in COORDINATES})


def last_states(doses: xr.Dataset) -> xr.Dataset:
    """What became of the facts at the end of every course, along ``state``.

    Args:
        doses: what ``doses_of`` returned, with ``index[dose, fact]`` in nats and so on.
    """
    trained = doses.isel(dose=np.flatnonzero(doses.by.values == BY_STEP))
    last = {str(course): i for i, course in enumerate(trained.course.values)}
    kept = trained.drop_dims(["control", "sequence"]).drop_vars(["norm", "margin", "probability_new"])
    rows = {course: kept.isel(dose=i).drop_vars([*COORDINATES, "dose"]) for course, i in last.items()}
    return by_state(rows)


def _of_dose(readings: xr.Dataset, number: int, options: Mapping[str, Any]) -> xr.Dataset:
    same = readings.course.values == readings.course.values[number]
    start = np.flatnonzero(same & (readings.by.values == BY_STEP) & (readings.step.values == 0))[0]
    before, after = (readings.isel(dose=i).drop_vars(COORDINATES) for i in (start, number))
    text = ["text_nll", "n_tokens", "norm"]
    erase = erase_index(before.drop_vars(text), after.drop_vars(text), **options)
    found = _over_twins(after)
    tokens = found.n_tokens / found.n_tokens.mean("sequence")
    control = np.flatnonzero(after.role.values == "control")
    drop = (_old(before) - _old(after)).isel(fact=control)
    return erase.assign(
        margin=erase.logprob_new - erase.logprob_old,
        probability_new=np.exp(erase.logprob_new),
        control_drop=("control", drop.values),
        text_cost=("sequence", ((found.text_nll - _over_twins(before).text_nll) * tokens).values),
        norm=float(found.norm),
    ).assign_coords(control=drop.fact.values)


def _old(reading: xr.Dataset) -> xr.DataArray:
    return _over_twins(reading).logprob.sel(route="old", phrasing=0, drop=True)


def _over_twins(reading: xr.Dataset) -> xr.Dataset:
    numbers = reading[["logprob", "text_nll", "n_tokens", "norm"]]
    return numbers.mean(TWIN) if TWIN in reading.dims else numbers
