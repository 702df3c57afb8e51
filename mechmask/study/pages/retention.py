"""What a study of retention has to show."""

from __future__ import annotations

import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from mechmask import draw
from mechmask.draw.style import percent
from mechmask.measure.names import state_name
from mechmask.measure.retention import FATES
from mechmask.measure.verdict import VERDICTS
from mechmask.study.pages.exhibit import Exhibit
from mechmask.study.pages.words import interval_in, level_in, listed, stated
from mechmask.study.retention.tables import UNEDITED, retention_table


def said_of_rates(rates: xr.Dataset) -> str:
    """Shares of edited and intrinsic facts that are still said, by editor and task."""
    parts = []
    for editor in rates.editor.values.tolist():
        for task in rates.task.values.tolist():
            of = rates.sel(editor=editor, task=task)
            edited, intrinsic = (
                stated(interval_in(of.sel(quantity=name), "estimate")) for name in ("edited", "intrinsic")
            )
            parts.append(
                f"{state_name(editor)} then {task}: {edited} of edits (n = {int(of.n)}), {intrinsic} of intrinsic "
                f"facts (n = {int(of.n_intrinsic)}), EI* of the edit {float(of.normalised):.2f}, {of.verdict.item()}"
            )
    return f"Still said after the later training ({percent(level_in(rates))} intervals): {listed(parts)}."


def fate_table(_retention: xr.Dataset, fates: xr.Dataset) -> pd.DataFrame:
    """What is said in the end of the edits that took, and what is left of them then by their trace.

    Args:
        _retention: ``results/retention`` of a study.
        fates: its ``results/fates``.
    """
    rows = {}
    for editor in fates.editor.values.tolist():
        for task in fates.task.values.tolist():
            of = fates.sel(editor=editor, task=task)
            for said in FATES:
                some = of.isel(fact=(of.took.astype(bool) & (of.said == said)).values.nonzero()[0])
                if some.sizes["fact"]:
                    counts = {verdict: int((some.verdict == verdict).sum()) for verdict in VERDICTS}
                    means = {f"trace_{when}": float(some[f"trace_{when}"].mean()) for when in ("before", "after")}
                    rows[editor, task, said] = {"n": some.sizes["fact"], **means, **counts}
    index = pd.MultiIndex.from_tuples(list(rows), names=["editor", "task", "said"]) if rows else None
    return pd.DataFrame(list(rows.values()), index=index)


def said_of_fates(_retention: xr.Dataset, fates: xr.Dataset) -> str:
    """Of the edits that are no longer said, how many are masked."""
    took = fates.took.astype(bool)
    lost = took & (fates.said != "edited")
    masked, back = ((lost & of).sum().item() for of in (fates.verdict == "masked", fates.said == "true"))
    return (
        f"Of n = {int(took.sum())} edits that took, {int(lost.sum())} are no longer said. Of these the trace of "
        f"{int(masked)} is surely above a quarter of what it was (its interval at 90%), and of {int(back)} the true "
        "value is said again."
    )


def _course(course: xr.Dataset) -> Figure:
    """Of the first task."""
    return draw.categories(course.isel(task=[0]))


def said_of_course(course: xr.Dataset) -> str:
    """How likely the edited value is at the end of the first task."""
    n = int((course.role == "contradicted").sum())
    last = course.isel(task=0, step=-1).share.sel(category="edited")
    edited = last.isel(fact=(course.role.values == "contradicted").nonzero()[0]).mean("fact")
    names = [name for name in edited.editor.values.tolist() if name != UNEDITED]
    parts = [f"{state_name(name)} {float(edited.sel(editor=name)):.2f}" for name in names]
    return (
        f"Mean probability that the edited value is what is said first, in the end of {course.task.values[0]}: "
        f"{listed(parts)} (n = {n} facts; shares with intervals are in the figure above)."
    )


RETENTION = (
    Exhibit(
        "What later training leaves of edits",
        ("results/rates",),
        said_of_rates,
        draw.retention,
        "For each editor and task: the shares of edited and of intrinsic facts that are still said, and what is left "
        "of the edited value's trace, with intervals.",
        retention_table,
        "One row an editor and task: shares, EI* of the edited values as a group (0 all is left, 1 none), and counts",
        pools=False,
    ),
    Exhibit(
        "Masked, or decayed",
        ("results/retention", "results/fates"),
        said_of_fates,
        table=fate_table,
        lists="One row an editor, task and what is said in the end: n edits, their mean trace in nats, and verdicts",
        pools=False,
    ),
    Exhibit(
        "What is said on the way",
        ("results/course",),
        said_of_course,
        _course,
        "By optimizer step of the later training, for each editor: the mean probability of the true value, the edited "
        "one, related ones and all else, of edited and of intrinsic facts.",
        pools=False,
    ),
)
