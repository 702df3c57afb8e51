"""The course of a contradiction: log-probabilities and standing at every checkpoint (paper 2F, findings 1 and 2).

A raw ``logp(old)`` is never drawn without the ceiling that the new value leaves it, and the standing never without
the spread of facts that were never known, since the verdict is read against that.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation

from mechmask.draw.band import (
    Band,
    band_along,
    band_note,
    draw_band,
    n_text,
    require_level,
    require_routes,
    require_shape,
)
from mechmask.draw.style import (
    CEILING,
    CONTROL,
    DISTRACTORS,
    GREY,
    LIGHT_GREY,
    NEVER,
    NEW,
    OLD,
    PAGE_INCHES,
    Drawing,
    Look,
    entitle,
    percent,
    styled,
)
from mechmask.errors import ReadingError
from mechmask.measure.contest import distractors_of
from mechmask.measure.reading import require
from mechmask.measure.statistics import prediction_interval

_WHAT = "The trajectory figure"


def trajectory(reading: xr.Dataset, *, level: float = 0.95) -> Figure:
    """Log-probabilities (panel a) and standing of old (panel b) along the optimizer's steps.

    Args:
        reading: ``logprob[step, fact, route]`` and ``standing[step, fact]`` in nats, ``role`` on ``fact``; drawn where
            there: ``ceiling[step, fact]`` in nats and the attribute ``onset_step``.
        level: of all intervals.

    Returns:
        A figure of two panels with one step axis. Lines are means over facts with Student's t interval; the grey
        region of panel b is where one more never-known fact falls with probability ``level``.

    Raises:
        ReadingError: if the reading lacks one of these or has other dimensions, or no fact is contradicted.
    """
    _check(reading)
    require_level(level)
    reading = reading.sortby("step")
    with styled():
        figure = Drawing(PAGE_INCHES, 3.9)
        left, right = figure.subplots(1, 2, sharex=True)
        bands = {left: _draw_logprobs(left, reading, level), right: _draw_standings(right, reading, level)}
        for axes, drawn in bands.items():
            axes.set_xlabel("optimizer step")
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
            _mark_onset(axes, reading)
            _put_legend(figure, axes, band_note(drawn, level))
    return figure


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


def _draw_logprobs(axes: Axes, reading: xr.Dataset, level: float) -> list[Band]:
    contradicted, control = _of_role(reading, "contradicted"), _of_role(reading, "control")
    lines: list[tuple[str, Look, xr.DataArray]] = [
        ("old", OLD, contradicted.logprob.sel(route="old")),
        ("new", NEW, contradicted.logprob.sel(route="new")),
        ("mean of distractors", DISTRACTORS, distractors_of(contradicted.logprob).mean("route")),
    ]
    if "ceiling" in reading:
        lines.append(("ceiling log(1 \N{MINUS SIGN} p(new))", CEILING, contradicted.ceiling))
    lines.append(("old of controls", CONTROL, control.logprob.sel(route="old")))
    bands = _draw_lines(axes, lines, level)
    axes.set_ylabel("log-probability (nats)")
    entitle(axes, "a", "Contest of contradicted facts")
    return bands


def _draw_standings(axes: Axes, reading: xr.Dataset, level: float) -> list[Band]:
    lines = [
        (role, look, _of_role(reading, role).standing) for role, look in (("contradicted", OLD), ("control", CONTROL))
    ]
    bands = _draw_lines(axes, lines, level)
    bands += _draw_never(axes, _of_role(reading, "never").standing, level)
    axes.set_ylabel("standing S of old (nats)")
    entitle(axes, "b", "Old against untaught values")
    return bands


def _draw_lines(axes: Axes, lines: list[tuple[str, Look, xr.DataArray]], level: float) -> list[Band]:
    """Every line that has a value at all."""
    bands = []
    for label, look, values in lines:
        band = band_along(values, "step", level)
        if band.n.any():
            draw_band(axes, band, look, f"{label} ({n_text(band)})", alpha=0.1 if look is CEILING else 0.18)
        bands.append(band)
    return bands


def _draw_never(axes: Axes, values: xr.DataArray, level: float) -> list[Band]:
    band = band_along(values, "step", level, prediction_interval)
    if np.isfinite(band.low).any():
        label = f"one never-known fact ({percent(level)} prediction interval)"
        axes.fill_between(band.x, band.low, band.high, color=LIGHT_GREY, linewidth=0, zorder=0, label=label)
    if band.n.any():
        only_line = band._replace(low=band.estimate, high=band.estimate)
        draw_band(axes, only_line, NEVER, f"never known ({n_text(band)})")
    return [band]


def _of_role(reading: xr.Dataset, role: str) -> xr.Dataset:
    return reading.isel(fact=np.flatnonzero(reading.role.values == role))


def _mark_onset(axes: Axes, reading: xr.Dataset) -> None:
    if "onset_step" in reading.attrs:
        step = int(reading.attrs["onset_step"])
        axes.axvline(step, color=GREY, linewidth=0.8, zorder=0.5, label=f"contradiction begins (step {step})")


def _put_legend(figure: Figure, axes: Axes, note: str) -> None:
    """Under the panel, where no data can be, at a distance in inches: by panel heights the layout never settles."""
    below = axes.transAxes + ScaledTranslation(-0.4, -0.45, figure.dpi_scale_trans)
    handles, labels = axes.get_legend_handles_labels()
    axes.legend(
        *(handles, labels), title=note, loc="upper left", bbox_to_anchor=(0, 0), bbox_transform=below, alignment="left"
    )
