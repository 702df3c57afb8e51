"""Where old went: what a model says while it is corrected, and what is left of old above never having known it.

Panel a is what a user sees, the new value overtaking the old one; panel b holds the old value against the same facts
where they were never known. What lies between the two lines of panel b is the trace (DESIGN, definitions).
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mechmask.draw.band import Band, band_along, band_note, draw_band, entries_of, n_text
from mechmask.draw.canvas import AxesLike, Canvas, Page, Width
from mechmask.draw.check import require_level, require_shape
from mechmask.draw.palette import Palette
from mechmask.draw.style import CEILING, NEVER, NEW, OLD, PAGE_INCHES, grey, plain
from mechmask.measure.reading import require

_WHAT = "The trace figure"
_LOOKS = {"old": OLD, "new": NEW, "never": NEVER, "ceiling": CEILING}
_VARIABLES = ("logprob_old", "logprob_new", "ceiling", "old_after", "never_after")


def trace(
    course: xr.Dataset,
    *,
    level: float = 0.95,
    axes: AxesLike | None = None,
    width: Width | None = None,
    title: str | None = None,
    palette: Palette | None = None,
    font_size: float | None = None,
) -> Figure:
    """The contest on the prompt (panel a) and old beside never known (panel b) along a correction's steps.

    Args:
        course: what ``erase_index`` gives at every checkpoint: ``logprob_old``, ``logprob_new``, ``ceiling``,
            ``old_after`` and ``never_after``, each ``[step, fact]`` in nats; where they are there, ``won_step[fact]``
            marks where new has just won, and the attribute ``statistic`` names what panel b shows.
        level: of all intervals.
        axes: two panels to draw into; without them a new figure is made.
        width: of a new figure: ``"single"`` or ``"double"`` column, or inches.
        title: above both panels.
        palette: colours of old, new, never known and the ceiling: by name, in this order, or a matplotlib map's name.
        font_size: of the labels, in points.

    Returns:
        A figure of two panels with one step axis; lines are means over facts with Student's t interval.

    Raises:
        ReadingError: if the course lacks one of these or has other dimensions, or if an option does not fit.
    """
    require(course, _WHAT, variables=_VARIABLES, dims=("step", "fact"))
    for name in _VARIABLES:
        require_shape(course, _WHAT, name, ("step", "fact"))
    require_level(level)
    course = course.sortby("step")
    canvas = Canvas(axes, width, title, palette, font_size)
    with canvas.page(_WHAT, (1, 2), (PAGE_INCHES, 3.6), looks=_LOOKS, share=(True, False)) as page:
        left, right = page.panels
        said = [
            ("old", "old", "old", course.logprob_old),
            ("new", "new", "new", course.logprob_new),
            ("ceiling", "ceiling", "ceiling log(1 \N{MINUS SIGN} p(new))", course.ceiling),
        ]
        held = [
            ("old", "known before", "where it was known", course.old_after),
            ("never", "never known", "the same facts, never known", course.never_after),
        ]
        bands = _draw(page, left, said, level)
        bands += _draw(page, right, held, level)
        page.label_y(left, "log-probability on the prompt (nats)")
        page.entitle(left, "What the model says")
        page.label_y(right, f"{plain(str(course.attrs.get('statistic', 'statistic')).replace('_', ' '))} of old (nats)")
        page.entitle(right, "What is left of old")
        for panel in page.panels:
            page.label_x(panel, "optimizer step of the correction")
            panel.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
            _mark_won(panel, course)
        page.legend(entries_of(page.panels), band_note(bands, level))
    return page.root


def _draw(page: Page, axes: Axes, lines: list[tuple[str, str, str, xr.DataArray]], level: float) -> list[Band]:
    bands = []
    for look, name, label, values in lines:
        band = band_along(values, "step", level)
        entry = f"{label} ({n_text(band)})"
        line = draw_band(axes, band, page.looks[look], entry, alpha=0.1 if look == "ceiling" else 0.18)
        page.name_line(line, name, entry, n_text(band), in_any_column=True)
        bands.append(band)
    return bands


def _mark_won(axes: Axes, course: xr.Dataset) -> None:
    """A tick at the foot of the panel for every fact, where the correction took on it."""
    if "won_step" not in course:
        return
    steps = course.won_step.values[np.isfinite(course.won_step.values)]
    foot = axes.get_xaxis_transform()
    label = f"new has just won on a fact ({len(steps)} of {course.sizes['fact']})"
    axes.plot(steps, np.full(len(steps), 0.03), transform=foot, linestyle="", marker="|", color=grey(), label=label)
