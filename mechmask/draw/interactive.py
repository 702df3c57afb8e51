"""Twins of the figures for a notebook or a web page: the same numbers, and each one names itself under the pointer.

plotly draws them and is loaded only then. It reads text as HTML, so whatever comes from data is escaped.
"""

from __future__ import annotations

import html
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from mechmask.draw.band import band_along, n_text, require_level
from mechmask.draw.colour import ANCHORS, Scale, scale_of
from mechmask.draw.heatmap import VALUES, ordered_states, table_of
from mechmask.draw.layers import height
from mechmask.draw.style import DISTRACTORS, GREY, MARGIN, NEW, OLD, Look, percent
from mechmask.errors import ReadingError
from mechmask.measure.commit import commit_layer
from mechmask.measure.contest import distractors_of, margin, standing

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_WHAT = "The interactive figure"
_MINUS = "\N{MINUS SIGN}"
_DASHES = {"old": "solid", "new": "dash", "mean of distractors": "dashdot", "margin": "solid"}
_LOOKS = {"old": OLD, "new": NEW, "mean of distractors": DISTRACTORS, "margin": MARGIN}
_PANEL_PIXELS, _ROW_PIXELS = 380, 18


def depth(reading: xr.Dataset, *, level: float = 0.95) -> Figure:
    """Log-probabilities (upper row) and margin (lower row) by layer: a line for each fact, a thick one for the mean.

    Args:
        reading: as ``mechmask.draw.depth`` takes it; ``value[fact, route]``, where it is there, is shown on hovering.
        level: of the means' intervals.

    Raises:
        ReadingError: if the reading lacks something, or plotly is not installed.
    """
    require_level(level)
    states = ordered_states(reading, "margin", _WHAT)
    objects, subplots = _plotly()
    names = [escaped(name) for name in states]
    figure = subplots.make_subplots(
        2, len(states), shared_xaxes=True, shared_yaxes=True, subplot_titles=names, vertical_spacing=0.06
    )
    for column, state in enumerate(states.values(), 1):
        texts = _hover_texts(state)
        for label, values in _lines(state).items():
            row = 2 if label == "margin" else 1
            if label != "mean of distractors":
                figure.add_trace(_facts(objects, state, values, texts, label, column == 1), row, column)
            for trace in _mean(objects, values, label, level, column == 1):
                figure.add_trace(trace, row, column)
        figure.add_hline(0, line_width=1, line_color=GREY, row=2, col=column)  # pyright: ignore[reportArgumentType]
    figure.update_xaxes(title_text="layer", row=2)
    figure.update_yaxes(title_text="log-probability (nats)", row=1, col=1)
    figure.update_yaxes(title_text=f"margin new {_MINUS} old (nats)", row=2, col=1)
    return _finished(figure, 140 + _PANEL_PIXELS * len(states), 640)


def heatmap(reading: xr.Dataset, value: Literal["margin", "standing"] = "margin") -> Figure:
    """A row for every fact, a column for every layer, a panel for every state, in the order of the commit layers.

    Args:
        reading: as ``mechmask.draw.heatmap`` takes it; ``value[fact, route]``, where it is there, is shown on hovering.
        value: the margin, or the standing of old. Both in nats.

    Raises:
        ReadingError: if the reading lacks something, ``value`` is neither, or plotly is not installed.
    """
    states = ordered_states(reading, value, _WHAT)
    objects, subplots = _plotly()
    tables = [table_of(state, value) for state in states.values()]
    scale = scale_of(np.stack(tables), reading.layer.values, _WHAT)
    names = [escaped(name) for name in states]
    figure = subplots.make_subplots(1, len(states), shared_yaxes=True, subplot_titles=names, horizontal_spacing=0.03)
    facts = next(iter(states.values())).fact.values
    for column, (state, table) in enumerate(zip(states.values(), tables, strict=True), 1):
        figure.add_trace(_cells(objects, state, table), 1, column)
        figure.add_trace(_commits(objects, state, column == 1), 1, column)
    bar = {"title": {"text": VALUES[value], "side": "right"}}
    figure.update_layout(
        coloraxis={"colorscale": list(map(list, ANCHORS)), "cmin": -scale.limit, "cmax": scale.limit, "colorbar": bar}
    )
    figure.update_xaxes(title_text="layer")
    figure.update_yaxes(range=[len(facts) - 0.5, -0.5])
    figure.update_yaxes(tickvals=list(range(len(facts))), ticktext=[escaped(fact) for fact in facts], col=1)
    _note(figure, scale)
    return _finished(figure, 260 + _PANEL_PIXELS * len(states), 220 + _ROW_PIXELS * max(len(facts), 8))


