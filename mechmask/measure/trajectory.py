"""Readings of one model at several optimizer steps, joined along ``step``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import xarray as xr

from mechmask.errors import ReadingError
from mechmask.measure.reading import require

_OF_A_STEP = "fingerprint"  # an attribute of a reading that is another one at each step


def along_steps(readings: Mapping[int, xr.Dataset]) -> xr.Dataset:
    """The readings with ``step`` as a further dimension, in ascending order.

    Args:
        readings: by the number of optimizer steps; of the same facts in the same order.

    Returns:
        Every variable ``[step, ...]``; ``fingerprint[step]``, of what was read, is a coordinate. Attributes in
        which the readings differ are left out.

    Raises:
        ReadingError: if there is none, or they are of other facts or another score.
    """
    if not readings:
        raise ReadingError("A trajectory needs readings at one step or more, and there is none.")
    pieces = []
    first = readings[min(readings)]
    for step in sorted(readings):
        reading = readings[step]
        require(reading, "A trajectory", dims=("fact",))
        if not reading.fact.equals(first.fact) or reading.attrs.get("score") != first.attrs.get("score"):
            raise ReadingError(
                f"The reading at step {step} is of other facts or another score than that at step {min(readings)}. "
                "Read all steps alike."
            )
        fingerprint = ("step", [str(reading.attrs.get(_OF_A_STEP, ""))])
        pieces.append(reading.expand_dims(step=[step]).assign_coords({_OF_A_STEP: fingerprint}))
    return cast("xr.Dataset", xr.concat(pieces, "step", join="exact", combine_attrs="drop_conflicts"))
