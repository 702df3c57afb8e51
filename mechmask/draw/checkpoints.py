"""The contest through depth and training at once: the mean margin by layer (rows) and checkpoint (columns).

A column is a checkpoint, however many steps lie between two: checkpoints are often spaced by powers.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from mechmask.draw.band import (
    band_along,
    n_text,
    require_level,
    require_routes,
    require_shape,
)
from mechmask.draw.colour import SIGNED, Scale, scale_of
from mechmask.draw.layers import drawn_facts, height
from mechmask.draw.style import (
    BLACK,
    GREY,
    Drawing,
    legend_below,
    percent,
    styled,
)
from mechmask.measure.commit import commit_layer
from mechmask.measure.reading import require

_WHAT = "The checkpoint figure"
COMMITTED = "half of all facts have committed to new from here up"
_MOST_STEPS = 14  # of which the number is written under the axis


def checkpoints(reading: xr.Dataset, *, level: float = 0.95) -> Figure:
    """Mean margin over facts, a row for every layer and a column for every checkpoint.

    Args:
        reading: ``margin[step, fact, layer]`` and ``logprob[step, fact, route, layer]`` in nats; where it has them also
            the dimension ``phrasing`` (the prompt itself is drawn), ``role`` on ``fact`` (then the contradicted facts
            are drawn, if there are any), ``depth`` on ``layer`` and the attribute ``onset_step``.
        level: of the interval of the mean; a dot stands where it holds zero.

    Returns:
        The figure. The bar in a column is the first layer at which half of all facts have committed to the new value.

    Raises:
        ReadingError: if the reading lacks one of these, has other dimensions, or leaves out layers.
    """
    require_level(level)
    reading = checkpoint_reading(reading)
    bands = [band_along(reading.margin.isel(step=i), "layer", level) for i in range(reading.sizes["step"])]
    mean, low, high = (np.stack([getattr(band, name) for band in bands], 1) for name in ("estimate", "low", "high"))
    scale = scale_of(mean.T, reading.layer.values, _WHAT)
    with styled():
        figure = Drawing(float(np.clip(1.9 + 0.25 * len(bands), 4.4, 7.0)), 4.4)
        axes = figure.subplots()
        layers = reading.layer.values
        axes.patch.set(hatch="//////", edgecolor=GREY, facecolor="white")
        image = axes.imshow(
            np.ma.masked_invalid(mean),
            cmap=SIGNED.with_extremes(bad=(0, 0, 0, 0)),
            vmin=-scale.limit,
            vmax=scale.limit,
            extent=(-0.5, len(bands) - 0.5, layers[0] - 0.5, layers[-1] + 0.5),
            origin="lower",
            aspect="auto",
            interpolation="nearest",
        )
        entries = _draw_uncertain(axes, layers, mean, (low <= 0) & (high >= 0), level)
        entries |= _draw_commits(axes, commit_layer(reading)) | _mark_onset(axes, reading)
        _label(axes, reading)
        bar = figure.colorbar(image, ax=axes, extend=scale.extend, extendfrac=0.05, pad=0.03, aspect=30)
        bar.set_label("mean margin new \N{MINUS SIGN} old (nats)")
        n_infinite = sum(band.n_infinite for band in bands)
        legend_below(figure, entries, _note(f"{bands[0].unit}, {n_text(*bands)}", scale, n_infinite), 1)
    return figure


def checkpoint_reading(reading: xr.Dataset) -> xr.Dataset:
    """What the figure draws of a reading, in the order of steps.

    Raises:
        ReadingError: if it cannot be drawn.
    """
    require(reading, _WHAT, variables=("logprob", "margin"), dims=("step", "fact", "route", "layer"))
    reading = drawn_facts(reading)
    require_shape(reading, _WHAT, "logprob", ("step", "fact", "route", "layer"))
    require_shape(reading, _WHAT, "margin", ("step", "fact", "layer"))
    require_routes(reading, _WHAT)
    return reading.sortby("step")


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
    for color, width in (("white", 3.0), (BLACK, 1.6)):
        axes.hlines(layers - 0.5, columns - 0.5, columns + 0.5, colors=color, linewidth=width)
    return {COMMITTED: Line2D([], [], color=BLACK, linewidth=1.6)}


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
    column = float(np.interp(step, reading.step.values, np.arange(reading.sizes["step"])))
    for color, width in (("white", 1.8), (BLACK, 0.8)):
        axes.axvline(column, color=color, linewidth=width, linestyle="--")
    line = Line2D([], [], color=BLACK, linewidth=0.8, linestyle="--")
    return {f"contradiction begins (step {step})": line}


def _label(axes: Axes, reading: xr.Dataset) -> None:
    steps = reading.step.values
    columns = range(0, len(steps), -(-len(steps) // _MOST_STEPS))
    names = [f"{steps[column]}" for column in columns]
    tilted = sum(map(len, names)) > 3 * _MOST_STEPS
    axes.set_xticks(list(columns), names, rotation=45 if tilted else 0, ha="right" if tilted else "center")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    axes.set_xlabel("optimizer step (one column a checkpoint)")
    axes.set_ylabel("layer")
    n_layers = height(reading)
    right = axes.secondary_yaxis(
        "right", functions=(lambda layer: np.asarray(layer) / n_layers, lambda depth: np.asarray(depth) * n_layers)
    )
    right.set_ylabel("depth (layer / L)", fontsize=7)
    right.set_yticks([0, 0.5, 1])


def _note(counted: str, scale: Scale, n_infinite: int) -> str:
    left_out = f"{n_infinite} infinite value{'s' * (n_infinite != 1)} left out" if n_infinite else ""
    return "\n".join(filter(None, [f"colour: mean margin over {counted}", left_out, scale.note]))
