"""The depth trajectory under the pointer: a line for every fact, a thick one for the mean with its interval."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from mechmask.draw.band import Band, band_along, n_text
from mechmask.draw.check import require_level
from mechmask.draw.heatmap import ordered_states
from mechmask.draw.interactive.page import (
    MINUS,
    WHAT,
    escaped,
    finished,
    hover_texts,
    nats,
    note,
    plotly_modules,
)
from mechmask.draw.layers import framed
from mechmask.draw.style import DISTRACTORS, GREY, MARGIN, NEW, OLD, Look, percent
from mechmask.measure.contest import distractors_of, margin

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_DASHES = {"old": "solid", "new": "dash", "mean of distractors": "dashdot", "margin": "solid"}
_LOOKS = {"old": OLD, "new": NEW, "mean of distractors": DISTRACTORS, "margin": MARGIN}


def depth(reading: xr.Dataset, *, level: float = 0.95) -> Figure:
    """Log-probabilities (upper row) and margin (lower row) by layer: a line for each fact, a thick one for the mean.

    Args:
        reading: as ``mechmask.draw.depth`` takes it; ``value[fact, route]`` and ``token[fact, route]``, where they are
            there, are shown on hovering.
        level: of the means' intervals.

    Returns:
        The figure. Layers above the embedding rule the axes, and a line above says how far layer 0 goes; a double click
        shows it.

    Raises:
        ReadingError: if the reading lacks something, or plotly is not installed.
    """
    require_level(level)
    states = ordered_states(reading, "margin", WHAT)
    objects, subplots = plotly_modules()
    names = [escaped(name) for name in states]
    figure = subplots.make_subplots(
        2, len(states), shared_xaxes=True, shared_yaxes=True, subplot_titles=names, vertical_spacing=0.06
    )
    drawn: dict[int, list[Band]] = {1: [], 2: []}
    for column, state in enumerate(states.values(), 1):
        texts = hover_texts(state)
        for label, values in _lines(state).items():
            row = 2 if label == "margin" else 1
            if label != "mean of distractors":
                figure.add_trace(_facts(objects, state, values, texts, label, column == 1), row, column)
            band = band_along(values, "layer", level)
            drawn[row] += [band, _reach(values, band)]
            for trace in _mean(objects, band, label, level, column == 1):
                figure.add_trace(trace, row, column)
        figure.add_hline(0, line_width=1, line_color=GREY, row=2, col=column)  # pyright: ignore[reportArgumentType]
    outside = []
    for row, what in ((1, "log-probability"), (2, "margin")):
        limits, beyond = framed(drawn[row], what)
        figure.update_yaxes(range=limits, row=row)
        outside.append(beyond)
    note(figure, "; ".join(filter(None, outside)))
    figure.update_xaxes(title_text="layer", row=2)
    figure.update_yaxes(title_text="log-probability (nats)", row=1, col=1)
    figure.update_yaxes(title_text=f"margin new {MINUS} old (nats)", row=2, col=1)
    return finished(figure, 700)


def _lines(state: xr.Dataset) -> dict[str, xr.DataArray]:
    """``[fact, layer]`` by what it is called."""
    lines = {name: state.logprob.sel(route=name, drop=True) for name in ("old", "new")}
    untaught = distractors_of(state.logprob)
    if untaught.sizes["route"]:
        lines["mean of distractors"] = untaught.mean("route")
    return lines | {"margin": margin(state.logprob)}


def _facts(
    objects: ModuleType, state: xr.Dataset, values: xr.DataArray, texts: np.ndarray, label: str, first: bool
) -> Any:
    """All facts' lines as one trace, with a gap between two: a trace each would be slow to draw."""
    table = values.transpose("fact", "layer").values.astype(float)
    table = np.where(np.isfinite(table), table, np.nan)
    gap = np.full((len(table), 1), np.nan)
    x = np.hstack([np.broadcast_to(state.layer.values, table.shape), gap]).ravel()
    hover = np.hstack([texts, np.full((len(table), 1), "", dtype=object)]).ravel()
    return objects.Scatter(
        x=x,
        y=np.hstack([table, gap]).ravel(),
        mode="lines",
        line={"color": _LOOKS[label].color, "width": 1, "dash": _DASHES[label]},
        opacity=0.35,
        hovertext=hover,
        hovertemplate="%{hovertext}<extra></extra>",
        name=f"{label}: each fact",
        legendgroup=f"{label} facts",
        showlegend=first,
    )


def _reach(values: xr.DataArray, band: Band) -> Band:
    """From the lowest fact to the highest, where they are finite."""
    finite = values.where(np.isfinite(values))
    return band._replace(low=finite.min("fact").values, high=finite.max("fact").values)


def _mean(objects: ModuleType, band: Band, label: str, level: float, first: bool) -> list[Any]:
    look = _LOOKS[label]
    texts = [
        f"<b>mean of {label}</b> (n = {n})<br>layer {x}<br>{nats(estimate)}, {percent(level)} t interval "
        f"{nats(low)} to {nats(high)}"
        for x, estimate, low, high, n in zip(*band[:5], strict=True)
    ]
    there = np.isfinite(band.low)
    edge = {
        "x": np.concatenate([band.x[there], band.x[there][::-1]]),
        "y": np.concatenate([band.low[there], band.high[there][::-1]]),
    }
    region = objects.Scatter(
        **edge,
        mode="lines",
        line={"width": 0},
        fill="toself",
        fillcolor=_translucent(look),
        hoverinfo="skip",
        legendgroup=label,
        showlegend=False,
    )
    line = objects.Scatter(
        x=band.x,
        y=band.estimate,
        mode="lines",
        line={"color": look.color, "width": 3, "dash": _DASHES[label]},
        hovertext=texts,
        hovertemplate="%{hovertext}<extra></extra>",
        name=f"{label}: mean ({n_text(band)})",
        legendgroup=label,
        showlegend=first,
    )
    return [region, line]


def _translucent(look: Look) -> str:
    red, green, blue = (int(look.color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, 0.15)"
