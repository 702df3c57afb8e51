"""What later training leaves of an edit: whether the new value is still said, and what of it is left if it is not.

For this question the edited value is what was known, and a model that had the same training without the edit never knew
it: a twin. So the trace is that of the new value, with old and new in each other's place (DESIGN, definitions).
"""

from __future__ import annotations

from typing import cast

import numpy as np
import xarray as xr

from mechmask.errors import ReadingError
from mechmask.measure.normalised import group_normalised, normalised
from mechmask.measure.reading import require
from mechmask.measure.record_share import share_over_records
from mechmask.measure.trace import STATISTIC, TWIN, twin_trace
from mechmask.measure.verdict import ALPHA, DECIDED, MARGIN_SHARE, reason_of

FATES = ("edited", "true", "related", "other")
"""What may be said after an edit: the categories of ``read_retention``, with what was asked for first."""

_WHAT = "What is left of an edit"
_SWAPPED = {"old": "new", "new": "old"}


def left_of_edits(
    before: tuple[xr.Dataset, xr.Dataset],
    after: tuple[xr.Dataset, xr.Dataset],
    edited: list[str],
    *,
    statistic: str = STATISTIC,
    margin_share: float = MARGIN_SHARE,
    alpha: float = ALPHA,
) -> xr.Dataset:
    """Trace of every edited value before and after later training.

    Args:
        before: readings of the edited model and of the same model without the edit, ``logprob[fact, route]`` in nats,
            of the edited facts and of others that no edit touched, which say how far two such readings are apart by
            chance.
        after: the same once each of the two had the same further training.
        edited: labels of the edited facts.
        statistic: of which the trace is made; one in nats.
        margin_share: the margin of the verdict, as a share of a fact's trace before.
        alpha: the rate at which each verdict may be wrong where noise is normal; intervals are at ``1 - 2 alpha``.

    Returns:
        Over ``fact`` (the edited ones): ``trace_before`` and ``trace_after`` of the new value in nats, each with
        ``_low`` and ``_high``; ``normalised`` (EI*, a ratio: 0 all of the edit is left, 1 none) with its ends;
        ``verdict`` and ``reason`` (text): *masked* where surely more than a quarter is left, said or not.
        Over nothing: ``shared_error`` and ``n_never``. ``attrs`` as those of ``erase_index``.

    Raises:
        ReadingError: if a reading lacks one of these or a fact, or no fact was edited.
    """
    for reading in (*before, *after):
        require(reading, _WHAT, variables=("logprob",), dims=("fact", "route"))
    if not edited:
        raise ReadingError(f"{_WHAT} asks for at least one edited fact. Name some.")
    level = 1 - 2 * alpha
    first, last = (_trace(*pair, edited, statistic, level) for pair in (before, after))
    ratio = normalised(first, last, level)
    reasons = reason_of(ratio.normalised_low.values, ratio.normalised_high.values, margin_share)
    traces = {
        f"trace_{when}{end}": of
        for when, trace in (("before", first), ("after", last))
        for end, of in (("", trace.trace), ("_low", trace.low), ("_high", trace.high))
    }
    said = {"verdict": [DECIDED.get(reason, "undecided") for reason in reasons], "reason": reasons}
    return (
        xr.Dataset(traces)
        .assign(ratio)
        .assign({name: ("fact", np.asarray(values, dtype=str)) for name, values in said.items()})
        .assign(shared_error=last.shared_error, n_never=last.n_never, noise=last.noise)
        .assign_attrs(statistic=statistic, margin_share=margin_share, alpha=alpha, interval_level=level)
    )


