"""What was read of every fact under its own edit, side by side, in the twin that knew it.

An edit that failed left the model as it was, so that fact counts with what was read before: an editor is not praised
for the facts that it refused. What running text costs is of the edits that were made.

Labelled arrays in and out; no model and no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import xarray as xr

from mechmask.measure.trace import TWIN
from mechmask.study.tables import concatenated

BEFORE = "before"
_MISSING = {"text": "", "value": "", "token": "", "n_tokens": 0, "top_token": -1}


@dataclass(frozen=True)
class Edited:
    """What was read under one edit.

    Attributes:
        facts: ids of those that were edited.
        readings: by the name of the ruler; by the name of the twin before that (one of an empty name without twins).
            Empty where the edit failed.
        failures: what the editor said, by the id of the fact that it could not edit.
    """

    facts: tuple[str, ...]
    readings: Mapping[str, Mapping[str, xr.Dataset]]
    failures: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Start:
    """What was read before any edit.

    Attributes:
        readings: as of ``Edited``.
        output: the output reading of all facts; of twins, along ``twin`` with ``knew[twin, fact]``.
        shares: ids of the contradicted facts that each twin knows, by its name.
    """

    readings: Mapping[str, Mapping[str, xr.Dataset]]
    output: xr.Dataset
    shares: Mapping[str, Sequence[str]]

    @property
    def facts(self) -> list[str]:
        """Ids of the contradicted facts, in the order of the study."""
        known = {fact for share in self.shares.values() for fact in share}
        return [fact for fact in self.output.fact.values.tolist() if fact in known]


def output_of(start: Start, edit: Edited) -> xr.Dataset:
    """The output reading after an edit, of twins along ``twin``; that from before where the edit failed.

    Args:
        start: what was read before.
        edit: the edit.
    """
    if not edit.readings:
        rest = start.output.fact.values[start.output.role.values != "contradicted"].tolist()
        return start.output.sel(fact=[*edit.facts, *rest])
    read = {twin: of["output"] for twin, of in edit.readings.items()}
    if TWIN not in start.output.dims:
        return next(iter(read.values()))
    return concatenated(list(read.values()), TWIN, read)


def own_readings(start: Start, edits: Iterable[Edited], ruler: str) -> list[xr.Dataset]:
    """What one ruler said of every edited fact, in the twin that knew it; before, where its edit failed.

    Args:
        start: what was read before.
        edits: of one editor.
        ruler: ``output``, ``depth``, ``editing`` or ``generations``.

    Returns:
        Readings ``[fact, ...]``, in the order of the study's facts; where there are twins, of a fact each.
    """
    parts = []
    for edit in edits:
        read = edit.readings or start.readings
        for twin, share in start.shares.items():
            facts = [fact for fact in edit.facts if fact in set(share)]
            apart = [[fact] for fact in facts] if len(start.shares) > 1 else [facts]
            parts += [read[twin][ruler].sel(fact=some) for some in apart if some]
    order = {fact: number for number, fact in enumerate(start.facts)}
    return sorted(parts, key=lambda part: order[str(part.fact.values[0])])


def depth_of(start: Start, edits: Iterable[Edited]) -> xr.Dataset:
    """The depth reading of every fact under its own edit, in the twin that knew it.

    Args:
        start: what was read before.
        edits: of one editor.

    Returns:
        ``logprob[fact, phrasing, route, layer]`` and ``margin[fact, phrasing, layer]`` in nats.
    """
    return joined_facts(own_readings(start, edits, "depth"))


def editing_of(start: Start, edits: Iterable[Edited]) -> xr.Dataset:
    """What ``read_editing`` gave of every fact under its own edit, prompts of one kind below each other.

    Args:
        start: what was read before.
        edits: of one editor.

    Returns:
        ``nll[fact, prompt, route]`` in nats and what stands beside it; NaN where a fact has fewer prompts than others.
    """
    return joined_prompts(own_readings(start, edits, "editing"))


def generations_of(start: Start, edits: Iterable[Edited]) -> xr.Dataset:
    """The texts about every fact under its own edit.

    Args:
        start: what was read before.
        edits: of one editor.

    Returns:
        ``text[fact, generation]``; an empty text is none.
    """
    return joined_facts(own_readings(start, edits, "generations"))


def joined_facts(parts: Sequence[xr.Dataset]) -> xr.Dataset:
    """Readings along ``fact``; a text that some of them lack is empty there.

    Args:
        parts: ``[fact, ...]``, in order.
    """
    if len(parts) == 1:
        return parts[0]
    joined = cast(
        "xr.Dataset",
        xr.concat(
            parts,
            "fact",
            data_vars="all",
            coords="different",
            compat="equals",
            join="outer",
            combine_attrs="drop_conflicts",
        ),
    )
    texts = {
        name: (variable.dims, np.where(variable.isnull().values, "", variable.values).astype(str))
        for name, variable in joined.variables.items()
        if variable.dtype.kind == "O"
    }
    return joined.assign({name: of for name, of in texts.items() if name in joined.data_vars}).assign_coords(
        {name: of for name, of in texts.items() if name in joined.coords}
    )


def joined_prompts(readings: Sequence[xr.Dataset]) -> xr.Dataset:
    """Readings of ``read_editing`` joined along ``fact``: each has as many prompts of a kind as the fullest.

    Args:
        readings: ``nll[fact, prompt, route]`` in nats and more, each with its own prompts.

    Returns:
        One reading, with missing values where a fact has no such prompt, as ``read_editing`` has them.
    """
    most: dict[str, int] = {}
    for reading in readings:
        for group in reading.group.values.tolist():
            most[group] = max(most.get(group, 0), reading.group.values.tolist().count(group))
    columns = [(group, number) for group, n in most.items() for number in range(n)]
    longest = max(reading.sizes["value_token"] for reading in readings)
    parts = [_with_columns(reading, columns, longest) for reading in readings]
    joined = cast("xr.Dataset", xr.concat(parts, "fact", data_vars="all", coords="different", compat="equals"))
    return joined.assign_coords(
        prompt=range(len(columns)), group=("prompt", [group for group, _ in columns])
    ).assign_attrs(_shared(readings))


def joined_states(states: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Readings of the same facts along ``state``.

    Args:
        states: by the name of the state, ``[fact, ...]`` in any unit.
    """
    return concatenated(list(states.values()), "state", states)


