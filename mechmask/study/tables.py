"""The readings of a study joined into its results: one trajectory, one depth reading, one table of what was erased.

Labelled arrays in, labelled arrays out; no model and no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import xarray as xr

from mechmask.measure.commit import commit_layer
from mechmask.measure.erase import erase_index


def concatenated(readings: Iterable[xr.Dataset], dim: str, labels: Iterable[object]) -> xr.Dataset:
    """Readings along a new dimension; attributes in which they differ are left out.

    Args:
        readings: what is joined. One that lacks a label which others have is missing there.
        dim: the dimension.
        labels: one for each reading.
    """
    axis = xr.DataArray(list(labels), dims=dim, name=dim)
    return cast("xr.Dataset", xr.concat(list(readings), axis, join="outer", combine_attrs="drop_conflicts"))


def joined_trajectory(phases: Mapping[str, Mapping[int, xr.Dataset]]) -> xr.Dataset:
    """The readings of successive trainings along one axis of optimizer steps.

    Args:
        phases: for each training, by its name and in order, the reading at each of its checkpoints. The first reading
            of a later training is the last one of the training before it, and left out.

    Returns:
        The readings with ``step`` as a further dimension and ``phase`` beside it; ``attrs["onset_step"]`` is where the
        last training began.
    """
    onset, pieces = 0, []
    for phase, readings in phases.items():
        numbers = sorted(readings)
        onset = int(pieces[-1].step[-1]) if pieces else 0
        pieces += [
            readings[number].expand_dims(step=[onset + number]).assign_coords(phase=("step", [phase]))
            for number in (numbers[1:] if pieces else numbers)
        ]
    return xr.concat(pieces, "step", combine_attrs="drop_conflicts").assign_attrs(onset_step=onset)


def by_method(readings: Mapping[str, xr.Dataset], methods: Mapping[str, str]) -> dict[str, xr.Dataset]:
    """The readings of states that one method made, joined along ``fact``.

    Args:
        readings: by the name of their state; those of one method are of different facts.
        methods: the method of every state.
    """
    groups: dict[str, list[xr.Dataset]] = {}
    for name, reading in readings.items():
        groups.setdefault(methods[name], []).append(reading)
    return {
        method: group[0]
        if len(group) == 1
        else xr.concat(group, "fact", data_vars="all", combine_attrs="drop_conflicts")
        for method, group in groups.items()
    }


def by_state(parts: Mapping[str, xr.Dataset]) -> xr.Dataset:
    """Datasets of several states along a dimension ``state``, each variable given the dimension ``fact``."""
    spread = [
        part.assign({n: v.broadcast_like(part.fact) for n, v in part.data_vars.items()}) for part in parts.values()
    ]
    return concatenated(spread, "state", parts)


def erase_table(
    before: xr.Dataset,
    after: Mapping[str, xr.Dataset],
    depth: xr.Dataset,
    methods: Mapping[str, str],
    **options: Any,
) -> xr.Dataset:
    """Erase index, verdict and commit layer of every contradicted fact under every change.

    Args:
        before: output reading of all facts before the changes, over phrasings.
        after: the same after each change, by the name of its state; an edit of one fact is read with that fact and the
            facts that are not contradicted.
        depth: the contest at every layer ``[state, fact, phrasing, route, layer]``, states by method.
        methods: the method of every state of ``after``.
        **options: of ``erase_index``.

    Returns:
        ``erase_index`` of every method along ``state``, with ``recalled`` and, in layers, ``commit_layer`` of the
        prompt and its range over phrasings, ``commit_low`` and ``commit_high``, all ``[state, fact]``.
    """
    judged = {}
    for name, reading in after.items():
        result = erase_index(before.sel(fact=reading.fact), reading, **options)
        recalled = reading.recalled.sel(route="new", phrasing=0, drop=True)
        judged[name] = result.assign(recalled=recalled.sel(fact=result.fact))
    rows = by_method(judged, methods)
    committed = commit_layer(depth, "new").sel(state=list(rows))
    return by_state(rows).assign(
        commit_layer=committed.sel(phrasing=0, drop=True),
        commit_low=committed.min("phrasing"),
        commit_high=committed.max("phrasing"),
    )
