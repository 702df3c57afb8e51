"""The states of a study (before, after fine-tuning, after an edit) as a figure shows them: in turn, by name."""

from __future__ import annotations

import xarray as xr

from mechmask.draw.style import plain
from mechmask.errors import ReadingError
from mechmask.measure.names import state_name as name_in_print


def state_name(state: object) -> str:
    """What a reader calls a state: ``ft_l`` is FT-L, and one that has no other name is called what it is."""
    return plain(name_in_print(state))


def by_state(reading: xr.Dataset, otherwise: str) -> dict[str, xr.Dataset]:
    """The reading of every state by its name, or the whole reading as ``otherwise`` where it has no states.

    Raises:
        ReadingError: if two states would have one name.
    """
    if "state" not in reading.dims:
        return {otherwise: reading}
    names = [state_name(label) for label in reading.state.values]
    if len(set(names)) < len(names):
        raise ReadingError(f"Two states have one name in {', '.join(names)}. Give every state its own label.")
    return {name: reading.isel(state=i) for i, name in enumerate(names)}
