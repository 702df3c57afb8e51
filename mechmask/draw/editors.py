"""Editors side by side: how well each scores by the editing field's rulers, and what it left of the old value.

A row for each editor through all panels, so that a reader sees where a high score stands beside an old value that is
still there. EI* is of the facts on which the edit took: 0 is kept, 1 as if never known.
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mechmask.draw.band import entries_of
from mechmask.draw.canvas import AxesLike, Canvas, Page, Width
from mechmask.draw.check import require_shape
from mechmask.draw.palette import Palette
from mechmask.draw.states import state_name
from mechmask.draw.style import (
    BEFORE,
    CONTROL,
    DISTRACTORS,
    MARGIN,
    PAGE_INCHES,
    VERDICT_LOOKS,
    count,
    percent,
    stroke,
)
from mechmask.draw.verdict_rows import LABEL_OF_RATIO, RATIO, draw_counts, draw_ratios, name_rows
from mechmask.errors import ReadingError
from mechmask.measure.reading import require
from mechmask.measure.verdict import MARGIN_SHARE

_WHAT = "The figure of editors"
_SCORES = {
    "efficacy_score": ("ES: the new value leads after the prompt", MARGIN._replace(marker="s")),
    "paraphrase_score": ("PS: after paraphrases", DISTRACTORS),
    "neighborhood_score": ("NS: neighbors keep their values", CONTROL),
    "harmonic_score": ("S: their harmonic mean", BEFORE._replace(marker="v")),
}
_OFFSETS = dict(zip(_SCORES, (-0.24, -0.08, 0.08, 0.24), strict=True))
_GROUP = ("group_verdict", *RATIO, "n_facts", "n_took", "n_failed")


def editors(
    editing: xr.Dataset,
    verdicts: xr.Dataset,
    *,
    axes: AxesLike | None = None,
    width: Width | None = None,
    title: str | None = None,
    palette: Palette | None = None,
    font_size: float | None = None,
) -> Figure:
    """ES, PS, NS and S (panel a), EI* of the group by its verdict (b) and the verdicts on single facts (c), by editor.

    Args:
        editing: ``results/editing`` of an ``EditStudy``: ``estimate``, ``low`` and ``high`` ``[state, metric]``, shares
            of which the editing field's four scores are drawn.
        verdicts: its ``results/verdicts``: over ``state`` the ``group_verdict`` with ``normalised`` (a ratio) and its
            ends, and the counts ``n_took``, ``n_failed``, ``n_masked`` and so on; ``verdict[state, fact]``.
        axes: three panels to draw into; without them a new figure is made.
        width: of a new figure: ``"single"`` or ``"double"`` column, or inches.
        title: above all panels.
        palette: colours of the four scores, then of masked, erased, suppressed and undecided: by name, in this order,
            or a matplotlib map's name.
        font_size: of the labels, in points.

    Returns:
        The figure; bars in panels a and b are the intervals that the results hold. The grey region of panel b is the
        margin within which old values count as erased; an interval that goes on beyond the panel ends in an arrow.

    Raises:
        ReadingError: if a result lacks one of these, has other dimensions or an unknown verdict, or an option does not
            fit.
    """
    names = _require(editing, verdicts)
    looks = {name: look for name, (_, look) in _SCORES.items()} | VERDICT_LOOKS
    canvas = Canvas(axes, width, title, palette, font_size)
    with canvas.page(_WHAT, (1, 3), (PAGE_INCHES, 2.1 + 0.36 * len(names)), looks=looks) as page:
        scores, group, facts = page.panels
        for metric in _SCORES:
            found = editing.sel(state=names, metric=metric)
            if np.isfinite(found.estimate).any():  # no neighbors, say, no NS
                _draw_score(page, scores, found, metric)
        judged = verdicts.sel(state=names)
        share = float(verdicts.attrs.get("margin_share", MARGIN_SHARE))
        goes_on = draw_ratios(page, group, judged.group_verdict, [judged[name] for name in RATIO], share)
        draw_counts(page, facts, {name: (judged.verdict == name).sum("fact").values for name in VERDICT_LOOKS})
        for panel in page.panels:
            name_rows(panel, [state_name(name).replace("_", " ") for name in names], named=panel is scores)
        page.entitle(scores, "The field's scores")
        page.label_x(scores, "share")
        page.entitle(group, "What is left of old")
        page.label_x(group, LABEL_OF_RATIO)
        page.entitle(facts, "Fact by fact")
        page.label_x(facts, "facts")
        page.legend(_entries(page, verdicts), _note(editing, verdicts, goes_on), 2)
    return page.root


def _require(editing: xr.Dataset, verdicts: xr.Dataset) -> list[str]:
    """The editors to draw, in their order."""
    require(editing, _WHAT, variables=("estimate", "low", "high"), dims=("state", "metric"))
    require_shape(editing, _WHAT, "estimate", ("state", "metric"))
    require(verdicts, _WHAT, variables=("verdict", *_GROUP), dims=("state", "fact"))
    require_shape(verdicts, _WHAT, "verdict", ("state", "fact"))
    missing = [name for name in _SCORES if name not in editing.metric.values]
    names = [str(name) for name in verdicts.state.values]
    missing += [name for name in names if name not in editing.state.values]
    if missing:
        raise ReadingError(f"{_WHAT} needs {', '.join(missing)}, which these results lack. Give those of one study.")
    unknown = sorted(
        {str(of) for of in (*verdicts.verdict.values.flat, *verdicts.group_verdict.values)} - {*VERDICT_LOOKS}
    )
    if unknown:
        raise ReadingError(f"{_WHAT} does not know the verdict {unknown[0]}. It knows {', '.join(VERDICT_LOOKS)}.")
    return names


def _draw_score(page: Page, axes: Axes, found: xr.Dataset, metric: str) -> None:
    """A mark with its interval in every row."""
    look, label = page.looks[metric], _SCORES[metric][0]
    estimate, low, high = (found[name].values.astype(float) for name in ("estimate", "low", "high"))
    heights = np.arange(len(estimate)) + _OFFSETS[metric]
    there = np.isfinite(low) & np.isfinite(high)
    axes.hlines(heights[there], low[there], high[there], color=look.color, linewidth=stroke(1.0), alpha=0.7)
    axes.plot(estimate, heights, linestyle="", marker=look.marker, color=look.color, label=label)
    axes.set_xlim(-0.04, 1.04)


def _entries(page: Page, verdicts: xr.Dataset) -> dict[str, Line2D | Patch]:
    """Scores by marker, verdicts by marker and colour: those that fell."""
    entries = entries_of(page.panels)
    fell = {*map(str, verdicts.verdict.values.flat), *map(str, verdicts.group_verdict.values)}
    for verdict in VERDICT_LOOKS:
        if verdict in fell:
            look, n = page.looks[verdict], int((verdicts.verdict == verdict).sum())
            label = f"{verdict} ({n} of {verdicts.verdict.size} in c)"
            entries[label] = Line2D([], [], linestyle="-", marker=look.marker, color=look.color)
    return entries


def _note(editing: xr.Dataset, verdicts: xr.Dataset, goes_on: bool) -> str:
    """What bars are, on how many facts edits did not take or failed."""
    n, level = int(verdicts.sizes["fact"]), percent(float(editing.attrs.get("level", 0.95)))
    inner = percent(float(verdicts.attrs.get("interval_level", 0.90)))
    lines = [f"{count(n, 'fact')}; bars: {level} intervals in a, {inner} in b; grey in b: counts as erased"]
    short = [
        f"{state_name(name)} took on {int(took)}" + (f" and failed on {int(failed)}" if failed else "")
        for name, took, failed in zip(
            verdicts.state.values, verdicts.n_took.values, verdicts.n_failed.values, strict=True
        )
        if took < n
    ]
    lines += [f"of {n}: {', '.join(short)}; b is of the facts on which an edit took"] if short else []
    return "\n".join([*lines, *(["an arrow: the interval goes on"] if goes_on else [])])
