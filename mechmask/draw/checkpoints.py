"""The contest through depth and training at once: the mean margin by layer (rows) and checkpoint (columns).

A column is a checkpoint, however many steps lie between two: checkpoints are often spaced by powers.
"""

from __future__ import annotations

import math

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mechmask.draw.band import band_along, left_out, n_text
from mechmask.draw.canvas import AxesLike, Canvas, Page, Width
from mechmask.draw.check import contest_along, require_level
from mechmask.draw.colour import SIGNED, draw_cells, mark_missing, scale_of
from mechmask.draw.layers import DEPTH, MARGIN_NATS, height
from mechmask.draw.palette import Palette
from mechmask.draw.style import BLACK, percent, stroke, text_points
from mechmask.measure.commit import commit_layer

_WHAT = "The checkpoint figure"
COMMITTED = "half of all facts have committed to new from here up"
_MOST_STEPS = 14  # of which the number is written under the axis


def checkpoints(
    reading: xr.Dataset,
    *,
    level: float = 0.95,
    ax: Axes | None = None,
    axes: AxesLike | None = None,
    width: Width | None = None,
    title: str | None = None,
    palette: Palette | None = None,
    font_size: float | None = None,
) -> Figure:
    """Mean margin over facts, a row for every layer and a column for every checkpoint.

    Args:
        reading: ``margin[step, fact, layer]`` and ``logprob[step, fact, route, layer]`` in nats; where it has them also
            the dimension ``phrasing`` (the prompt itself is drawn), ``role`` on ``fact`` (then the contradicted facts
            are drawn, if there are any), ``depth`` on ``layer`` and the attribute ``onset_step``.
        level: of the interval of the mean; a dot stands where it holds zero.
        ax: a panel to draw into; without it a new figure is made.
        axes: the same, by the name that it has where a figure has several.
        width: of a new figure: ``"single"`` or ``"double"`` column, or inches.
        title: in place of the panel's.
        palette: a diverging map of matplotlib or its name, colours from low to high, or a dictionary of ``low``,
            ``middle`` and ``high``.
        font_size: of the labels, in points.

    Returns:
        The figure. The bar in a column is the first layer at which half of all facts have committed to the new value;
        the dashed line stands between the last checkpoint up to the onset of the contradiction and the next one.

    Raises:
        ReadingError: if the reading lacks one of these, has other dimensions, or leaves out layers, or if an option
            does not fit.
    """
    require_level(level)
    reading = checkpoint_reading(reading)
    bands = [band_along(reading.margin.isel(step=i), "layer", level) for i in range(reading.sizes["step"])]
    mean, low, high = (np.stack([getattr(band, name) for band in bands], 1) for name in ("estimate", "low", "high"))
    layers = reading.layer.values
    scale = scale_of(mean.T, layers, _WHAT)
    canvas = Canvas(axes, width, title, palette, font_size, ax)
    colours = canvas.colour_map(SIGNED, _WHAT)
    with canvas.page(_WHAT, (1, 1), (float(np.clip(1.9 + 0.25 * len(bands), 4.4, 7.0)), 4.4)) as page:
        (panel,) = page.panels
        mark_missing(panel)
        extent = (-0.5, len(bands) - 0.5, layers[0] - 0.5, layers[-1] + 0.5)
        draw_cells(panel, mean, scale, colours, extent, origin="lower")
        entries = _draw_uncertain(panel, layers, mean, (low <= 0) & (high >= 0), level)
        entries |= _draw_commits(panel, commit_layer(reading)) | _mark_onset(panel, reading)
        page.entitle(panel, "Margin by layer and checkpoint")
        _label(page, panel, reading)
        page.colour_bar(scale, f"mean {MARGIN_NATS}", extendfrac=0.05, pad=0.03)
        counted = f"colour: mean margin over {bands[0].unit}, {n_text(*bands)}"
        page.legend(entries, "\n".join(filter(None, [counted, left_out(bands), scale.note])), 1)
    return page.root


