"""What the interactive figures share: plotly itself, what the pointer says, the colour scale, the page."""

from __future__ import annotations

import html
import textwrap
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr

from mechmask.draw.colour import ANCHORS, Scale
from mechmask.draw.layers import height
from mechmask.errors import ReadingError
from mechmask.measure.commit import commit_layer
from mechmask.measure.contest import margin, standing

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

WHAT = "The interactive figure"
MINUS = "\N{MINUS SIGN}"
_NOTE_CHARACTERS = 90  # of a line above the figure
_FOOT_PIXELS = 120  # for the axis' title and a legend of two lines


def plotly_modules() -> tuple[ModuleType, ModuleType]:
    """Plotly's graph objects and subplots.

    Raises:
        ReadingError: if plotly is not installed.
    """
    try:
        from plotly import graph_objects, subplots
    except ImportError as error:
        raise ReadingError(
            "An interactive figure needs plotly, which is not installed. Install it with: pip install plotly"
        ) from error
    return graph_objects, subplots


def escaped(text: object) -> str:
    """Text from data as plotly shows it unchanged: neither HTML nor, between dollars, a formula."""
    return html.escape(str(text), quote=False).replace("$", "&#36;").replace("\n", " ")


def hover_texts(state: xr.Dataset) -> np.ndarray:
    """What the pointer says at ``[fact, layer]``."""
    logprob = state.logprob.transpose("fact", "route", "layer")
    margins, standings = margin(logprob).values, standing(logprob).values
    commits = commit_layer(state).values
    depths = state.layer.values / height(state)
    texts = np.empty(margins.shape, dtype=object)
    for fact, layer in np.ndindex(*texts.shape):
        lines = [f"<b>{escaped(state.fact.values[fact])}</b>"]
        lines.append(f"layer {state.layer.values[layer]} (depth {depths[layer]:.2f})")
        for route in ("old", "new"):
            value = _value_text(state, fact, route)
            lines.append(f"{route}{value}: {nats(float(logprob.sel(route=route).values[fact, layer]))}")
        lines.append(f"margin new {MINUS} old: {nats(float(margins[fact, layer]))}")
        if np.isfinite(standings[fact, layer]):
            lines.append(f"standing S of old: {nats(float(standings[fact, layer]))}")
        lines.append(f"commit layer: {commits[fact]:g}" if np.isfinite(commits[fact]) else "does not commit")
        texts[fact, layer] = "<br>".join(lines)
    return texts


def _value_text(state: xr.Dataset, fact: int, route: str) -> str:
    """The value of a route and, where the reading knows them, the tokens at which it was read."""
    texts = [
        f"{before}\N{LEFT DOUBLE QUOTATION MARK}{escaped(state[name].isel(fact=fact).sel(route=route).item())}"
        "\N{RIGHT DOUBLE QUOTATION MARK}"
        for name, before in (("value", " "), ("token", " at "))
        if name in state.variables and set(state[name].dims) == {"fact", "route"}
    ]
    return "".join(texts)


def nats(value: float) -> str:
    """A number of nats, with a minus sign that is one."""
    return f"{value:.2f} nats".replace("-", MINUS)


def colour_by(figure: Figure, scale: Scale, title: str) -> None:
    """The scale of the printed figures for every heat map of a figure, and its bar."""
    bar = {"title": {"text": title, "side": "right"}}
    figure.update_layout(
        coloraxis={"colorscale": list(map(list, ANCHORS)), "cmin": -scale.limit, "cmax": scale.limit, "colorbar": bar}
    )


def note(figure: Figure, text: str) -> None:
    """What the figure leaves out, above it."""
    if text:
        figure.add_annotation(
            text="<br>".join(textwrap.wrap(text, _NOTE_CHARACTERS)),
            x=0,
            y=1,
            xref="paper",
            yref="paper",
            xanchor="left",
            align="left",
            yanchor="bottom",
            yshift=28,
            showarrow=False,
            font={"size": 11},
        )


def finished(figure: Figure, height: int) -> Figure:
    """The figure as wide as the frame that it stands in, whatever that is, with its legend at the foot.

    Args:
        figure: with all its traces.
        height: in pixels, which its rows need; a frame that is lower scrolls.
    """
    legend = {"orientation": "h", "yref": "container", "yanchor": "bottom", "y": 0.01, "x": 0}
    figure.update_layout(
        template="simple_white",
        autosize=True,
        width=None,
        height=height,
        legend=legend,
        margin={"l": 10, "r": 10, "b": _FOOT_PIXELS},
        hovermode="closest",
    )
    figure.update_xaxes(automargin=True)
    figure.update_yaxes(automargin=True)
    return figure
