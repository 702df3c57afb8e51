"""The contest layer by layer: at which depth the new value takes the lead for good (paper 2F, finding 5).

One column for each state of the study, so that the same facts stand beside each other before and after a change.
Which lens read the layers is in the reading's attrs; a lens is not the model's output before the last layer.
"""

from __future__ import annotations

from collections import Counter
from string import ascii_lowercase

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

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
from mechmask.draw.states import by_state
from mechmask.draw.style import (
    COLUMN_INCHES,
    DISTRACTORS,
    GREY,
    MARGIN,
    NEW,
    OLD,
    PAGE_INCHES,
    Drawing,
    entitle,
    styled,
)
from mechmask.measure.commit import commit_layer
from mechmask.measure.contest import distractors_of
from mechmask.measure.reading import require

_WHAT = "The depth figure"
_RUG_SHARE = 0.2  # of the lower panels' height, kept free of data for the commit layers


def depth(reading: xr.Dataset, *, level: float = 0.95) -> Figure:
    """Log-probabilities (upper row) and margin (lower row) by layer, a column for each state.

    Args:
        reading: ``logprob[fact, route, layer]`` and ``margin[fact, layer]`` in nats; where it has them also
            the dimension ``state``, the dimension ``phrasing`` (the prompt itself is drawn), ``depth`` on ``layer``,
            and ``role`` on ``fact`` (then the contradicted facts are drawn, if there are any).
        level: of all intervals.

    Returns:
        The figure. Ticks under the margin are the commit layers of the new value, one a fact; the vertical line is
        their median over the facts that commit. The layers above the embedding rule the axes; where layer 0 lies
        outside, the legend says how far.

    Raises:
        ReadingError: if the reading lacks one of these, has other dimensions, or leaves out layers.
    """
    require_level(level)
    states = _states(reading)
    with styled():
        n_states = len(states)
        figure = Drawing({1: COLUMN_INCHES, 2: 5.25}.get(n_states, PAGE_INCHES / 3 * n_states), 4.4)
        grid = figure.subplots(2, n_states, sharex=True, sharey="row", squeeze=False)
        bands: dict[str, list[Band]] = {}
        for column, (name, state) in enumerate(states.items()):
            upper, lower = grid[:, column]
            for label, band in (_draw_routes(upper, state, level) | _draw_margin(lower, state, level)).items():
                bands.setdefault(label, []).append(band)
            entitle(upper, ascii_lowercase[column % 26], name)
            committed = _draw_commits((upper, lower), commit_layer(state))
            entitle(lower, ascii_lowercase[(n_states + column) % 26], committed)
            _depth_axis(upper, state)
            lower.set_xlabel("layer")
        outside = [_frame(axes, bands, labels) for axes, labels in zip(grid[:, 0], _rows(bands), strict=True)]
        low, high = grid[1, 0].get_ylim()
        grid[1, 0].set_ylim(low - (high - low) * _RUG_SHARE / (1 - _RUG_SHARE), high)
        grid[0, 0].set_ylabel("log-probability (nats)")
        grid[1, 0].set_ylabel("margin new \N{MINUS SIGN} old (nats)")
        _put_legend(figure, grid, bands, level, [said for said in outside if said])
    return figure


def _states(reading: xr.Dataset) -> dict[str, xr.Dataset]:
    """The facts to draw, by what their column is called."""
    require(reading, _WHAT, variables=("logprob", "margin"), dims=("fact", "route", "layer"))
    if "phrasing" in reading.dims:
        reading = reading.isel(phrasing=0, drop=True)
    extra = ("state",) if "state" in reading.dims else ()
    require_shape(reading, _WHAT, "logprob", ("fact", "route", "layer", *extra))
    require_shape(reading, _WHAT, "margin", ("fact", "layer", *extra))
    require_routes(reading, _WHAT)
    if "role" in reading.coords and (reading.role == "contradicted").any():
        reading = reading.isel(fact=np.flatnonzero(reading.role.values == "contradicted"))
    return by_state(reading, "The contest")


def _draw_routes(axes: Axes, state: xr.Dataset, level: float) -> dict[str, Band]:
    lines = {
        "old": (OLD, state.logprob.sel(route="old")),
        "new": (NEW, state.logprob.sel(route="new")),
        "mean of distractors": (DISTRACTORS, distractors_of(state.logprob).mean("route")),
    }
    bands = {label: band_along(values, "layer", level) for label, (_, values) in lines.items()}
    for label, band in bands.items():
        if band.n.any():
            draw_band(axes, band, lines[label][0], label)
    return bands