def _with_columns(reading: xr.Dataset, columns: Sequence[tuple[str, int]], longest: int) -> xr.Dataset:
    """A reading of ``read_editing`` with these columns, as kind and number within it."""
    groups = reading.group.values.tolist()
    own = [(group, groups[:place].count(group)) for place, group in enumerate(groups)]
    reading = reading.drop_vars("prompt", errors="ignore")  # numbers of columns, which are not these
    place = xr.DataArray([own.index(column) if column in own else -1 for column in columns], dims="prompt")
    there = place >= 0
    parts = {}
    for name in ("nll", "token_accuracy", "exact", "top_token", "text", "value", "token", "n_tokens"):
        taken = reading[name].reset_coords(drop=True).isel(prompt=place.clip(0))
        parts[name] = taken.where(there, _MISSING.get(name, np.nan))
    parts["top_token"] = parts["top_token"].pad(
        value_token=(0, longest - reading.sizes["value_token"]), constant_values=-1
    )
    laid = xr.Dataset(parts).assign_coords(
        {name: reading[name] for name in reading.coords if reading[name].dims == ("fact",)}
    )
    return laid.set_coords(["text", "value", "token", "n_tokens"])


def _shared(readings: Sequence[xr.Dataset]) -> dict[str, Any]:
    """The attributes that all readings have alike."""
    first, *others = (reading.attrs for reading in readings)
    return {name: value for name, value in first.items() if all(of.get(name) == value for of in others)}
