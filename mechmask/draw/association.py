"""How two numbers of a fact go together: a point for each fact, and for each group of them its line and correlation.

The line is the least-squares fit, which is what Pearson's correlation is about; Spearman's stands beside it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mechmask.draw.band import entries_of
from mechmask.draw.canvas import AxesLike, Canvas, Page, Width
from mechmask.draw.check import require_level, require_shape
from mechmask.draw.palette import Palette
from mechmask.draw.states import state_name
from mechmask.draw.style import SERIES, Look, count, paper, percent, plain, stroke
from mechmask.errors import ReadingError
from mechmask.measure.association import association as correlations
from mechmask.measure.association import centred
from mechmask.measure.reading import require
from mechmask.measure.statistics import several_draws

_WHAT = "The figure of an association"
_ALL = "all facts"
_LABELS = {
    "prior": "logp(old) before the contradiction (nats)",
    "margin": "final margin logp(new) \N{MINUS SIGN} logp(old) (nats)",
    "surprise": "surprise \N{MINUS SIGN}logp(new) at the onset (nats)",
    "index": "erase index (nats)",
    "recovery": "logp(old) recovered by one step (nats)",
}


def association(
    table: xr.Dataset,
    x: str,
    y: str,
    *,
    level: float = 0.95,
    ax: Axes | None = None,
    axes: AxesLike | None = None,
    width: Width | None = None,
    title: str | None = None,
    palette: Palette | None = None,
    font_size: float | None = None,
) -> Figure:
    """Two numbers of each fact against each other, by condition or state where there are several.

    Args:
        table: the two numbers ``[fact]``, or with one more dimension, such as ``condition`` or ``state``, in nats or
            as ``attrs["long_name"]`` of each says: ``prior`` and ``margin`` of a reactance study's
            ``results/reactance``, ``surprise`` and ``margin`` of any study's ``results/surprise``. Facts of several
            draws (``seed[fact]``, as ``pooled_association`` gives it) are correlated within draws, and whole draws
            resampled.
        x: the name of the one.
        y: the name of the other.
        level: of the intervals of the correlations.
        ax: a panel to draw into; without it a new figure is made.
        axes: the same, by the name that it has where a figure has several.
        width: of a new figure: ``"single"`` or ``"double"`` column, or inches.
        title: in place of the panel's.
        palette: colours of the groups: by name, in their order, or a matplotlib map's name.
        font_size: of the labels, in points.

    Returns:
        The figure. The legend has Pearson's and Spearman's correlation of each group with Pearson's interval.

    Raises:
        ReadingError: if the table lacks one of the two or has other dimensions, or has more groups than there are
            line styles, or if an option does not fit.
    """
    require_level(level)
    groups = _groups(table, x, y)
    canvas = Canvas(axes, width, title, palette, font_size, ax)
    with canvas.page(_WHAT, (1, 1), (4.4, 4.0), looks=dict(zip(groups, SERIES, strict=False))) as page:
        (panel,) = page.panels
        n_left_out = sum(_draw(page, panel, name, group, x, y, level) for name, group in groups.items())
        page.label_x(panel, _label(table, x))
        page.label_y(panel, _label(table, y))
        page.entitle(panel, "A point for each fact")
        within = " within draws" if any(map(several_draws, groups.values())) else ""
        lines = [f"line: least squares{within}; r: Pearson{within} with {percent(level)} interval; rho: Spearman"]
        lines += [f"{count(n_left_out, 'fact')} without a finite pair not drawn"] if n_left_out else []
        page.legend(entries_of([panel]), "\n".join(lines), 1)
    return page.root


def _groups(table: xr.Dataset, x: str, y: str) -> dict[str, xr.Dataset]:
    require(table, _WHAT, variables=(x, y), dims=("fact",))
    dims = (*[str(dim) for name in (x, y) for dim in table[name].dims if dim != "fact"][:1], "fact")
    for name in (x, y):
        require_shape(table, _WHAT, name, tuple(dim for dim in dims if dim == "fact" or dim in table[name].dims))
    if len(dims) == 1:
        return {_ALL: table}
    names = [str(name) for name in table[dims[0]].values]
    if len(names) > len(SERIES):
        raise ReadingError(f"{_WHAT} tells {len(SERIES)} groups apart, this table has {len(names)}. Select some.")
    return {name: table.isel({dims[0]: i}) for i, name in enumerate(names)}


def _draw(page: Page, axes: Axes, name: str, group: xr.Dataset, x: str, y: str, level: float) -> int:
    """Points, line and correlation of one group; returns how many facts have no finite pair."""
    look = page.looks[name]
    values = np.array([group[x].values, group[y].values], dtype=float)
    there = np.asarray(np.isfinite(values).all(axis=0))
    at, up = values[:, there]
    label = f"{state_name(name).replace('_', ' ')} (n = {there.sum()}): {_correlation(group, x, y, there, level)}"
    axes.plot(at, up, linestyle="", zorder=3, markeredgecolor=paper(), markeredgewidth=0.3, **_points(look))
    fitted = at.size > 2 and np.ptp(centred(at, _draws_of(group)[there])) > 0
    if fitted:
        ends = np.array([at.min(), at.max()])
        draws = _draws_of(group)[there]
        slope, _ = np.polyfit(centred(at, draws), centred(up, draws), 1)
        start = up.mean() - slope * at.mean()
        line = {
            "linestyle": look.linestyle,
            "linewidth": stroke(look.linewidth),
            "marker": look.marker,
            "markevery": [],
        }
        axes.plot(ends, start + slope * ends, color=look.color, label=label, **line)
    else:
        axes.plot([], [], color=look.color, label=label, linestyle="", marker=look.marker)
    return int((~there).sum())


def _points(look: Look) -> dict[str, Any]:
    return {"marker": look.marker, "color": look.color, "markersize": 4}


def _correlation(group: xr.Dataset, x: str, y: str, there: np.ndarray, level: float) -> str:
    if there.sum() < 3:
        return "too few for a correlation"
    chosen = group.isel(fact=np.flatnonzero(there))
    draws = ("fact", _draws_of(group)[there])
    first, second = (chosen[name].reset_coords(drop=True).assign_coords(seed=draws) for name in (x, y))
    found = correlations(first, second, level, cluster="seed")
    r, rho = (found.sel(correlation=name) for name in ("pearson", "spearman"))
    ends = f"[{float(r.low):.2f}, {float(r.high):.2f}]" if np.isfinite(r.low) else "(no interval)"
    return f"r = {float(r.estimate):.2f} {ends}, rho = {float(rho.estimate):.2f}"


def _draws_of(group: xr.Dataset) -> np.ndarray:
    """The draw of every fact; one for all where nothing is said."""
    return group["seed"].values.astype(str) if several_draws(group) else np.zeros(group.sizes["fact"], dtype=str)


def _label(table: xr.Dataset, name: str) -> str:
    return plain(table[name].attrs.get("long_name", _LABELS.get(name, name)))