def _draw_margin(axes: Axes, state: xr.Dataset, level: float) -> dict[str, Band]:
    band = band_along(state.margin, "layer", level)
    axes.axhline(0, color=GREY, linewidth=0.6, zorder=0.5)
    draw_band(axes, band, MARGIN, "margin")
    return {"margin": band}


def _draw_commits(panels: tuple[Axes, Axes], commits: xr.DataArray) -> str:
    """A tick for each fact at its commit layer and a line at the median, in the lower panel; returns what it shows."""
    layers = np.sort(commits.values[np.isfinite(commits.values)])
    said = f"{len(layers)} of {commits.size} commit"
    if not len(layers):
        return said
    lower = panels[1]
    seen: Counter[float] = Counter()
    rows = [seen.update([layer]) or seen[layer] - 1 for layer in layers.tolist()]
    pitch = min(0.04, (_RUG_SHARE - 0.06) / max(rows) if max(rows) else 1.0)
    heights = [0.03 + pitch * row for row in rows]
    rug = lower.plot(layers, heights, linestyle="", marker="|", markersize=4, markeredgewidth=1.0, color=NEW.color)
    rug[0].set(transform=lower.get_xaxis_transform(), label="commit layer of a fact")
    median = float(np.median(layers))
    for axes in panels:
        axes.axvline(median, color=NEW.color, linewidth=0.8, linestyle=":", zorder=0.6, label="median commit layer")
    return f"{said}, median {median:g}"


def _rows(bands: dict[str, list[Band]]) -> tuple[list[str], list[str]]:
    """What is drawn in the upper and in the lower row."""
    return [label for label in bands if label != "margin"], ["margin"]


def _frame(axes: Axes, bands: dict[str, list[Band]], labels: list[str]) -> str:
    """Let the layers above the embedding rule the axis; returns what of the embedding lies outside, in words.

    A lens that reads the embedding as if it were the last layer is off by tens of nats, which would flatten the rest.
    """
    drawn = [band for label in labels for band in bands[label]]
    above = np.concatenate([edge[band.x > 0] for band in drawn for edge in (band.low, band.high, band.estimate)])
    above = above[np.isfinite(above)]
    at_embedding = np.concatenate([edge[band.x == 0] for band in drawn for edge in (band.low, band.high)])
    at_embedding = at_embedding[np.isfinite(at_embedding)]
    if not above.size or not at_embedding.size:
        return ""
    margin = 0.05 * (np.ptp(above) or 1.0)
    low, high = above.min() - margin, above.max() + margin
    if low <= at_embedding.min() and at_embedding.max() <= high:
        return ""
    axes.set_ylim(low, high)
    what = "margin" if labels == ["margin"] else "log-probability"
    reach = f"{at_embedding.min():.0f} to {at_embedding.max():.0f} nats".replace("-", "\N{MINUS SIGN}")
    return f"{what} at layer 0 leaves the frame: {reach}"


def _depth_axis(axes: Axes, state: xr.Dataset) -> None:
    last = state.layer.values[-1]
    share = float(state["depth"].values[-1]) if "depth" in state.coords else 1.0
    n_layers = float(last) / share if last and share else 1.0
    top = axes.secondary_xaxis(
        "top", functions=(lambda layer: np.asarray(layer) / n_layers, lambda share: np.asarray(share) * n_layers)
    )
    top.set_xlabel("depth (layer / L)", fontsize=7)
    top.set_xticks([0, 0.5, 1])
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def _put_legend(
    figure: Figure, grid: np.ndarray, bands: dict[str, list[Band]], level: float, outside: list[str]
) -> None:
    """Under all panels; each entry once, with n over all states."""
    drawn = {
        label: handle for axes in grid.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    entries = {f"{label} ({n_text(*bands[label])})": drawn.pop(label) for label in bands if label in drawn} | drawn
    note = "\n".join([band_note((band for of_states in bands.values() for band in of_states), level), *outside])
    n_columns = min(3, grid.shape[1] + 1)
    figure.legend(
        list(entries.values()), list(entries), title=note, loc="outside lower center", ncols=n_columns, alignment="left"
    )
