"""What was read of facts that ways of changing have brought to a dose: where it lies in a run, and how it is taken up.

No model and no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import xarray as xr

from mechmask.measure.reading import load_reading
from mechmask.study.step import Step, file_in

DOSES = ("matched", "driven_on")
REACHED, LED_BEFORE = "reached", "led_before"


class Under(NamedTuple):
    """What was read under one way at one dose.

    Attributes:
        readings: by the id of the changed fact what ``read_asked`` gave of it and of all that no way changes.
        reached: ids of the facts on which the dose was reached; the others were read where the way ended.
    """

    readings: Mapping[str, xr.Dataset]
    reached: frozenset[str]


def file_of(dose: str, number: int) -> str:
    """The file of a reading in the step of a way."""
    return f"{dose}/{number:04d}.nc"


def under_way(steps: Mapping[str, Step], dose: str) -> Under:
    """What was read of each fact at a dose; where it was not reached, at the end of the way.

    Args:
        steps: the step of the way that holds a fact, by its id.
        dose: one of ``DOSES``.
    """
    readings, reached = {}, set()
    for fact, step in steps.items():
        details = step.details["facts"][fact]
        if dose != DOSES[0] or details["status"] == REACHED:
            reached.add(fact)
        at = dose if fact in reached else DOSES[-1]
        readings[fact] = load_reading(file_in(step, file_of(at, details["number"])))
    return Under(readings, frozenset(reached))


def matched_of(ways: Mapping[str, Mapping[str, Step]], edited: Sequence[str], facts: Sequence[str]) -> xr.Dataset:
    """How far every way went on every fact.

    Args:
        ways: the step that holds a fact, by way and fact.
        edited: which ways are edits.
        facts: all facts; those that no way was tried on had new in the lead before.

    Returns:
        ``status[way, fact]`` (texts), ``margin`` and ``margin_driven_on`` in nats, ``step`` (optimizer steps, -1 where
        the margin was not reached) and ``scale``, the share of that step's change; ``edited[way]``.
    """
    missing = {"status": LED_BEFORE, "margin": np.nan, "margin_driven_on": np.nan, "step": -1, "scale": np.nan}
    found = [{fact: step.details["facts"][fact] for fact, step in steps.items()} for steps in ways.values()]
    variables = {
        name: (("way", "fact"), np.array([[of.get(fact, {}).get(name, value) for fact in facts] for of in found]))
        for name, value in missing.items()
    }
    is_edit = ("way", [way in edited for way in ways])
    return xr.Dataset(variables, {"way": list(ways), "fact": list(facts), "edited": is_edit})
