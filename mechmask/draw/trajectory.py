"""The course of a contradiction: log-probabilities and standing at every checkpoint (paper 2F, findings 1 and 2).

A raw ``logp(old)`` is never drawn without the ceiling that the new value leaves it, and the standing never without
the spread of facts that were never known under the same training.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mechmask.draw.band import Band, band_along, band_note, draw_band, entries_of, n_text
from mechmask.draw.canvas import AxesLike, Canvas, Page, Width
from mechmask.draw.check import require_level, require_routes, require_shape
from mechmask.draw.palette import Palette
from mechmask.draw.style import (
    CEILING,
    CONTROL,
    DISTRACTORS,
    NEVER,
    NEW,
    OLD,
    PAGE_INCHES,
    grey,
    light_grey,
    percent,
    stroke,
)
from mechmask.errors import ReadingError
from mechmask.measure.contest import distractors_of
from mechmask.measure.reading import require
from mechmask.measure.statistics import prediction_interval

_WHAT = "The trajectory figure"
_LOOKS = {
    "old": OLD,
    "new": NEW,
    "distractors": DISTRACTORS,
    "ceiling": CEILING,
    "control": CONTROL,
    "never": NEVER,
}


def trajectory(
    reading: xr.Dataset,
    *,
    level: float = 0.95,
    axes: AxesLike | None = None,
    width: Width | None = None,
    title: str | None = None,
    palette: Palette | None = None,
    font_size: float | None = None,
) -> Figure:
    """Log-probabilities (panel a) and standing of old (panel b) along the optimizer's steps.

    Args:
        reading: ``logprob[step, fact, route]`` and ``standing[step, fact]`` in nats, ``role`` on ``fact``. Drawn
            too if the reading has them: ``ceiling[step, fact]`` in nats and the attribute ``onset_step``.
        level: of all intervals.
        axes: two panels to draw into; without them a new figure is made.
        width: of a new figure: ``"single"`` or ``"double"`` column, or inches.
        title: above both panels.
        palette: colours of old, new, distractors, ceiling, control and never: by name, in this order, or a matplotlib
            map's name.
        font_size: of the labels, in points.

    Returns:
        A figure of two panels with one step axis. Lines are means over facts with Student's t interval; the grey
        region of panel b is where one more never-known fact falls with probability ``level``.

    Raises:
        ReadingError: if the reading lacks one of these or has other dimensions, or no fact is contradicted, or if an
            option does not fit.
    """
    _check(reading)
    require_level(level)
    reading = reading.sortby("step")
    canvas = Canvas(axes, width, title, palette, font_size)
    with canvas.page(_WHAT, (1, 2), (PAGE_INCHES, 3.9), looks=_LOOKS, share=(True, False)) as page:
        left, right = page.panels
        bands = _draw_logprobs(page, left, reading, level) + _draw_standings(page, right, reading, level)
        for panel in page.panels:
            page.label_x(panel, "optimizer step")
            panel.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
            _mark_onset(panel, reading)
        page.legend(entries_of(page.panels), band_note(bands, level))
    return page.root


def _check(reading: xr.Dataset) -> None:
    require(reading, _WHAT, variables=("logprob", "standing", "role"), dims=("fact", "route", "step"))
    require_shape(reading, _WHAT, "logprob", ("step", "fact", "route"))
    require_shape(reading, _WHAT, "standing", ("step", "fact"))
    if "ceiling" in reading:
        require_shape(reading, _WHAT, "ceiling", ("step", "fact"))
    require_routes(reading, _WHAT)
    if not (reading.role == "contradicted").any():
        roles = ", ".join(sorted(set(map(str, reading.role.values))))
        raise ReadingError(f"{_WHAT} needs at least one contradicted fact. This reading has the roles {roles}.")


def _draw_logprobs(page: Page, axes: Axes, reading: xr.Dataset, level: float) -> list[Band]:
    contradicted, control = _of_role(reading, "contradicted"), _of_role(reading, "control")
    lines = [
        ("old", "old", "old", contradicted.logprob.sel(route="old")),
        ("new", "new", "new", contradicted.logprob.sel(route="new")),
        ("distractors", "distractors", "mean of distractors", distractors_of(contradicted.logprob).mean("route")),
    ]
    if "ceiling" in reading:
        lines.append(("ceiling", "ceiling", "ceiling log(1 \N{MINUS SIGN} p(new))", contradicted.ceiling))
    lines.append(("control", "controls", "old of controls", control.logprob.sel(route="old")))
    bands = _draw_lines(page, axes, lines, level)
    page.label_y(axes, "log-probability (nats)")
    page.entitle(axes, "Contest of contradicted facts")
    return bands


def _draw_standings(page: Page, axes: Axes, reading: xr.Dataset, level: float) -> list[Band]:
    lines = [
        (look, role, role, _of_role(reading, role).standing)
        for look, role in (("old", "contradicted"), ("control", "control"))
    ]
    bands = _draw_lines(page, axes, lines, level)
    bands += _draw_never(page, axes, _of_role(reading, "never").standing, level)
    page.label_y(axes, "standing S of old (nats)")
    page.entitle(axes, "Old against untaught values")
    return bands


def _draw_lines(page: Page, axes: Axes, lines: list[tuple[str, str, str, xr.DataArray]], level: float) -> list[Band]:
    """Every line that has a value at all: its look, its name at its end, its name in the legend, its values."""
    bands = []
    for look, name, label, values in lines:
        band = band_along(values, "step", level)
        if band.n.any():
            entry = f"{label} ({n_text(band)})"
            line = draw_band(axes, band, page.looks[look], entry, alpha=0.1 if look == "ceiling" else 0.18)
            page.name_line(line, name, entry, n_text(band), in_any_column=True)
        bands.append(band)
    return bands


def _draw_never(page: Page, axes: Axes, values: xr.DataArray, level: float) -> list[Band]:
    band = band_along(values, "step", level, prediction_interval)
    if np.isfinite(band.low).any():
        label = f"one never-known fact ({percent(level)} prediction interval)"
        axes.fill_between(band.x, band.low, band.high, color=light_grey(), linewidth=0, zorder=0, label=label)
    if band.n.any():
        only_line = band._replace(low=band.estimate, high=band.estimate)
        entry = f"never known ({n_text(band)})"
        page.name_line(draw_band(axes, only_line, page.looks["never"], entry), "never known", entry, n_text(band))
    return [band]


def _of_role(reading: xr.Dataset, role: str) -> xr.Dataset:
    return reading.isel(fact=np.flatnonzero(reading.role.values == role))


def _mark_onset(axes: Axes, reading: xr.Dataset) -> None:
    if "onset_step" in reading.attrs:
        step = int(reading.attrs["onset_step"])
        line = axes.axvline(step, color=grey(), linewidth=stroke(0.8), zorder=0.5)
        line.set_label(f"contradiction begins (step {step})")
