"""The heat map of facts by layers under the pointer."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import xarray as xr

from mechmask.draw.colour import scale_of
from mechmask.draw.heatmap import VALUES, ordered_states, table_of
from mechmask.draw.interactive.page import (
    WHAT,
    colour_by,
    escaped,
    finished,
    hover_texts,
    note,
    plotly_modules,
)
from mechmask.measure.commit import commit_layer

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_ROW_PIXELS = 18


def heatmap(reading: xr.Dataset, value: Literal["margin", "standing"] = "margin") -> Figure:
    """A row for every fact, a column for every layer, a panel for every state, in the order of the commit layers.

    Args:
        reading: as ``mechmask.draw.heatmap`` takes it; ``value[fact, route]`` and ``token[fact, route]``, where they
            are there, are shown on hovering.
        value: the margin, or the standing of old. Both in nats.

    Raises:
        ReadingError: if the reading lacks something, ``value`` is neither, or plotly is not installed.
    """
    states = ordered_states(reading, value, WHAT)
    objects, subplots = plotly_modules()
    tables = [table_of(state, value) for state in states.values()]
    scale = scale_of(np.stack(tables), reading.layer.values, WHAT)
    names = [escaped(name) for name in states]
    figure = subplots.make_subplots(1, len(states), shared_yaxes=True, subplot_titles=names, horizontal_spacing=0.03)
    facts = next(iter(states.values())).fact.values
    for column, (state, table) in enumerate(zip(states.values(), tables, strict=True), 1):
        figure.add_trace(_cells(objects, state, table), 1, column)
        commits = _commits(objects, state)
        named = any(trace.showlegend for trace in figure.data)
        figure.add_trace(commits.update(showlegend=bool(len(commits.x)) and not named), 1, column)
    colour_by(figure, scale, VALUES[value])
    figure.update_xaxes(title_text="layer")
    figure.update_yaxes(range=[len(facts) - 0.5, -0.5])
    figure.update_yaxes(tickvals=list(range(len(facts))), ticktext=[escaped(fact) for fact in facts], col=1)
    note(figure, scale.note)
    return finished(figure, 260 + _ROW_PIXELS * max(len(facts), 8))


def _cells(objects: ModuleType, state: xr.Dataset, table: np.ndarray) -> Any:
    return objects.Heatmap(
        z=np.where(np.isfinite(table), table, np.nan),
        x=state.layer.values,
        y=np.arange(len(table)),
        hovertext=hover_texts(state),
        hovertemplate="%{hovertext}<extra></extra>",
        coloraxis="coloraxis",
    )


def _commits(objects: ModuleType, state: xr.Dataset) -> Any:
    """A bar at the left edge of every fact's commit layer."""
    commits = commit_layer(state).values
    rows = np.flatnonzero(np.isfinite(commits))
    x = np.stack([commits[rows] - 0.5, commits[rows] - 0.5, np.full(len(rows), np.nan)], 1).ravel()
    y = np.stack([rows - 0.5, rows + 0.5, np.full(len(rows), np.nan)], 1).ravel()
    line = {"color": "black", "width": 3}
    name = "commit layer of new"
    return objects.Scatter(x=x, y=y, mode="lines", line=line, hoverinfo="skip", name=name, legendgroup=name)
