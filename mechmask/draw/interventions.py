"""Three answers to one question: at which depth does the new value take over?

The lens reads what each layer would say; patching and grafting change the model at that layer and ask what it then
says. Where they part, the lens sees a value that the model does not use, or misses one that it does.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from mechmask.draw.band import band_along, band_note, draw_band, entries_of, n_text
from mechmask.draw.canvas import AxesLike, Canvas, Page, Width
from mechmask.draw.check import drawn_facts, require_level, require_routes, require_shape
from mechmask.draw.layers import (
    MARGIN_NATS,
    depth_axis,
    frame,
    make_room_for_rug,
    margin_commits,
    mark_commits,
    mark_median,
    mark_zero,
)
from mechmask.draw.palette import Palette
from mechmask.draw.style import GRAFTED, MARGIN, PATCHED, grey, stroke
from mechmask.errors import ReadingError
from mechmask.measure.commit import lead, suffices_up_to
from mechmask.measure.reading import require
from mechmask.measure.statistics import Interval

_WHAT = "The intervention figure"
_LOOKS = {"lens": MARGIN, "patching": PATCHED, "grafting": GRAFTED}
_LANE = 0.07  # of the panel's height for the commit layers of each
_ENDS = {"source": (0, (1, 1.5)), "target": (0, (8, 3))}


def interventions(
    depth: xr.Dataset | None = None,
    patched: xr.Dataset | None = None,
    grafted: xr.Dataset | None = None,
    *,
    level: float = 0.95,
    ax: Axes | None = None,
    axes: AxesLike | None = None,
    width: Width | None = None,
    title: str | None = None,
    palette: Palette | None = None,
    font_size: float | None = None,
) -> Figure:
    """Margin by layer as the lens reads it, under patching, and under grafting; any of the three may be left out.

    Args:
        depth: ``margin[fact, layer]`` in nats and, where it is there, ``logprob[fact, route, layer]``, as
            ``read_depth`` gives them.
        patched: the same, of the target with layer l's residual from the source, as ``patch_residual`` gives it; where
            it has them also ``margin_source[fact]`` and ``margin_target[fact]``, the two models as they are.
        grafted: the same, of a model with the other's blocks up to or from a layer.
        level: of all intervals, over facts; over draws of facts where ``fact`` has the coordinate ``seed``.
        ax: a panel to draw into; without it a new figure is made.
        axes: the same, by the name that it has where a figure has several.
        width: of a new figure: ``"single"`` or ``"double"`` column, or inches.
        title: in place of the panel's.
        palette: colours of lens, patching and grafting: by name, in this order, or a matplotlib map's name.
        font_size: of the labels, in points.

    Returns:
        The figure. A tick is the commit layer of a fact, a vertical line their median. So that they compare, the commit
        layer is among all routes only where every reading has their log-probabilities; else it is among old and new
        alone: the layer from which the margin stays above zero. The legend says which.

    Raises:
        ReadingError: if none is given, or one lacks ``margin[fact, layer]``, or if an option does not fit.
    """
    require_level(level)
    readings = _given({"lens": depth, "patching": patched, "grafting": grafted})
    canvas = Canvas(axes, width, title, palette, font_size, ax)
    with canvas.page(_WHAT, (1, 1), (5.5, 4.2), looks=_LOOKS) as page:
        (panel,) = page.panels
        bands = {name: band_along(reading.margin, "layer", level) for name, reading in readings.items()}
        commits, rule = _commits(readings)
        for name, band in bands.items():
            committed = _draw_commits(page, panel, name, commits)
            draw_band(panel, band, page.looks[name], f"{name} ({n_text(band)}), {committed}")
        mark_zero(panel)
        outside = frame([panel], list(bands.values()), "margin")
        _draw_ends(page, panel, readings, level)
        make_room_for_rug([panel], 0.06 + _LANE * len(readings))
        depth_axis(panel, next(iter(readings.values())))
        page.entitle(panel, "The contest by reading and by intervention")
        page.label_x(panel, "layer")
        page.label_y(panel, MARGIN_NATS)
        notes = [band_note(bands.values(), level), rule, outside]
        page.legend(_entries(panel), "\n".join(filter(None, notes)))
    return page.root


def _given(readings: dict[str, xr.Dataset | None]) -> dict[str, xr.Dataset]:
    given = {}
    for name, reading in readings.items():
        if reading is None:
            continue
        require(reading, _WHAT, variables=("margin",), dims=("fact", "layer"))
        given[name] = drawn_facts(reading).sortby("layer")
        require_shape(given[name], _WHAT, "margin", ("fact", "layer"))
        for end in _ENDS:
            if f"margin_{end}" in reading:
                require_shape(given[name], _WHAT, f"margin_{end}", ("fact",))
        if "logprob" in reading:
            require_shape(given[name], _WHAT, "logprob", ("fact", "route", "layer"))
            require_routes(given[name], _WHAT)
    if not given:
        raise ReadingError(f"{_WHAT} has nothing to draw. Give depth, patched or grafted.")
    return given


def _commits(readings: dict[str, xr.Dataset]) -> tuple[dict[str, np.ndarray], str]:
    """Commit layers of each reading, and the rule in words; of grafting it is the last layer that is still enough."""
    by_logprob = all("logprob" in reading for reading in readings.values())
    leads = {name: lead(reading.logprob) if by_logprob else reading.margin for name, reading in readings.items()}
    commits = {name: margin_commits(values) for name, values in leads.items() if name != "grafting"}
    rule = "new leads every other route" if by_logprob else "the margin stays above 0"
    rules = [f"from here up {rule}"] if commits else []
    if "grafting" in leads:
        commits["grafting"] = suffices_up_to(leads["grafting"]).values
        rules.append("of grafting, up to here the blocks above are enough")
    return commits, "commit layer: " + ";\n".join(rules)


def _draw_commits(page: Page, axes: Axes, name: str, commits: dict[str, np.ndarray]) -> str:
    """The commit layers in the reading's lane; returns how many facts commit and their median."""
    foot = 0.03 + _LANE * list(commits).index(name)
    mark_commits(axes, commits[name], page.looks[name], f": {name}", lane=(foot, foot + _LANE - 0.04))
    mark_median([axes], commits[name], page.looks[name], f": {name}")
    layers = commits[name][np.isfinite(commits[name])]
    median = f", median {np.median(layers):g}" if len(layers) else ""
    return f"{len(layers)} commit{median}"


