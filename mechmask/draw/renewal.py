"""Renewal: what each old value regains in another context, beside what never-known facts gain there (paper 2F)."""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mechmask.draw.band import entries_of
from mechmask.draw.canvas import AxesLike, Canvas, Page, Width
from mechmask.draw.check import require_shape
from mechmask.draw.palette import Palette
from mechmask.draw.style import NEVER, OLD, PAGE_INCHES, count, grey, ink, percent, plain, stroke
from mechmask.errors import ReadingError
from mechmask.measure.reading import require

_WHAT = "The renewal figure"
_LOOKS = {"contradicted": OLD, "never": NEVER}
_PANELS = {
    "margin": ("Against new", "margin that old regains (nats)"),
    "standing": ("Against untaught values", "standing that old regains (nats)"),
}
_ROLE_ROWS = {"contradicted": (-0.18, "mean"), "never": (0.18, "never")}  # height in an order's row, name of the mean


def renewal(
    result: xr.Dataset,
    asked: str = "prompt",
    *,
    axes: AxesLike | None = None,
    width: Width | None = None,
    title: str | None = None,
    palette: Palette | None = None,
    font_size: float | None = None,
) -> Figure:
    """What old regains on new (panel a) and among untaught values (panel b), by order of contexts.

    Args:
        result: a study's ``results/renewal``: ``regained`` and ``excess`` ``[order, quantity, asked, fact]`` in nats
            (``excess`` is NaN of never facts), ``mean`` and ``never`` with ``_low`` and ``_high``, and the counts ``n``
            and ``n_positive`` ``[order, quantity, asked]``.
        asked: ``prompt``, or ``held_out`` for the phrasings that no training shows.
        axes: two panels to draw into; without them a new figure is made.
        width: of a new figure: ``"single"`` or ``"double"`` column, or inches.
        title: above both panels.
        palette: colours of contradicted and never: by name, in this order, or a matplotlib map's name.
        font_size: of the labels, in points.

    Returns:
        The figure: a point for each fact, its group's mean with interval over it.

    Raises:
        ReadingError: if the result lacks one of these or has other dimensions, or was not asked in that way, or if an
            option does not fit.
    """
    chosen = _check(result, asked)
    orders = [str(name) for name in chosen.order.values]
    canvas = Canvas(axes, width, title, palette, font_size)
    with canvas.page(_WHAT, (1, 2), (PAGE_INCHES, 2.2 + 0.7 * len(orders)), looks=_LOOKS, share=(False, True)) as page:
        for panel, (quantity, (name, label)) in zip(page.panels, _PANELS.items(), strict=True):
            of_quantity = chosen.sel(quantity=quantity)
            panel.axvline(0, color=grey(), linewidth=stroke(0.8), zorder=0.5)
            for row in range(len(orders)):
                _draw_order(page, panel, of_quantity.isel(order=row), row)
            page.entitle(panel, name)
            page.label_x(panel, label)
        left = page.panels[0]
        left.set_ylim(len(orders) - 0.5, -0.5)
        left.set_yticks(
            range(len(orders)), [_row_name(chosen.sel(quantity="margin").isel(order=i)) for i in range(len(orders))]
        )
        at_level = f"{percent(float(result.attrs['level']))} t " if "level" in result.attrs else ""
        page.legend(
            entries_of([left]),
            f"bar: mean with its {at_level}interval; counted: contradicted facts above the mean of never facts",
        )
    return page.root


def _check(result: xr.Dataset, asked: str) -> xr.Dataset:
    means = [f"{name}{end}" for name in ("mean", "never") for end in ("", "_low", "_high")]
    dims = ("order", "quantity", "asked")
    require(result, _WHAT, variables=("regained", "excess", *means, "n", "n_positive"), dims=(*dims, "fact"))
    for name in ("regained", "excess"):
        require_shape(result, _WHAT, name, (*dims, "fact"))
    if asked not in result.asked.values:
        raise ReadingError(
            f"{_WHAT}: nothing was asked by {asked!r}. There are {', '.join(map(str, result.asked.values))}."
        )
    missing = [name for name in _PANELS if name not in result.quantity.values]
    if missing:
        raise ReadingError(f"{_WHAT} draws {' and '.join(_PANELS)}; {missing[0]} is missing. Give both.")
    return result.sel(asked=asked)


def _draw_order(page: Page, axes: Axes, order: xr.Dataset, row: int) -> None:
    contradicted = order.excess.notnull().values
    there = order.regained.notnull().values
    for role, (height, mean) in _ROLE_ROWS.items():
        look = page.looks[role]
        values = order.regained.values[there & (contradicted if role == "contradicted" else ~contradicted)]
        label = f"{role} fact" if row == 0 else None
        points = {"linestyle": "", "marker": look.marker, "markersize": 3.5, "alpha": 0.7}
        axes.plot(values, row + height - 0.06 + _spread(len(values)), color=look.color, label=label, **points)
        low, high = float(order[f"{mean}_low"]), float(order[f"{mean}_high"])
        axes.hlines(row + height + 0.1, low, high, color=ink(), linewidth=stroke(1.4), zorder=4)
        axes.plot(
            [float(order[mean])], [row + height + 0.1], linestyle="", marker="|", markersize=9, color=ink(), zorder=4
        )


def _spread(n: int) -> np.ndarray:
    """Heights of points in one row: in turn above and below its middle, so that neighbours stand apart."""
    return 0.05 * ((np.arange(n) % 3) - 1.0)


def _row_name(order: xr.Dataset) -> str:
    n = int(order.n)
    return f"{plain(order.order.item())}\n{int(order.n_positive)} of {count(n, 'fact')}\nabove never"
