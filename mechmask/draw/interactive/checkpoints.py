"""The heat map of layers by checkpoints under the pointer."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from mechmask.draw.band import band_along
from mechmask.draw.check import require_level
from mechmask.draw.checkpoints import COMMITTED, checkpoint_reading, committed_half, onset_column
from mechmask.draw.colour import scale_of
from mechmask.draw.interactive.page import (
    MINUS,
    WHAT,
    colour_by,
    finished,
    nats,
    note,
    plotly_modules,
)
from mechmask.draw.layers import height
from mechmask.draw.style import percent
from mechmask.measure.commit import commit_layer

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


def checkpoints(reading: xr.Dataset, *, level: float = 0.95) -> Figure:
    """Mean margin over facts, a row for every layer and a column for every checkpoint.

    Args:
        reading: as ``mechmask.draw.checkpoints`` takes it.
        level: of the means' intervals.

    Raises:
        ReadingError: if the reading lacks something, or plotly is not installed.
    """
    require_level(level)
    reading = checkpoint_reading(reading)
    objects, _ = plotly_modules()
    bands = [band_along(reading.margin.isel(step=i), "layer", level) for i in range(reading.sizes["step"])]
    steps, layers = reading.step.values, reading.layer.values
    scale = scale_of(np.stack([band.estimate for band in bands]), layers, WHAT)
    texts = [
        [
            f"<b>step {step}</b>, layer {layer} (depth {layer / height(reading):.2f})<br>mean margin new {MINUS} old: "
            f"{nats(estimate)}, {percent(level)} t interval {nats(low)} to {nats(high)} (n = {n})"
            for layer, estimate, low, high, n in zip(*band[:5], strict=True)
        ]
        for step, band in zip(steps, bands, strict=True)
    ]
    cells = objects.Heatmap(
        z=np.stack([band.estimate for band in bands], 1),
        x=np.arange(len(steps)),
        y=layers,
        hovertext=np.array(texts, dtype=object).T,
        hovertemplate="%{hovertext}<extra></extra>",
        coloraxis="coloraxis",
    )
    figure = objects.Figure([cells, _commits(objects, reading)])
    colour_by(figure, scale, f"mean margin new {MINUS} old (nats)")
    if "onset_step" in reading.attrs:
        onset = int(reading.attrs["onset_step"])
        column = onset_column(steps, onset)
        figure.add_vline(column, line_width=3, line_color="white")
        figure.add_vline(column, line_width=1.5, line_dash="dash", line_color="black")
        label = {"text": f"contradiction begins (step {onset})", "showarrow": False, "font": {"size": 11}}
        figure.add_annotation(label, x=column, y=1, yref="paper", yanchor="bottom")
    figure.update_xaxes(
        title_text="optimizer step (one column a checkpoint)",
        tickvals=list(range(len(steps))),
        ticktext=[f"{step}" for step in steps],
    )
    figure.update_yaxes(title_text="layer")
    note(figure, scale.note)
    return finished(figure, 600)


def _commits(objects: ModuleType, reading: xr.Dataset) -> Any:
    columns, layers = committed_half(commit_layer(reading))
    gap = np.full(len(columns), np.nan)
    return objects.Scatter(
        x=np.stack([columns - 0.5, columns + 0.5, gap], 1).ravel(),
        y=np.stack([layers - 0.5, layers - 0.5, gap], 1).ravel(),
        mode="lines",
        line={"color": "black", "width": 3},
        hoverinfo="skip",
        name=COMMITTED,
        showlegend=bool(len(columns)),
    )
