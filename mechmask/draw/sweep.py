"""A sweep in one figure: a row for each cell and change, EI* of its old values beside the verdicts on single facts."""

from __future__ import annotations

import textwrap

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mechmask.draw.canvas import AxesLike, Canvas, Width
from mechmask.draw.palette import Palette
from mechmask.draw.states import state_name
from mechmask.draw.style import PAGE_INCHES, VERDICT_LOOKS, percent, shortened
from mechmask.draw.verdict_rows import LABEL_OF_RATIO, RATIO, draw_counts, draw_ratios, name_rows
from mechmask.errors import ReadingError
from mechmask.measure.reading import require
from mechmask.measure.verdict import MARGIN_SHARE

_WHAT = "The figure of a sweep"
_MOST_ROWS = 60
_NAME_WIDTH = 32  # in characters, of a line of a row's name


def sweep(
    gathered: xr.Dataset,
    *,
    axes: AxesLike | None = None,
    width: Width | None = None,
    title: str | None = None,
    palette: Palette | None = None,
    font_size: float | None = None,
) -> Figure:
    """EI* of every cell by the verdict on its group (panel a), and the verdicts on its single facts (b).

    Args:
        gathered: ``SweepResults.gathered``, or a selection of it, ``[..., state]``: ``verdict``, ``normalised`` (a
            ratio) with its ends, ``n`` and a count for each verdict; ``n`` is NaN where there is no such cell.
        axes: two panels to draw into; without them a new figure is made.
        width: of a new figure: ``"single"`` or ``"double"`` column, or inches.
        title: above both panels.
        palette: colours of masked, erased, suppressed and undecided: by name, in this order, or a matplotlib map's
            name.
        font_size: of the labels, in points.

    Returns:
        The figure; bars in panel a are the intervals that the results hold. The grey region is the margin within which
        old values count as erased; an interval that goes on beyond the panel ends in an arrow.

    Raises:
        ReadingError: if the dataset lacks one of these, has more cells than a figure can show, or an option does not
            fit.
    """
    require(gathered, _WHAT, variables=("verdict", "n", *RATIO, *VERDICT_LOOKS), dims=("state",))
    rows = _rows(gathered)
    names = [_name(rows, row) for row in range(rows.sizes["row"])]
    canvas = Canvas(axes, width, title, palette, font_size)
    n_lines = max(name.count("\n") + 1 for name in names)
    inches = (PAGE_INCHES, 1.6 + (0.12 + 0.12 * n_lines) * len(names))
    with canvas.page(_WHAT, (1, 2), inches, looks=VERDICT_LOOKS) as page:
        group, facts = page.panels
        share = float(gathered.attrs.get("margin_share", MARGIN_SHARE))
        goes_on = draw_ratios(page, group, rows.verdict, [rows[name] for name in RATIO], share)
        draw_counts(page, facts, {name: rows[name].values for name in VERDICT_LOOKS})
        for panel in page.panels:
            name_rows(panel, names, named=panel is group)
        page.entitle(group, "What is left of old")
        page.label_x(group, LABEL_OF_RATIO)
        page.entitle(facts, "Fact by fact")
        page.label_x(facts, "facts")
        entries = {
            f"{verdict} ({int(rows[verdict].sum())} of {int(rows.n.sum())} in b)": Line2D(
                [], [], linestyle="-", marker=page.looks[verdict].marker, color=page.looks[verdict].color
            )
            for verdict in VERDICT_LOOKS
            if rows[verdict].sum() or verdict in rows.verdict.values
        }
        page.legend(entries, _note(rows, gathered, goes_on), 2)
    return page.root


def _rows(gathered: xr.Dataset) -> xr.Dataset:
    """The cells that there are, one after the other, a change of each after the other."""
    dims = [str(dim) for dim in gathered.n.dims if dim != "state"]
    stacked = gathered.stack(row=[*dims, "state"], create_index=False)
    rows = stacked.isel(row=np.flatnonzero(stacked.n.notnull().values))
    if not rows.sizes["row"]:
        raise ReadingError(f"{_WHAT} has no cell to draw. Give a sweep of which a study is finished.")
    if rows.sizes["row"] > _MOST_ROWS:
        raise ReadingError(
            f"{_WHAT} can show {_MOST_ROWS} rows, and there are {rows.sizes['row']}. Select some, such as one state."
        )
    return rows.assign_attrs(between=dims)


def _name(rows: xr.Dataset, row: int) -> str:
    one = rows.isel(row=row)
    labels = [f"{axis} {shortened(str(one[axis].values), 24)}" for axis in rows.attrs["between"]]
    cell = ", ".join(label.replace(" ", "\N{NO-BREAK SPACE}") for label in labels)
    changed = state_name(str(one.state.values)).replace("_", " ")
    lines = textwrap.wrap(f"{cell}: {changed}" if cell else changed, _NAME_WIDTH, break_long_words=False)
    return "\n".join(lines).replace("\N{NO-BREAK SPACE}", " ")


def _note(rows: xr.Dataset, gathered: xr.Dataset, goes_on: bool) -> str:
    inner = percent(float(gathered.attrs.get("interval_level", 0.90)))
    lines = [f"n = {_span(rows.n)} facts a row; bars in a: {inner} intervals; grey: counts as erased"]
    if "draws" in rows and rows.draws.notnull().any():
        lines.append(f"{_span(rows.draws)} draws of facts a row, each one observation")
    return "\n".join([*lines, *(["an arrow: the interval goes on"] if goes_on else [])])


def _span(numbers: xr.DataArray) -> str:
    least, most = int(numbers.min()), int(numbers.max())
    return str(least) if least == most else f"{least} to {most}"
