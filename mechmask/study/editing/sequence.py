"""What is counted along the edits themselves: how a sequence of them wears a model down, and what each of them cost.

Labelled arrays in and out; no model and no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from mechmask.measure.editing import editing_scores
from mechmask.measure.statistics import Interval
from mechmask.study.editing.aligned import Edited, Start, editing_of
from mechmask.study.editing.rows import NOTHING, interval_columns, intervals, mean_of, row_of_text

_METRICS = ("efficacy_score", "paraphrase_score", "neighborhood_score", "kl", "perplexity_ratio")


def sequence_of(start: Start, methods: Mapping[str, Mapping[int, Edited]], level: float) -> xr.Dataset:
    """How a sequence of edits wears a model down.

    Args:
        start: what was read before.
        methods: by editor and number of edits what was read after so many; ``facts`` are those edited so far.
        level: of the intervals.

    Returns:
        ``estimate``, ``low``, ``high`` and the count ``n`` over ``state``, ``edits`` (a count, 0 before any) and
        ``metric``: ``efficacy_score`` and ``paraphrase_score`` of the facts edited so far, ``neighborhood_score`` of
        the neighbors of all facts (shares), and where a text was read ``kl`` (nats per token) and
        ``perplexity_ratio``. ``n_edited_neighbors[edits]`` counts the neighbors' prompts that are left out of
        ``neighborhood_score`` as phrasings of other facts edited so far.
    """
    numbers = sorted({0, *(number for of in methods.values() for number in of)})
    cells, n_left_out = [], dict.fromkeys(numbers, 0)
    for of in methods.values():
        row = []
        for number in numbers:
            found: dict[str, Interval] = {}
            if number in of or not number:
                found, n_left_out[number] = _after(start, of.get(number, Edited((), {})), level)
            row.append([found.get(name, NOTHING) for name in _METRICS])
        cells.append(row)
    columns = interval_columns(cells, ("state", "edits", "metric"))
    labels = {"state": list(methods), "edits": numbers, "metric": list(_METRICS)}
    counts = ("edits", [n_left_out[number] for number in numbers])
    return xr.Dataset({**columns, "n_edited_neighbors": counts}, labels, {"level": level})


def _after(start: Start, edit: Edited, level: float) -> tuple[dict[str, Interval], int]:
    """The metrics after some edits of a sequence, and how many neighbors' prompts are left out as edited themselves."""
    whole = editing_of(start, [Edited(tuple(start.facts), edit.readings)])
    scores = editing_scores(whole, level=level, edited=edit.facts)
    found = {"neighborhood_score": intervals(scores)["neighborhood_score"]}
    found |= row_of_text(start, [edit], level, together=True)
    if edit.facts:
        so_far = intervals(editing_scores(whole.sel(fact=list(edit.facts)), level=level))
        found |= {name: so_far[name] for name in ("efficacy_score", "paraphrase_score")}
    return found, scores.attrs["n_edited_neighbors"]


def costs_of(costs: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], level: float) -> xr.Dataset:
    """What every editor cost, as it was measured.

    Args:
        costs: by editor, ``edit`` and ``prepare``: seconds and bytes of every call that was measured.
        level: of the intervals.

    Returns:
        ``estimate``, ``low``, ``high`` and the count ``n`` of calls over ``state`` and ``metric``: ``seconds`` a fact
        and ``memory_bytes`` of an edit, ``prepare_seconds`` and ``prepare_memory_bytes`` of making the editor ready;
        with ``unit[metric]``.
    """
    kinds = {"": "edit", "prepare_": "prepare"}
    units = {
        f"{prefix}{name}": unit for prefix in kinds for name, unit in (("seconds", "s"), ("memory_bytes", "bytes"))
    }
    rows = []
    for of in costs.values():
        row = []
        for kind in kinds.values():
            measured = np.array(of.get(kind, ()), dtype=float).reshape(-1, 2)
            row += [mean_of(measured[:, column], level) for column in (0, 1)]
        rows.append(row)
    labels = {"state": list(costs), "metric": list(units), "unit": ("metric", list(units.values()))}
    return xr.Dataset(interval_columns(rows, ("state", "metric")), labels, {"level": level})