def escaped(text: object) -> str:
    """Text from data as plotly shows it unchanged: neither HTML nor, between dollars, a formula."""
    return html.escape(str(text), quote=False).replace("$", "&#36;").replace("\n", " ")


def _plotly() -> tuple[ModuleType, ModuleType]:
    try:
        from plotly import graph_objects, subplots
    except ImportError as error:
        raise ReadingError(
            "An interactive figure needs plotly, which is not installed. Install it with: pip install plotly"
        ) from error
    return graph_objects, subplots


def _lines(state: xr.Dataset) -> dict[str, xr.DataArray]:
    """``[fact, layer]`` by what it is called."""
    lines = {name: state.logprob.sel(route=name, drop=True) for name in ("old", "new")}
    untaught = distractors_of(state.logprob)
    if untaught.sizes["route"]:
        lines["mean of distractors"] = untaught.mean("route")
    return lines | {"margin": margin(state.logprob)}


def _hover_texts(state: xr.Dataset) -> np.ndarray:
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
            lines.append(f"{route}{value}: {_nats(float(logprob.sel(route=route).values[fact, layer]))}")
        lines.append(f"margin new {_MINUS} old: {_nats(float(margins[fact, layer]))}")
        if np.isfinite(standings[fact, layer]):
            lines.append(f"standing S of old: {_nats(float(standings[fact, layer]))}")
        lines.append(f"commit layer: {commits[fact]:g}" if np.isfinite(commits[fact]) else "does not commit")
        texts[fact, layer] = "<br>".join(lines)
    return texts


def _value_text(state: xr.Dataset, fact: int, route: str) -> str:
    if "value" not in state.variables or set(state["value"].dims) != {"fact", "route"}:
        return ""
    text = escaped(state["value"].isel(fact=fact).sel(route=route).item())
    return f" \N{LEFT DOUBLE QUOTATION MARK}{text}\N{RIGHT DOUBLE QUOTATION MARK}"


def _nats(value: float) -> str:
    return f"{value:.2f} nats".replace("-", _MINUS)


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


def _mean(objects: ModuleType, values: xr.DataArray, label: str, level: float, first: bool) -> list[Any]:
    band, look = band_along(values, "layer", level), _LOOKS[label]
    texts = [
        f"<b>mean of {label}</b> (n = {n})<br>layer {x}<br>{_nats(estimate)}, {percent(level)} t interval "
        f"{_nats(low)} to {_nats(high)}"
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


def _cells(objects: ModuleType, state: xr.Dataset, table: np.ndarray) -> Any:
    return objects.Heatmap(
        z=np.where(np.isfinite(table), table, np.nan),
        x=state.layer.values,
        y=np.arange(len(table)),
        hovertext=_hover_texts(state),
        hovertemplate="%{hovertext}<extra></extra>",
        coloraxis="coloraxis",
    )


def _commits(objects: ModuleType, state: xr.Dataset, first: bool) -> Any:
    """A bar at the left edge of every fact's commit layer."""
    commits = commit_layer(state).values
    rows = np.flatnonzero(np.isfinite(commits))
    x = np.stack([commits[rows] - 0.5, commits[rows] - 0.5, np.full(len(rows), np.nan)], 1).ravel()
    y = np.stack([rows - 0.5, rows + 0.5, np.full(len(rows), np.nan)], 1).ravel()
    line = {"color": "black", "width": 3}
    name = "commit layer of new"
    return objects.Scatter(
        x=x, y=y, mode="lines", line=line, hoverinfo="skip", name=name, legendgroup=name, showlegend=first
    )


def _note(figure: Figure, scale: Scale) -> None:
    if scale.note:
        figure.add_annotation(
            text=scale.note,
            x=0,
            y=1,
            xref="paper",
            yref="paper",
            xanchor="left",
            yanchor="bottom",
            yshift=28,
            showarrow=False,
            font={"size": 11},
        )


def _finished(figure: Figure, width: int, height: int) -> Figure:
    legend = {"orientation": "h", "yanchor": "top", "y": -0.12, "x": 0}
    figure.update_layout(template="simple_white", width=width, height=height, legend=legend, hovermode="closest")
    return figure