def _draw_ends(page: Page, axes: Axes, readings: dict[str, xr.Dataset], level: float) -> None:
    """The models as they are: one line where patching and grafting say the same, else one for each."""
    for end, linestyle in _ENDS.items():
        means = {
            name: _end(reading[f"margin_{end}"], level)
            for name, reading in readings.items()
            if f"margin_{end}" in reading
        }
        same = len(means) > 1 and np.allclose(*[mean[:3] for mean in means.values()][:2], atol=1e-3, equal_nan=True)
        for name, mean in list(means.items())[: 1 if same else None]:
            whose = "" if same or len(means) == 1 else f" of {name}"
            color = page.looks[name].color if whose else grey()
            line = axes.axhline(mean.estimate, color=color, linewidth=stroke(0.9), linestyle=linestyle, zorder=0.7)
            line.set_label(f"{end} model{whose} as it is (n = {mean.n})")
            axes.axhspan(mean.low, mean.high, color=color, alpha=0.1, linewidth=0, zorder=0.3)
            shown = [*axes.get_ylim(), *(edge for edge in mean[:3] if np.isfinite(edge))]
            axes.set_ylim(
                min(shown), max(shown)
            )  # the lens's frame knows nothing of the margins of the models as they are


def _end(margins: xr.DataArray, level: float) -> Interval:
    """The mean of a model as it is, with the interval of the curves: over facts, or over draws of facts."""
    band = band_along(margins.expand_dims(layer=[0]), "layer", level)
    return Interval(float(band.estimate[0]), float(band.low[0]), float(band.high[0]), int(band.n[0]))


def _entries(axes: Axes) -> dict:
    """Lines, ends, and one entry for each kind of mark: their colours are those of the lines."""
    marks = ("commit layer of a fact", "median commit layer")
    drawn = entries_of([axes])
    entries = {label: handle for label, handle in drawn.items() if not label.startswith(marks)}
    if any(label.startswith(marks) for label in drawn):
        tick = {"linestyle": "", "marker": "|", "markersize": 4, "markeredgewidth": 1.0}
        entries["commit layer of a fact, in its line's colour"] = Line2D([], [], color=grey(), **tick)
        median = Line2D([], [], color=grey(), linewidth=stroke(0.8), linestyle=":")
        entries["median commit layer, in its line's colour"] = median
    return entries