def retention_rates(retention: xr.Dataset, fates: xr.Dataset, level: float = 0.95) -> xr.Dataset:
    """How many edits and how much intrinsic knowledge later training leaves.

    Args:
        retention: of a study of retention: ``still[editor, task, fact]``, of the models that said a fact's value
            before the later training the share that says it after it, NaN where none did; with ``batch[editor, task,
            fact]``, the number of the model in which a fact was edited, and ``role[fact]``.
        fates: of the same: what ``left_of_edits`` gave along ``editor`` and ``task``, with ``took`` and ``said``
            ``[editor, task, fact]``.
        level: of the intervals of shares.

    Returns:
        Over ``editor``, ``task`` and ``quantity`` the shares ``estimate``, ``low`` and ``high``: ``taken``, edits that
        were said before the later training; ``edited``, of those the share that is still said after it;
        ``intrinsic``, of the intrinsic facts whose true value was said before it, the share of which it still is, each
        over the edited models that said it. Over ``editor`` and ``task``: ``said[..., fate]``, of the edits that took
        the shares of what is said in the end; ``normalised`` (EI* of the new value as a group, a ratio: 0 all of it is
        left, 1 none) with its ends, and the ``verdict`` on it; the counts ``n`` of edits that took and ``n_intrinsic``.
        Facts that were edited in one model are one cluster.

    Raises:
        ReadingError: if a result lacks one of these.
    """
    require(retention, _WHAT, variables=("still", "batch", "role"), dims=("editor", "task", "fact"))
    require(fates, _WHAT, variables=("took", "said", "trace_before", "trace_after"), dims=("editor", "task", "fact"))
    rows = []
    for editor in fates.editor.values:
        of = [
            _rates(retention.sel(editor=editor, task=task), fates.sel(editor=editor, task=task), level)
            for task in fates.task.values
        ]
        rows.append(xr.concat(of, fates.task))
    return cast("xr.Dataset", xr.concat(rows, fates.editor)).assign_attrs(fates.attrs, level=level)


def _rates(retention: xr.Dataset, fates: xr.Dataset, level: float) -> xr.Dataset:
    """Of one editor and task."""
    numbers = retention.batch.sel(fact=fates.fact).values
    together = 1 < len(set(numbers.tolist())) < len(numbers)
    clusters = {"seed": ("fact", numbers.astype(str))} if together else {}
    fates = fates.reset_coords(drop=True).assign_coords(clusters)
    still = retention.still.reset_coords(drop=True)
    took = fates.took.astype(bool)
    taken = np.flatnonzero(took.values)
    intrinsic = still.where(retention.role.reset_coords(drop=True) == "control")
    edited = still.sel(fact=fates.fact.values).assign_coords(clusters).where(took)
    shares = {
        "taken": share_over_records(fates.took.astype(float), level),
        "edited": share_over_records(edited, level),
        "intrinsic": share_over_records(intrinsic, level),
    }
    group = group_normalised(fates.isel(fact=taken))
    reason = str(reason_of(np.array(group.low), np.array(group.high), float(fates.attrs["margin_share"])))
    said = [float(np.mean(fates.said.values[taken] == fate)) if len(taken) else np.nan for fate in FATES]
    columns = {
        name: ("quantity", [getattr(share, name) for share in shares.values()]) for name in ("estimate", "low", "high")
    }
    of_group = {"normalised": group.estimate, "normalised_low": group.low, "normalised_high": group.high}
    counts = {"n": len(taken), "n_intrinsic": int(intrinsic.notnull().sum())}
    return xr.Dataset(
        {**columns, "said": ("fate", said), **of_group, "verdict": DECIDED.get(reason, "undecided"), **counts},
        {"quantity": list(shares), "fate": list(FATES)},
    )


def _trace(with_edit: xr.Dataset, without: xr.Dataset, edited: list[str], statistic: str, level: float) -> xr.Dataset:
    """Of the new value, by the model that was edited and its twin."""
    names = ["edited", "unedited"]
    logprob = cast(
        "xr.DataArray",
        xr.concat(
            [_as_known(one) for one in (with_edit, without)], xr.DataArray(names, dims=TWIN, name=TWIN), join="exact"
        ),
    )
    is_edited = np.isin(logprob.fact.values, edited)
    knew = xr.DataArray(
        [is_edited, np.zeros_like(is_edited)], {TWIN: names, "fact": logprob.fact.values}, (TWIN, "fact")
    )
    return twin_trace(logprob, knew, statistic, level=level).sel(fact=edited)


def _as_known(reading: xr.Dataset) -> xr.DataArray:
    """Log-probabilities with the new value in the place of the old one."""
    routes = [_SWAPPED.get(route, route) for route in reading.route.values.tolist()]
    bare = reading.logprob.reset_coords(drop=True)
    return bare.assign_coords(route=routes)
