"""Whether two changes of one model move the residual stream the same way, layer by layer.

The reading is that of ``mechmask.change_cosine``: of every fact, the cosine between the two differences to the base.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mechmask.draw.band import band_along, band_note, draw_band, entries_of, n_text
from mechmask.draw.canvas import AxesLike, Canvas, Page, Width
from mechmask.draw.check import drawn_facts, require_level, require_shape
from mechmask.draw.layers import depth_axis, mark_zero, span_layers
from mechmask.draw.palette import Palette
from mechmask.draw.style import BLACK, BLUE, CONTROL, NEW, PURPLE, SKY, Look, shortened, stroke
from mechmask.errors import ReadingError
from mechmask.measure.reading import require

_WHAT = "The cosine figure"
_FACT_LOOKS = (
    Look(BLACK, (0, (5, 1.5)), "", 1.0),
    Look(BLUE, (0, (1, 1)), "", 1.0),
    CONTROL._replace(marker="", linestyle=(0, (4, 1.2, 1, 1.2)), linewidth=1.0),
    Look(PURPLE, (0, (7, 2, 1, 2, 1, 2)), "", 1.0),
    Look(SKY, (0, (2.5, 1.8)), "", 1.0),
)
_NAME_CHARACTERS = 26


def cosine(
    reading: xr.Dataset,
    *,
    facts: Sequence[str] = (),
    level: float = 0.95,
    ax: Axes | None = None,
    axes: AxesLike | None = None,
    width: Width | None = None,
    title: str | None = None,
    palette: Palette | None = None,
    font_size: float | None = None,
) -> Figure:
    """Cosine of the two changes by layer: the mean over facts, and single facts by name.

    Args:
        reading: ``cosine[fact, layer]`` between the two differences, -1..1 without unit, NaN where one of them moves
            nothing; where it has it also ``role`` on ``fact`` (then the mean is over the contradicted facts, if there
            are any).
        facts: labels of up to five facts that have a line each, such as the edited one.
        level: of the mean's interval, which is over facts.
        ax: a panel to draw into; without it a new figure is made.
        axes: the same, by the name that it has where a figure has several.
        width: of a new figure: ``"single"`` or ``"double"`` column, or inches.
        title: in place of the panel's.
        palette: colours of ``mean`` and of the facts: by name, in this order, or a matplotlib map's name.
        font_size: of the labels, in points.

    Returns:
        The figure. The axis goes from -1 (against each other) to 1 (the same way); 0 is at a right angle.

    Raises:
        ReadingError: if the reading lacks the cosine, has other dimensions or lacks a fact that is named, or if an
            option does not fit.
    """
    require_level(level)
    require(reading, _WHAT, variables=("cosine",), dims=("fact", "layer"))
    require_shape(reading, _WHAT, "cosine", ("fact", "layer"))
    reading = reading.sortby("layer")
    single = _facts_named(reading, facts)
    canvas = Canvas(axes, width, title, palette, font_size, ax)
    looks = {"mean": NEW, **dict(zip(single, _FACT_LOOKS, strict=False))}
    with canvas.page(_WHAT, (1, 1), (5.25, 3.4), looks=looks) as page:
        (panel,) = page.panels
        band = band_along(drawn_facts(reading).cosine, "layer", level)
        n = n_text(band._replace(n=band.n[band.n > 0]) if band.n.any() else band)  # at layer 0 nothing has moved yet
        page.name_line(draw_band(panel, band, page.looks["mean"], f"mean ({n})"), "mean", f"mean ({n})", n)
        _draw_facts(page, panel, reading.layer.values, single)
        mark_zero(panel)
        panel.set_ylim(-1.05, 1.05)
        span_layers(panel, reading)
        depth_axis(panel, reading)
        page.entitle(panel, "Do two changes move the stream the same way?")
        page.label_x(panel, "layer")
        page.label_y(panel, "cosine of the changes")
        page.legend(entries_of([panel]), band_note([band], level))
    return page.root


def _facts_named(reading: xr.Dataset, facts: Sequence[str]) -> dict[str, np.ndarray]:
    """``[layer]`` of every fact that is asked for, by its label."""
    facts = [facts] if isinstance(facts, str) else list(facts)
    labels = reading.fact.values.tolist()
    missing = [str(fact) for fact in facts if fact not in labels]
    if missing:
        raise ReadingError(f"{_WHAT} has no fact {', '.join(missing)}. This reading has {_some(labels)}.")
    if len(facts) > len(_FACT_LOOKS):
        raise ReadingError(f"{_WHAT} names up to {len(_FACT_LOOKS)} facts, and facts= holds {len(facts)}. Give fewer.")
    return {str(fact): reading.cosine.sel(fact=fact).values.astype(float) for fact in facts}


def _some(labels: Sequence[object], most: int = 8) -> str:
    listed = ", ".join(map(str, labels[:most]))
    return f"{listed} and {len(labels) - most} more" if len(labels) > most else listed


def _draw_facts(page: Page, axes: Axes, layers: np.ndarray, single: dict[str, np.ndarray]) -> None:
    for fact, values in single.items():
        look, name = page.looks[fact], shortened(fact, _NAME_CHARACTERS)
        style = {"color": look.color, "linestyle": look.linestyle, "linewidth": stroke(look.linewidth)}
        (line,) = axes.plot(layers, values, label=name, **style)
        page.name_line(line, name, name)
