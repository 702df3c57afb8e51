"""How far a change moved the residual stream, layer by layer: its size, its direction, and what facts share of it.

The readings are those of ``mechmask.residual_drift``, at the position where old and new diverge.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mechmask.draw.band import Band, band_along, band_note, draw_band, entries_of, lines_of, n_text
from mechmask.draw.canvas import AxesLike, Canvas, Page, Width
from mechmask.draw.changes import Changes, by_change, looks_of
from mechmask.draw.check import drawn_facts, require_level, require_shape
from mechmask.draw.layers import depth_axis
from mechmask.draw.palette import Palette
from mechmask.draw.style import PAGE_INCHES
from mechmask.measure.reading import require

_WHAT = "The drift figure"
_PANELS = {
    "drift": ("Size", "difference / norm before"),
    "cosine": ("Direction", "cosine of after with before"),
    "cka": ("Over facts", "unbiased linear CKA"),
}


def drift(
    readings: Changes,
    *,
    level: float = 0.95,
    axes: AxesLike | None = None,
    width: Width | None = None,
    title: str | None = None,
    palette: Palette | None = None,
    font_size: float | None = None,
) -> Figure:
    """Size of the drift, cosine with the residual stream before, and CKA over facts, by layer, a line for each change.

    Args:
        readings: ``drift[fact, layer]``, the norm of the difference relative to that before, and ``cosine[fact,
            layer]``, both without unit; where it is there also ``cka[layer]``, and ``role`` on ``fact`` (then the
            contradicted facts are drawn, if there are any). Of one change, or of several by name or along the dimension
            ``state``.
        level: of all intervals, which are over facts.
        axes: two panels to draw into, three where every reading has a CKA; without them a new figure is made.
        width: of a new figure: ``"single"`` or ``"double"`` column, or inches.
        title: above all panels.
        palette: colours of the changes: by a change's name, in their order, or a matplotlib map's name.
        font_size: of the labels, in points.

    Returns:
        The figure. Lines are means over facts with Student's t interval; the CKA is one number for all facts together.

    Raises:
        ReadingError: if a reading lacks one of these or has other dimensions, if there are more changes than line
            styles, or if an option does not fit.
    """
    require_level(level)
    changes = {name: _checked(reading) for name, reading in by_change(readings, _WHAT).items()}
    with_cka = all("cka" in reading and np.isfinite(reading.cka.values).any() for reading in changes.values())
    drawn = [name for name in _PANELS if name != "cka" or with_cka]
    canvas = Canvas(axes, width, title, palette, font_size)
    inches = (PAGE_INCHES / 3 * len(drawn), 3.1)
    looks = looks_of(changes, _WHAT)
    with canvas.page(_WHAT, (1, len(drawn)), inches, looks=looks, share=(True, False)) as page:
        bands = {
            variable: _draw(page, panel, variable, changes, level)
            for panel, variable in zip(page.panels, drawn, strict=True)
        }
        means = [band for name in drawn if name != "cka" for band in bands[name].values()]
        _put_legend(page, bands["drift"], band_note(means, level))
    return page.root


def _checked(reading: xr.Dataset) -> xr.Dataset:
    require(reading, _WHAT, variables=("drift", "cosine"), dims=("fact", "layer"))
    reading = drawn_facts(reading)
    for variable in ("drift", "cosine"):
        require_shape(reading, _WHAT, variable, ("fact", "layer"))
    if "cka" in reading:
        require_shape(reading, _WHAT, "cka", ("layer",))
    return reading.sortby("layer")


def _draw(page: Page, axes: Axes, variable: str, changes: dict[str, xr.Dataset], level: float) -> dict[str, Band]:
    """One quantity of every change."""
    bands = {}
    for name, reading in changes.items():
        bands[name] = _of_all_facts(reading) if variable == "cka" else band_along(reading[variable], "layer", level)
        draw_band(axes, bands[name], page.looks[name], name)
    title, label = _PANELS[variable]
    page.entitle(axes, title)
    page.label_x(axes, "layer")
    page.label_y(axes, label)
    depth_axis(axes, next(iter(changes.values())))
    return bands


def _of_all_facts(reading: xr.Dataset) -> Band:
    """The CKA by layer, a line without an interval."""
    cka = reading.cka.values.astype(float)
    nothing = np.full_like(cka, np.nan)
    return Band(reading.layer.values, cka, nothing, nothing, np.full(cka.shape, reading.sizes["fact"]), 0)


def _put_legend(page: Page, bands: dict[str, Band], note: str) -> None:
    drawn = entries_of(page.panels)
    entries = {}
    for name, band in bands.items():
        entries[f"{name} ({n_text(band)})"] = drawn[name]
        for line in lines_of(page.panels, name):
            page.name_line(line, name, f"{name} ({n_text(band)})", n_text(band))
    page.legend(entries, note, 3)
