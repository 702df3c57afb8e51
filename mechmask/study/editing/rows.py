"""The rows of the tables of editors: what each ruler says of some edits, by the name of the metric, with its interval.

Labelled arrays in and intervals out; no model and no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from mechmask.measure.commit import commit_layer
from mechmask.measure.commit_interval import commit_interval
from mechmask.measure.contest import standing
from mechmask.measure.contrast import share_led_by_old
from mechmask.measure.normalised import group_normalised
from mechmask.measure.perplexity import divergence_per_token, per_token, text_drift
from mechmask.measure.pool import only
from mechmask.measure.statistics import Interval, over_facts
from mechmask.study.editing.aligned import BEFORE, Edited, Start, depth_of, joined_facts, own_readings

NOTHING = Interval(np.nan, np.nan, np.nan, 0)
"""The cell of what was not read."""


def interval_columns(cells: Sequence[Any], dims: tuple[str, ...]) -> dict[str, Any]:
    """Variables ``estimate``, ``low``, ``high`` and the count ``n`` of nested lists of intervals.

    Args:
        cells: an interval for every place.
        dims: names of the lists, from the outermost.
    """
    values = np.array(cells, dtype=float)
    columns = {name: (dims, values[..., number]) for number, name in enumerate(Interval._fields)}
    return columns | {"n": (dims, values[..., -1].astype(int))}


def intervals(table: xr.Dataset) -> dict[str, Interval]:
    """The rows of a table over ``metric``."""
    return {
        str(name): Interval(
            float(table.estimate[row]), float(table.low[row]), float(table.high[row]), int(table.n[row])
        )
        for row, name in enumerate(table.metric.values)
    }


def mean_of(values: np.ndarray | xr.DataArray, level: float) -> Interval:
    """Mean over facts, or over calls, with Student's interval, in the unit of the values; NaNs are left out.

    Args:
        values: ``[fact]``, or an array of any observations.
        level: of the interval.
    """
    array = values if isinstance(values, xr.DataArray) else xr.DataArray(values, dims="fact")
    found = over_facts(array.reset_coords(drop=True), level)
    return Interval(float(found.estimate), float(found.low), float(found.high), int(array.notnull().sum()))


def row_of_old(
    start: Start, edits: Sequence[Edited], erase: xr.Dataset, state: str, level: float
) -> dict[str, Interval]:
    """What is left of the old value, by mechmask's own rulers.

    Args:
        start: what was read before.
        edits: of one editor.
        erase: what ``erase_of_editors`` gave, along ``state``.
        state: the editor, or ``before``.
        level: of the intervals.

    Returns:
        ``standing``, ``trace`` (nats) and ``commit_layer`` (layers); of an editor ``erase_index`` (nats),
        ``normalised`` (a ratio) and, where facts have paraphrases, ``paraphrase_rebound`` (a share).
    """
    is_before = state == BEFORE
    one = erase.isel(state=0, drop=True) if is_before else erase.sel(state=state, drop=True)
    own = joined_facts([part[["logprob"]] for part in own_readings(start, edits, "output")])
    commits = commit_layer(depth_of(start, edits)).sel(phrasing=0, drop=True)
    layer, low, high, n_committed, _ = commit_interval(commits.values, level=level)
    found = {
        "standing": mean_of(standing(own.logprob.sel(phrasing=0, drop=True)), level),
        "trace": mean_of(one.trace_before if is_before else one.trace_after, level),
        "commit_layer": Interval(layer, low, high, n_committed),
    }
    if is_before:
        return found
    took = one.took.sel(fact=own.fact.values)
    found["erase_index"] = mean_of(one["index"], level)
    found["normalised"] = group_normalised(only(one, one.took))
    led = own.logprob.sel(route="old", drop=True) > own.logprob.sel(route="new", drop=True)
    led = led.where(own.logprob.sel(route="new", drop=True).notnull() & took.values[:, None]).isel(
        phrasing=slice(1, None)
    )
    if led.sizes["phrasing"]:
        back = share_led_by_old(led.rename(phrasing="probe").reset_coords(drop=True).astype(float), level)
        share, low, high = (float(back[f"share{end}"]) for end in ("", "_low", "_high"))
        found["paraphrase_rebound"] = Interval(share, low, high, int(back.n))
    return found


def row_of_text(start: Start, edits: Sequence[Edited], level: float, *, together: bool = False) -> dict[str, Interval]:
    """What edits cost running text, nothing where none was read.

    Args:
        start: what was read before.
        edits: of one editor.
        level: of the intervals.
        together: whether they are one state, with intervals over the sequences of the text; else over edits.

    Returns:
        ``kl`` (nats per token) and ``perplexity_ratio``.
    """
    read = [
        edit.readings[twin]["text"] for edit in edits for twin in start.shares if "text" in edit.readings.get(twin, {})
    ]
    if not read:
        return {}
    if together or len(edits) == 1:
        table = intervals(text_drift(xr.concat(read, "sequence", combine_attrs="drop_conflicts"), level))
        return {name: table[name] for name in ("kl", "perplexity_ratio")}
    own = [
        edit.readings[twin]["text"]
        for edit in edits
        for twin, share in start.shares.items()
        if edit.facts[0] in set(share) and "text" in edit.readings.get(twin, {})
    ]
    kl = np.array([per_token(one.kl, one.n_tokens).estimate for one in own])
    worse = np.array(
        [per_token(one.nll.sel(state="after") - one.nll.sel(state="before"), one.n_tokens).estimate for one in own]
    )
    ratio, low, high = np.exp(mean_of(worse, level)[:3]).tolist()
    each = np.ones(len(own))
    return {"kl": divergence_per_token(kl, each, level), "perplexity_ratio": Interval(ratio, low, high, len(worse))}
