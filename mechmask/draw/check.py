"""What a figure asks of a reading before it draws: variables with their dimensions, the two routes, a level.

Each is refused in one sentence that names the figure, what was given and what to give.
"""

from __future__ import annotations

import xarray as xr

from mechmask.errors import ReadingError
from mechmask.measure.reading import require


def require_level(level: float) -> None:
    """Refuse what is not a confidence level.

    Raises:
        ReadingError: if it is not between 0 and 1.
    """
    if not 0 < level < 1:
        raise ReadingError(f"level={level} is not a confidence level. Give a number between 0 and 1, such as 0.95.")


def require_shape(reading: xr.Dataset, what: str, variable: str, dims: tuple[str, ...]) -> None:
    """Refuse a variable that has other dimensions than a figure can draw, or nothing along one of them.

    Raises:
        ReadingError: naming the variable's dimensions and those drawn.
    """
    present = tuple(map(str, reading[variable].dims))
    if set(present) != set(dims):
        other, wanting = [dim for dim in present if dim not in dims], [dim for dim in dims if dim not in present]
        remedy = f"Select one {' and one '.join(other)}." if other else f"Keep the dimension {', '.join(wanting)}."
        raise ReadingError(
            f"{what} draws {variable}[{', '.join(dims)}], this reading has {variable}[{', '.join(present)}]. {remedy}"
        )
    empty = [dim for dim in dims if not reading.sizes[dim]]
    if empty:
        raise ReadingError(
            f"{what} has nothing to draw: the reading has no {' and no '.join(empty)}. Give at least one."
        )


def require_routes(reading: xr.Dataset, what: str) -> None:
    """Refuse a reading without the two routes that contest.

    Raises:
        ReadingError: naming the route that is missing.
    """
    missing = [name for name in ("old", "new") if name not in reading.route.values]
    if missing:
        routes = ", ".join(map(str, reading.route.values))
        raise ReadingError(f"{what} needs the route {' and '.join(missing)}, which is not among {routes}. Read both.")


def contest_along(
    reading: xr.Dataset, what: str, along: str = "layer", *, extra: tuple[str, ...] = (), with_margin: bool = True
) -> xr.Dataset:
    """The facts of a contest that a figure draws, once they are known to be drawable.

    Args:
        reading: ``logprob[fact, route, along, *extra]`` and ``margin[fact, along, *extra]`` in nats.
        what: the figure, for an error's text.
        along: ``layer``, or ``depth`` where models of different height share it.
        extra: further dimensions, such as ``state`` or ``step``.
        with_margin: whether the figure draws the margin.

    Raises:
        ReadingError: if the reading lacks one of these, or has other dimensions.
    """
    variables = ("logprob", "margin") if with_margin else ("logprob",)
    require(reading, what, variables=variables, dims=("fact", "route", along, *extra))
    reading = drawn_facts(reading)
    require_shape(reading, what, "logprob", ("fact", "route", along, *extra))
    if with_margin:
        require_shape(reading, what, "margin", ("fact", along, *extra))
    require_routes(reading, what)
    return reading


def drawn_facts(reading: xr.Dataset) -> xr.Dataset:
    """The prompt itself where there are phrasings, and the contradicted facts where there are any."""
    if "phrasing" in reading.dims:
        reading = reading.isel(phrasing=0, drop=True)
    if "role" in reading.coords and (reading.role == "contradicted").any():
        reading = reading.isel(fact=(reading.role == "contradicted").values.nonzero()[0])
    return reading