def checkpoint_reading(reading: xr.Dataset) -> xr.Dataset:
    """What the figure draws of a reading, in the order of steps.

    Raises:
        ReadingError: if it cannot be drawn.
    """
    return contest_along(reading, _WHAT, extra=("step",)).sortby("step")


def onset_column(steps: np.ndarray, onset: int) -> float:
    """Where the contradiction begins among columns: at the right edge of the last checkpoint that it has not reached.

    A checkpoint at the onset itself was read before the first step of the contradiction, so its column is wholly to the
    left; the line never runs through a column, where it would cover the dots.

    Args:
        steps: of the checkpoints, in order.
        onset: the step after which the contradiction begins.
    """
    return float(np.searchsorted(steps, onset, side="right")) - 0.5


def _draw_uncertain(axes: Axes, layers: np.ndarray, mean: np.ndarray, holds_zero: np.ndarray, level: float) -> dict:
    """A dot where the interval holds zero, light on the dark side of the colours and dark on the light one."""
    if not holds_zero.any():
        return {}
    for color, chosen in (("white", holds_zero & (mean < 0)), (BLACK, holds_zero & (mean >= 0))):
        places = np.argwhere(chosen)
        axes.plot(places[:, 1], layers[places[:, 0]], linestyle="", marker=".", markersize=1.8, color=color)
    dot = Line2D([], [], linestyle="", marker=".", markersize=3, color=BLACK)
    return {f"the mean's {percent(level)} t interval holds 0 (white where the mean is negative)": dot}


def _draw_commits(axes: Axes, commits: xr.DataArray) -> dict:
    """A bar in every column at the layer by which half of its facts have committed."""
    columns, layers = committed_half(commits)
    if not len(columns):
        return {}
    for color, width in (("white", stroke(3.0)), (BLACK, stroke(1.6))):
        axes.hlines(layers - 0.5, columns - 0.5, columns + 0.5, colors=color, linewidth=width)
    return {COMMITTED: Line2D([], [], color=BLACK, linewidth=stroke(1.6))}


def committed_half(commits: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """The checkpoints at which half of all facts have committed, by number, and the layer from which they have."""
    late = commits.fillna(np.inf).transpose("step", "fact").values
    halves = np.sort(late, 1)[:, (late.shape[1] - 1) // 2]
    there = np.flatnonzero(np.isfinite(halves))
    return there, halves[there]


def _mark_onset(axes: Axes, reading: xr.Dataset) -> dict:
    if "onset_step" not in reading.attrs:
        return {}
    step = int(reading.attrs["onset_step"])
    column = onset_column(reading.step.values, step)
    for color, width in (("white", stroke(1.8)), (BLACK, stroke(0.8))):
        axes.axvline(column, color=color, linewidth=width, linestyle="--")
    line = Line2D([], [], color=BLACK, linewidth=stroke(0.8), linestyle="--")
    return {f"contradiction begins (step {step})": line}


def _label(page: Page, axes: Axes, reading: xr.Dataset) -> None:
    steps = reading.step.values
    columns = range(0, len(steps), math.ceil(len(steps) / _MOST_STEPS))
    names = [f"{steps[column]}" for column in columns]
    tilted = sum(map(len, names)) > 3 * _MOST_STEPS
    axes.set_xticks(list(columns), names, rotation=45 if tilted else 0, ha="right" if tilted else "center")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    page.label_x(axes, "optimizer step (one column a checkpoint)")
    page.label_y(axes, "layer")
    n_layers = height(reading)
    right = axes.secondary_yaxis(
        "right", functions=(lambda layer: np.asarray(layer) / n_layers, lambda depth: np.asarray(depth) * n_layers)
    )
    right.set_ylabel(DEPTH, fontsize=text_points(7))
    right.set_yticks([0, 0.5, 1])
