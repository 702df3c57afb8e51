"""Where a change wrote into the weights: its size relative to what was there, and its effective rank, block by block.

The reading is that of ``mechmask.weight_change``.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from mechmask.draw.canvas import AxesLike, Canvas, Page, Width, share_limits
from mechmask.draw.changes import Changes, by_change
from mechmask.draw.check import require_shape
from mechmask.draw.colour import mark_missing, missing_patch
from mechmask.draw.palette import Palette
from mechmask.draw.style import BLUE, PAGE_INCHES, shortened, stroke, text_points
from mechmask.errors import ReadingError
from mechmask.measure.reading import require

_WHAT = "The weight figure"
_SHADES = colormaps["cividis"]  # lightness rises all the way, for any colour vision and for grey print
_CELLS = {
    "relative_norm": "relative norm of each projection",
    "effective_rank": "effective rank of each projection",
}
_LABELS = {"relative_norm": "relative norm", "effective_rank": "effective rank"}
_NAME_CHARACTERS = 22


def weights(
    readings: Changes,
    *,
    axes: AxesLike | None = None,
    width: Width | None = None,
    title: str | None = None,
    palette: Palette | None = None,
    font_size: float | None = None,
) -> Figure:
    """Size of a change of the weights by block (bars), and its size and rank by block and projection (cells).

    Args:
        readings: ``relative_norm_block[block]`` and ``relative_norm[block, projection]``, the Frobenius norm of the
            difference over that of what was there, and ``effective_rank[block, projection]``, all without unit and NaN
            where nothing changed. Of one change, or of several by name or along the dimension ``state``.
        axes: three panels for each change to draw into, row by row; without them a new figure is made.
        width: of a new figure: ``"single"`` or ``"double"`` column, or inches.
        title: above all panels.
        palette: the map of the cells: a map of matplotlib or its name, colours from low to high, or a dictionary of
            ``low``, ``middle`` and ``high``; the bars have the colour a quarter of the way up.
        font_size: of the labels, in points.

    Returns:
        The figure, a column for each change, with one scale for all of them in every row.

    Raises:
        ReadingError: if a reading lacks one of these, has other dimensions or other projections than the others, if no
            number is finite, or if an option does not fit.
    """
    changes = {name: _checked(reading) for name, reading in by_change(readings, _WHAT).items()}
    _require_alike(changes)
    n, n_projections = len(changes), next(iter(changes.values())).sizes["projection"]
    canvas = Canvas(axes, width, title, palette, font_size)
    shades = canvas.colour_map(_SHADES, _WHAT)
    bars = BLUE if palette is None else shades(0.25)
    inches = ({1: 5.25, 2: PAGE_INCHES}.get(n, PAGE_INCHES / 3 * n), 3.1 + 0.3 * n_projections)
    with canvas.page(_WHAT, (3, n), inches, share=("col", "row")) as page:
        for column, (name, reading) in enumerate(changes.items()):
            axes_of_bars = page.grid[0, column]
            axes_of_bars.bar(reading.block.values, reading.relative_norm_block.values, width=0.8, color=bars)
            page.entitle(axes_of_bars, name if n > 1 else "All projections of a block")
            page.label_x(page.grid[2, column], "block")
            page.grid[2, column].xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        share_limits(list(page.grid[0]), "y")
        page.label_y(page.grid[0, 0], "relative norm")
        for row, variable in enumerate(_CELLS, 1):
            _draw_cells(page, list(page.grid[row]), changes, variable, shades)
        missing = any(np.isnan(reading[name].values).any() for reading in changes.values() for name in _CELLS)
        entries: dict[str, Patch] = {"nothing changed": missing_patch()} if missing else {}
        page.legend(entries, "relative norm: size of the difference / size of what was there (Frobenius)")
    return page.root


def _checked(reading: xr.Dataset) -> xr.Dataset:
    require(reading, _WHAT, variables=("relative_norm_block", *_CELLS), dims=("block", "projection"))
    require_shape(reading, _WHAT, "relative_norm_block", ("block",))
    for variable in _CELLS:
        require_shape(reading, _WHAT, variable, ("block", "projection"))
    reading = reading.sortby("block")
    # a projection that is not touched has a norm of 0 and no rank: both are drawn as nothing
    return reading.assign(relative_norm=reading.relative_norm.where(reading.relative_norm > 0))


def _require_alike(changes: dict[str, xr.Dataset]) -> None:
    first, *others = changes.values()
    for reading in others:
        if reading.projection.values.tolist() != first.projection.values.tolist():
            raise ReadingError(f"{_WHAT} compares changes of the same projections. Give changes of one model.")
    if not any(np.isfinite(reading.relative_norm.values).any() for reading in changes.values()):
        raise ReadingError(f"{_WHAT} has nothing to draw: no weight changed. Give a change that moved some.")


def _draw_cells(
    page: Page, panels: list[Axes], changes: dict[str, xr.Dataset], variable: str, shades: Colormap
) -> None:
    """One quantity by projection (rows) and block (columns), in one scale for all changes."""
    tables = [reading[variable].transpose("projection", "block").values for reading in changes.values()]
    finite = np.concatenate([table[np.isfinite(table)] for table in tables])
    limits = (0.0, float(finite.max())) if finite.size else (0.0, 1.0)
    scale, visible = Normalize(*limits), shades.with_extremes(bad=(0, 0, 0, 0))
    for axes, reading, table in zip(panels, changes.values(), tables, strict=True):
        mark_missing(axes)
        blocks, projections = reading.block.values, reading.projection.values
        axes.imshow(
            np.ma.masked_invalid(table),
            cmap=visible,
            norm=scale,
            extent=(blocks[0] - 0.5, blocks[-1] + 0.5, len(projections) - 0.5, -0.5),
            aspect="auto",
            interpolation="nearest",
        )
        page.entitle(axes, _CELLS[variable])
        axes.tick_params(axis="y", length=0, labelleft=axes is panels[0])
    names = [shortened(name, _NAME_CHARACTERS) for name in next(iter(changes.values())).projection.values]
    panels[0].set_yticks(range(len(names)), names, fontsize=text_points(6))
    bar = page.figure.colorbar(ScalarMappable(scale, visible), ax=panels, pad=0.02, aspect=12)
    bar.set_label(_LABELS[variable])
    bar.outline.set_linewidth(stroke(0.6))  # pyright: ignore[reportCallIssue]
