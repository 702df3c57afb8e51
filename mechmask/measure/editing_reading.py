"""What an editing score asks of a reading of ``read_editing``, and which of its prompts count.

Facts that were not contradicted were not edited and do not count. Nor does a neighbor's prompt that is a phrasing of
another fact edited in the same state: its answer is supposed to change. It is known by its text; one that asks the same
in other words is not noticed, and counts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
import xarray as xr

from mechmask.errors import ReadingError
from mechmask.measure.reading import require, require_same
from mechmask.measure.statistics import several_draws

_PER_ROUTE = ("fact", "prompt", "route")
_DIMS = {
    **dict.fromkeys(("nll", "token_accuracy", "exact", "n_tokens"), _PER_ROUTE),
    "top_token": (*_PER_ROUTE, "value_token"),
    "text": ("fact", "prompt"),
    "group": ("prompt",),
}
_NUMBERS = ("nll", "token_accuracy", "exact", "n_tokens", "top_token")
_NOT_READ = {"n_tokens": 0, "top_token": -1}
_ROUNDING = 1e-4  # nats by which a log-probability in float32 may be above 0


def require_editing(reading: xr.Dataset, what: str) -> None:
    """Refuse what is no whole reading of ``read_editing``.

    Raises:
        ReadingError: naming ``what``, if a variable is missing, has other dimensions, is no number or a negative
            ``nll``, a value is not read, or facts are none or named alike.
    """
    require(reading, what, variables=tuple(_DIMS), dims=_PER_ROUTE)
    for name, dims in _DIMS.items():
        if set(reading[name].dims) != set(dims):
            found = ", ".join(map(str, reading[name].dims)) or "none"
            raise ReadingError(
                f"{what} needs {name} over {', '.join(dims)}; here it has {found}. Give one state's reading, as "
                "read_editing returns it."
            )
    for name in _NUMBERS:
        if reading[name].dtype.kind not in "biuf":
            raise ReadingError(f"{what} needs numbers in {name}, not {reading[name].dtype}. Make the reading again.")
    routes = list(map(str, reading.route.values))
    if sorted(routes) != ["new", "old"]:
        raise ReadingError(f"{what} needs the routes old and new; this reading has {', '.join(routes)}. Read both.")
    facts = list(map(str, reading.fact.values))
    if not facts or len(set(facts)) < len(facts):
        raise ReadingError(f"{what} needs facts that are named apart, not {len(facts)} with {len(set(facts))} names.")
    if (reading.nll < -_ROUNDING).any():
        raise ReadingError(f"{what} needs negative log-probabilities in nll, and some here are below 0. Read again.")


def require_alike(readings: dict[str, xr.Dataset], what: str) -> None:
    """Refuse readings that were not asked the same.

    Args:
        readings: by what the caller calls them.
        what: the measurement.

    Raises:
        ReadingError: if one lacks something, or they are of other facts, prompts, values or tokens.
    """
    for name, reading in readings.items():
        require_editing(reading, f"{what} ({name})")
    require_same(readings, what, dims=_PER_ROUTE, coordinates=("group", "text", "value", "token"))


def is_contradicted(reading: xr.Dataset, what: str) -> np.ndarray:
    """Which facts were to be edited ``[fact]``; all of them in a reading that knows no roles.

    Raises:
        ReadingError: naming ``what``, if none was.
    """
    if "role" not in reading.variables:
        return np.ones(reading.sizes["fact"], dtype=bool)
    roles = np.broadcast_to(reading["role"].values, (reading.sizes["fact"],)).astype(str)
    if not (chosen := roles == "contradicted").any():
        raise ReadingError(
            f"{what} is of contradicted facts, and here are none, only {', '.join(sorted(set(roles)))}. Read the facts "
            "that were edited."
        )
    return chosen


def is_edited_neighbor(reading: xr.Dataset, what: str, edited: Iterable[str] | None) -> np.ndarray:
    """Which neighbors' prompts are a phrasing of another fact that is edited in the same state ``[fact, prompt]``.

    Args:
        reading: ``text[fact, prompt]`` and ``group[prompt]``; where ``seed[fact]`` says that facts are of several
            draws, each draw is a state of its own.
        what: the measurement.
        edited: ids of the facts that are edited; all contradicted ones by default.

    Raises:
        ReadingError: naming ``what``, if the reading has no such fact.
    """
    facts = list(map(str, reading.fact.values))
    rows = np.flatnonzero(is_contradicted(reading, what)) if edited is None else _rows(facts, edited, what)
    texts = reading.text.where(reading.text.notnull(), "").transpose("fact", "prompt").values.astype(str)
    groups = reading.group.values.astype(str)
    draws = reading["seed"].values.tolist() if several_draws(reading) else [None] * len(facts)
    owners: defaultdict[tuple[object, str], set[int]] = defaultdict(set)
    for column in np.flatnonzero(np.isin(groups, ("rewrite", "paraphrase"))):
        for row in rows:
            if texts[row, column]:  # empty where a fact has fewer prompts
                owners[draws[row], texts[row, column]].add(int(row))
    found = np.zeros(texts.shape, dtype=bool)
    for column in np.flatnonzero(groups == "neighborhood"):
        asked = zip(draws, texts[:, column], strict=True)
        found[:, column] = [bool(owners.get(key, set()) - {row}) for row, key in enumerate(asked)]
    return found


def only_where(reading: xr.Dataset, counts: np.ndarray) -> xr.Dataset:
    """The reading with everything else as if it had not been read.

    Args:
        reading: as ``read_editing`` returns it.
        counts: which prompts count, ``[fact, prompt]``.
    """
    there = xr.DataArray(counts, dims=("fact", "prompt"))
    kept = {name: reading[name].where(there, missing) for name, missing in _NOT_READ.items()}
    return reading.assign(
        kept | {name: reading[name].astype(float).where(there) for name in _NUMBERS if name not in kept}
    )


def _rows(facts: list[str], edited: Iterable[str], what: str) -> list[int]:
    numbers = {fact: number for number, fact in enumerate(facts)}
    rows = []
    for fact in [edited] if isinstance(edited, str) else edited:
        if fact not in numbers:
            raise ReadingError(f"{what}: {fact!r} was edited, and the reading has no such fact. Give ids of its facts.")
        rows.append(numbers[fact])
    return rows
