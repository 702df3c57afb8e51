"""The same contest in several models: the margin along a depth that models of different height share.

Depth is layer / L, so a value at 0.8 stands at four fifths of its model, whether that has 12 blocks or 80.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mechmask.draw.band import band_along, band_note, draw_band, entries_of, n_text
from mechmask.draw.canvas import AxesLike, Canvas, Page, Width
from mechmask.draw.check import contest_along, require_level
from mechmask.draw.layers import (
    DEPTH,
    MARGIN_NATS,
    commits_along,
    frame,
    make_room_for_rug,
    mark_commits,
    mark_median,
    mark_zero,
)
from mechmask.draw.palette import Palette
from mechmask.draw.style import MARGIN, NEW, PAGE_INCHES, shortened
from mechmask.errors import ReadingError
from mechmask.measure.reading import require

_WHAT = "The figure of models"
_LOOKS = {"margin": MARGIN, "new": NEW}  # commit layers are those of the new value
_COLUMNS = 3


def models(
    readings: Mapping[str, xr.Dataset] | xr.Dataset,
    *,
    level: float = 0.95,
    axes: AxesLike | None = None,
    width: Width | None = None,
    title: str | None = None,
    palette: Palette | None = None,
    font_size: float | None = None,
) -> Figure:
    """Margin by depth, a panel for each model, all on the same axes.

    Args:
        readings: depth readings by what their model is called, each with ``logprob[fact, route, layer]`` and
            ``margin[fact, layer]`` in nats; or one dataset with the dimension ``model`` and, in place of ``layer``,
            ``depth``, or ``layer`` with ``depth[model, layer]``; NaN where a model has nothing at a depth.
        level: of all intervals, over facts; over draws of facts where ``fact`` has the coordinate ``seed``.
        axes: a panel for each model to draw into; without it a new figure is made.
        width: of a new figure: ``"single"`` or ``"double"`` column, or inches.
        title: above all panels; of one model, in place of its name.
        palette: colours of margin and new (whose commit layers are marked): by name, in this order, or a matplotlib
            map's name.
        font_size: of the labels, in points.

    Returns:
        The figure. Ticks are the commit layers of the new value as depths, one a fact; vertical lines their medians.

    Raises:
        ReadingError: if there is no model, or one's reading lacks one of these, or if an option does not fit.
    """
    require_level(level)
    by_depth = {name: _along_depth(reading, name) for name, reading in _readings(readings).items()}
    n = len(by_depth)
    shape = (math.ceil(n / _COLUMNS), min(n, _COLUMNS))
    inches = ({1: 3.5, 2: 5.25}.get(shape[1], PAGE_INCHES), 1.1 + 1.75 * shape[0])
    canvas = Canvas(axes, width, title, palette, font_size)
    with canvas.page(_WHAT, shape, inches, looks=_LOOKS, n_panels=n, share=(True, True)) as page:
        bands = []
        for panel, (name, reading) in zip(page.panels, by_depth.items(), strict=True):
            bands.append(band_along(reading.margin, "depth", level))
            draw_band(panel, bands[-1], page.looks["margin"], "margin")
            page.entitle(panel, f"{_short_name(name)}\n{_draw_commits(page, panel, reading)}")
        _label(page)
        outside = frame(page.panels, bands, "margin")
        make_room_for_rug(page.panels)
        drawn = entries_of(page.panels)
        entries = {f"{MARGIN_NATS.removesuffix(' (nats)')} ({n_text(*bands)})": drawn.pop("margin")} | drawn
        page.legend(entries, "\n".join(filter(None, [band_note(bands, level), outside])), shape[1])
    return page.root


def _readings(readings: Mapping[str, xr.Dataset] | xr.Dataset) -> dict[str, xr.Dataset]:
    if isinstance(readings, xr.Dataset):
        require(readings, _WHAT, variables=("logprob", "margin"), dims=("model", "fact", "route"))
        names = [str(name) for name in readings.model.values]
        by_name = {name: readings.isel(model=i) for i, name in enumerate(names)}
        if len(by_name) < len(names):
            raise ReadingError(f"Two models have one name in {', '.join(names)}. Give every model its own.")
    elif isinstance(readings, Mapping):
        by_name = {str(name): reading for name, reading in readings.items()}
    else:
        raise ReadingError(
            f"{_WHAT} takes depth readings by name, not a {type(readings).__name__}. Give a dictionary from a model's "
            "name to its reading."
        )
    if not by_name:
        raise ReadingError(f"{_WHAT} has no model to draw. Give at least one.")
    return by_name


def _along_depth(reading: xr.Dataset, name: str) -> xr.Dataset:
    """One model's reading with the dimension ``depth``, without the places where it has nothing."""
    what = f"{_WHAT} ({name})"
    require(reading, what, variables=("logprob", "margin"), dims=("fact", "route"))
    along = "depth" if "depth" in reading.dims else "layer"
    reading = contest_along(reading, what, along)
    reading = reading.isel({along: np.flatnonzero(reading.margin.notnull().any("fact").values)})
    if not reading.sizes[along]:
        raise ReadingError(f"{what} has no margin to draw: all are NaN. Give a reading that has some.")
    if along == "layer":
        last = float(reading.layer.values[-1])
        depth = reading["depth"].values if "depth" in reading.coords else reading.layer.values / (last or 1.0)
        reading = reading.drop_vars("depth", errors="ignore").assign_coords(depth=("layer", depth))
        reading = reading.swap_dims(layer="depth").drop_vars("layer")
    return reading.sortby("depth")


def _draw_commits(page: Page, axes: Axes, reading: xr.Dataset) -> str:
    """Zero, ticks and median; returns the second line of the title."""
    commits = commits_along(reading.logprob, "depth")
    mark_zero(axes)
    mark_commits(axes, commits, page.looks["new"])
    mark_median([axes], commits, page.looks["new"])
    committed = commits[np.isfinite(commits)]
    median = f", median {np.median(committed):.2f}" if len(committed) else ""
    return f"{len(committed)} of {commits.size} commit{median}"


def _short_name(name: str) -> str:
    """A model's name without the organisation before it."""
    return shortened(name.rstrip("/").rsplit("/", 1)[-1], 24)


def _label(page: Page) -> None:
    """Labels of the outer axes; where the last row is not full, the panels above its gaps have them too."""
    n_columns = page.grid.shape[1]
    for i, axes in enumerate(page.panels):
        if i + n_columns >= page.n:
            axes.tick_params(labelbottom=True)
            page.label_x(axes, DEPTH)
        if i % n_columns == 0:
            page.label_y(axes, "margin (nats)")
        axes.set_xlim(-0.03, 1.03)
        axes.set_xticks([0, 0.5, 1])
