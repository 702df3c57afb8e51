"""The readings of a retention study as its results; no model and no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import numpy as np
import pandas as pd
import xarray as xr

from mechmask.measure.retention import left_of_edits
from mechmask.study.tables import concatenated

UNEDITED = "unedited"
MOMENTS = ("before", "after")

_COUNTS = ("n", "n_intrinsic")


class Batch(NamedTuple):
    """Facts that were edited in one model, and what was read of it; none of them in the model without an edit.

    Attributes:
        facts: ids of the facts that were edited.
        course: the readings on the way of the later training, by optimizer step; the first is ``before`` it.
    """

    facts: tuple[str, ...]
    course: Mapping[int, xr.Dataset]

    @property
    def before(self) -> xr.Dataset:
        """The reading under the edit, before the later training."""
        return self.course[min(self.course)]

    @property
    def ends(self) -> tuple[xr.Dataset, xr.Dataset]:
        """Both."""
        return self.before, self.after

    @property
    def after(self) -> xr.Dataset:
        """The reading at the end of the later training."""
        return self.course[max(self.course)]


Batches = Mapping[tuple[str, str], Sequence[Batch]]


def retention_of(batches: Batches) -> xr.Dataset:
    """What is said of every fact before and after each later training.

    Args:
        batches: what was read, by the editor (``unedited`` among them) and the task.

    Returns:
        Over ``editor``, ``task``, ``moment`` (``before`` the later training, ``after`` it) and ``fact``: ``kept``, of
        an edited fact whether the new value is said, of an intrinsic one the share of the edited models that say the
        true one, and of any fact in the unedited model whether that does; ``said``, of an edited fact what is said
        instead, empty for others; ``still[editor, task, fact]``, of the models that said the fact's value before the
        later training the share that says it after it, NaN where none did; ``share[..., category]``, the mean
        probabilities of what is said first. And
        ``steps[editor, task, fact]``, the optimizer steps of the later training, with ``batch[editor, task, fact]``,
        the number of the model in which a fact was edited, -1 for others.
    """
    editors, tasks = (list(dict.fromkeys(key[i] for key in batches)) for i in (0, 1))
    rows = [
        concatenated([_both_moments(batches[editor, task], editor) for task in tasks], "task", tasks)
        for editor in editors
    ]
    return concatenated(rows, "editor", editors)


def _both_moments(some: Sequence[Batch], editor: str) -> xr.Dataset:
    moments = [_joined(some, [getattr(batch, moment) for batch in some], editor) for moment in MOMENTS]
    table = concatenated(moments, "moment", MOMENTS)
    steps, numbers = (xr.full_like(table.role, -1, dtype=int) for _ in range(2))
    for number, batch in enumerate(some):
        own = (
            np.isin(table.fact.values, batch.facts) if editor != UNEDITED else np.ones(table.sizes["fact"], dtype=bool)
        )
        steps.values[own] = max(batch.course)
        numbers.values[own] = number if editor != UNEDITED else -1
    return table.assign(still=_still(some, editor), steps=steps, batch=numbers)


def _still(some: Sequence[Batch], editor: str) -> xr.DataArray:
    """Whether what was said of a fact before is said after it, over the models that said it."""
    kept = []
    for batch in some:
        is_edited = np.isin(batch.before.fact.values, batch.facts) & (editor != UNEDITED)
        route = xr.DataArray(np.where(is_edited, "new", "old"), {"fact": batch.before.fact.values}, "fact")
        before, after = (reading.retained.sel(route=route).reset_coords(drop=True) for reading in batch.ends)
        kept.append(after.astype(float).where(before))
    return cast("xr.DataArray", xr.concat(kept, "model", join="outer").mean("model"))


def _joined(some: Sequence[Batch], readings: Sequence[xr.Dataset], editor: str) -> xr.Dataset:
    """The readings of all batches of one editor: an edited fact's of its own, an intrinsic one's of all."""
    edited, others = [], []
    for batch, reading in zip(some, readings, strict=True):
        is_edited = np.isin(reading.fact.values, batch.facts) & (editor != UNEDITED)
        edited.append(_kept(reading.isel(fact=np.flatnonzero(is_edited)), "new"))
        others.append(_kept(reading.isel(fact=np.flatnonzero(~is_edited)), "old"))
    mean = xr.concat([one[["kept", "share"]] for one in others], "batch").mean("batch")
    first = others[0].drop_vars(["kept", "share"]).assign(mean)
    parts = [*edited, first.assign(said=xr.full_like(first.said, ""))]
    return cast("xr.Dataset", xr.concat(parts, "fact", combine_attrs="drop_conflicts"))


def _kept(reading: xr.Dataset, route: str) -> xr.Dataset:
    """Whether a value is said, what is said, and the probabilities of the categories."""
    kept = reading.retained.sel(route=route, drop=True).astype(float)
    return (
        reading[["said", "share"]]
        .assign(kept=kept, role=reading.role)
        .drop_vars(["route", "value", "token"], errors="ignore")
    )


def course_of(batches: Batches) -> xr.Dataset:
    """The same on the way of the later training.

    Returns:
        ``kept`` and ``share[..., category]`` over ``editor``, ``task``, ``step`` and ``fact``, as ``retention_of`` has
        them; beyond the last step of a fact's training what was read there.
    """
    rows: dict[str, dict[str, xr.Dataset]] = {}
    numbers = sorted({step for some in batches.values() for batch in some for step in batch.course})
    for (editor, task), some in batches.items():
        at = [_joined(some, [_at(batch, step) for batch in some], editor)[["kept", "share"]] for step in numbers]
        rows.setdefault(editor, {})[task] = concatenated(at, "step", numbers)
    return concatenated([concatenated(of.values(), "task", of) for of in rows.values()], "editor", rows)


def _at(batch: Batch, step: int) -> xr.Dataset:
    """The latest reading up to a step."""
    return batch.course[max(number for number in batch.course if number <= step)]


def fates_of(batches: Batches, options: Mapping[str, float | str]) -> xr.Dataset:
    """What is left of every edit by its trace, and what is said.

    Args:
        batches: what was read.
        options: of ``left_of_edits``: ``statistic``, ``margin_share``, ``alpha``.

    Returns:
        As ``left_of_edits``, over ``editor``, ``task`` and the edited facts, with ``took``, whether the new value was
        said under the edit, and ``said`` after the later training.
    """
    rows: dict[str, dict[str, xr.Dataset]] = {}
    for (editor, task), some in batches.items():
        if editor == UNEDITED:
            continue
        twin = batches[UNEDITED, task][0]
        found = [_fate(batch, twin, options) for batch in some]
        rows.setdefault(editor, {})[task] = xr.concat(found, "fact", combine_attrs="drop_conflicts")
    return concatenated([concatenated(of.values(), "task", of) for of in rows.values()], "editor", rows)


def _fate(batch: Batch, twin: Batch, options: Mapping[str, float | str]) -> xr.Dataset:
    facts = batch.before.fact.values.tolist()
    ids = list(batch.facts)
    pairs = ((batch.before, twin.before.sel(fact=facts)), (batch.after, twin.after.sel(fact=facts)))
    left = left_of_edits(*pairs, ids, **options)  # pyright: ignore[reportArgumentType]
    scalars = {name: left[name].broadcast_like(left.fact) for name in ("shared_error", "noise")}
    took = batch.before.retained.sel(fact=ids, route="new", drop=True)
    said = batch.after.said.sel(fact=ids)
    return left.assign({**scalars, "took": took.reset_coords(drop=True), "said": said.reset_coords(drop=True)})


def retention_table(rates: xr.Dataset) -> pd.DataFrame:
    """One row for each editor and task.

    Args:
        rates: what ``retention_rates`` gave.

    Returns:
        Its shares and EI*, each with its interval, beside the shares of what is said instead of the edit, the verdict
        on what is left of it, and the counts.
    """
    columns = {
        f"{name}{end}": rates[of].sel(quantity=name)
        for name in rates.quantity.values.tolist()
        for end, of in (("", "estimate"), ("_low", "low"), ("_high", "high"))
    }
    said = {fate: rates.said.sel(fate=fate) for fate in rates.fate.values.tolist() if fate != "edited"}
    rest = {name: rates[name] for name in ("normalised", "normalised_low", "normalised_high", "verdict", *_COUNTS)}
    joined = xr.Dataset({name: of.reset_coords(drop=True) for name, of in (columns | said | rest).items()})
    return joined.to_dataframe(dim_order=["editor", "task"])
