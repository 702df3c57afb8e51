"""What figures of changes share: one reading for each change, by name, drawn in a colour and line style each."""

from __future__ import annotations

from collections.abc import Mapping

import xarray as xr

from mechmask.draw.states import by_state, state_name
from mechmask.draw.style import SERIES, Look
from mechmask.errors import ReadingError

Changes = xr.Dataset | Mapping[str, xr.Dataset]


def by_change(readings: Changes, what: str) -> dict[str, xr.Dataset]:
    """The readings to draw, by what their change is called.

    Args:
        readings: one reading, which may have the dimension ``state``, or several by the name of their change.
        what: the figure, for an error's text.

    Raises:
        ReadingError: if there is none, or something else than readings, or two of one name.
    """
    if isinstance(readings, xr.Dataset):
        return by_state(readings, "the change")
    if not isinstance(readings, Mapping):
        raise ReadingError(
            f"{what} takes a reading (an xarray.Dataset) or several by name, not a {type(readings).__name__}. Give a "
            "dictionary from a change's name to its reading."
        )
    if not readings:
        raise ReadingError(f"{what} has no change to draw. Give at least one.")
    names = [state_name(name) for name in readings]
    if len(set(names)) < len(names):
        raise ReadingError(f"Two changes have one name in {', '.join(names)}. Give every change its own.")
    return dict(zip(names, readings.values(), strict=True))


def looks_of(names: Mapping[str, object], what: str) -> dict[str, Look]:
    """A look for each change.

    Raises:
        ReadingError: if there are more changes than looks.
    """
    if len(names) > len(SERIES):
        raise ReadingError(f"{what} tells {len(SERIES)} changes apart, these are {len(names)}. Give some of them.")
    return dict(zip(names, SERIES, strict=False))
