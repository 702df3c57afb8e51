"""What figures by layer share: the axis of depth, the frame, and the marks of commit layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from mechmask.draw.band import Band
from mechmask.draw.canvas import share_limits
from mechmask.draw.style import Look, grey, stroke, text_points
from mechmask.measure.commit import commit_layer

DEPTH = "depth (layer / L)"
MARGIN_NATS = "margin new \N{MINUS SIGN} old (nats)"
RUG_SHARE = 0.2  # of a panel's height, kept free of data for the commit layers
RUG_LANE = (0.03, 0.17)  # of it, where the ticks stand


def commits_along(logprob: xr.DataArray, along: str) -> np.ndarray:
    """Commit layer of new ``[fact]`` as a coordinate of ``along``, which need not hold every layer; NaN without one.

    Args:
        logprob: ``[fact, route, along]`` in nats.
        along: ``layer`` or ``depth``.
    """
    places = np.arange(logprob.sizes[along])
    numbered = logprob.drop_vars([name for name in logprob.coords if along in logprob[name].dims])
    numbered = (numbered.rename({along: "layer"}) if along != "layer" else numbered).assign_coords(layer=places)
    commits = commit_layer(numbered.to_dataset(name="logprob")).values
    committed = np.isfinite(commits)
    return np.where(committed, logprob[along].values[np.where(committed, commits, 0).astype(int)], np.nan)


def margin_commits(margin: xr.DataArray, along: str = "layer") -> np.ndarray:
    """Where old and new alone contest: the first place ``[fact]`` from which the margin stays above zero."""
    contest = xr.concat([xr.zeros_like(margin), margin], xr.DataArray(["old", "new"], dims="route", name="route"))
    return commits_along(contest, along)


def mark_commits(
    axes: Axes, commits: np.ndarray, look: Look, label: str = "", *, lane: tuple[float, float] = RUG_LANE
) -> None:
    """A tick for each fact at its commit layer, in a lane at the panel's foot; ticks at one layer stand in a pile."""
    layers = np.sort(commits[np.isfinite(commits)])
    if not len(layers):
        return
    seen: Counter[float] = Counter()
    rows = [seen.update([layer]) or seen[layer] - 1 for layer in layers.tolist()]
    pitch = min(0.04, (lane[1] - lane[0]) / max(rows) if max(rows) else 1.0)
    heights = [lane[0] + pitch * row for row in rows]
    tick = {"linestyle": "", "marker": "|", "markersize": 4, "markeredgewidth": stroke(1.0), "color": look.color}
    rug = axes.plot(layers, heights, **tick)
    rug[0].set(transform=axes.get_xaxis_transform(), label=f"commit layer of a fact{label}")


def mark_median(
    panels: Sequence[Axes], commits: np.ndarray, look: Look, label: str = "", *, linestyle: str = ":"
) -> None:
    """A vertical line at the median over the facts that commit."""
    layers = commits[np.isfinite(commits)]
    thin = {"color": look.color, "linewidth": stroke(0.8), "linestyle": linestyle, "zorder": 0.6}
    for axes in panels if len(layers) else ():
        axes.axvline(float(np.median(layers)), **thin).set_label(f"median commit layer{label}")


def mark_zero(axes: Axes) -> None:
    """A thin line at zero, behind all else."""
    axes.axhline(0, color=grey(), linewidth=stroke(0.6), zorder=0.5)


def make_room_for_rug(panels: Sequence[Axes], share: float = RUG_SHARE) -> None:
    """Lower the foot of the panels' axes so that ``share`` of the height is free of data."""
    low, high = panels[0].get_ylim()
    for axes in panels:
        axes.set_ylim(low - (high - low) * share / (1 - share), high)


def frame(panels: Sequence[Axes], bands: Sequence[Band], what: str) -> str:
    """Let the layers above the embedding rule the axes; returns what of the embedding lies outside, in words."""
    limits, outside = framed(bands, what)
    if limits:
        for axes in panels:
            axes.set_ylim(*limits)
    else:
        share_limits(panels, "y")
    return outside


def framed(bands: Sequence[Band], what: str) -> tuple[tuple[float, float] | None, str]:
    """Limits that the layers above the embedding need, and in words what of it lies outside; no limits if nothing does.

    A lens that reads the embedding as if it were the last layer is off by tens of nats, which would flatten the rest.
    """
    above = np.concatenate([edge[band.x > 0] for band in bands for edge in (band.low, band.high, band.estimate)])
    above = above[np.isfinite(above)]
    at_embedding = np.concatenate([edge[band.x == 0] for band in bands for edge in (band.low, band.high)])
    at_embedding = at_embedding[np.isfinite(at_embedding)]
    if not above.size or not at_embedding.size:
        return None, ""
    margin = 0.05 * (np.ptp(above) or 1.0)
    low, high = float(above.min() - margin), float(above.max() + margin)
    if low <= at_embedding.min() and at_embedding.max() <= high:
        return None, ""
    reach = f"{at_embedding.min():.0f} to {at_embedding.max():.0f} nats".replace("-", "\N{MINUS SIGN}")
    return (low, high), f"{what} at layer 0 leaves the frame: {reach}"


def span_layers(axes: Axes, reading: xr.Dataset) -> None:
    """Let the axis hold every layer of the reading, also those at which there is no value."""
    first, last = float(reading.layer.values[0]), float(reading.layer.values[-1])
    margin = 0.05 * (last - first or 1.0)
    axes.set_xlim(first - margin, last + margin)


def height(reading: xr.Dataset) -> float:
    """L: from the reading's ``depth[layer]``, or without one its last layer."""
    last = float(reading.layer.values[-1])
    known = "depth" in reading.coords and reading["depth"].dims == ("layer",)
    share = float(reading["depth"].values[-1]) if known else 1.0
    return last / share if last and share else 1.0


def depth_axis(axes: Axes, reading: xr.Dataset) -> None:
    """Layers below, depth above."""
    n_layers = height(reading)
    top = axes.secondary_xaxis(
        "top", functions=(lambda layer: np.asarray(layer) / n_layers, lambda share: np.asarray(share) * n_layers)
    )
    top.set_xlabel(DEPTH, fontsize=text_points(7))
    top.set_xticks([0, 0.5, 1])
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
