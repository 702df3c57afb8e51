"""What is said first on the way of a later training: true, edited, related or other, as stacked shares.

After Wen and Zhang (2025, figure 4).
"""

from __future__ import annotations

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mechmask.draw.canvas import AxesLike, Canvas, Page, Width
from mechmask.draw.palette import Palette
from mechmask.draw.states import state_name
from mechmask.draw.style import DISTRACTORS, NEVER, NEW, OLD, PAGE_INCHES, paper, shortened, stroke
from mechmask.errors import ReadingError
from mechmask.measure.reading import require

_WHAT = "The figure of categories"
_LOOKS = {"true": OLD, "edited": NEW, "related": DISTRACTORS, "other": NEVER}
_HATCHES = {"true": "", "edited": "////", "related": "....", "other": ""}
_GROUPS = {"contradicted": "edited facts", "control": "intrinsic facts"}
_MOST_ROWS = 6


def categories(
    course: xr.Dataset,
    *,
    axes: AxesLike | None = None,
    width: Width | None = None,
    title: str | None = None,
    palette: Palette | None = None,
    font_size: float | None = None,
) -> Figure:
    """Mean probability of what is said first, by step: of edited facts (left) and of intrinsic ones (right).

    Args:
        course: ``results/course`` of a ``RetentionStudy``: ``share[editor, task, step, fact, category]`` with
            ``role[fact]``; one task, of which the edited models are drawn, a row for each editor.
        axes: two panels an editor to draw into, row by row; without them a new figure is made.
        width: of a new figure: ``"single"`` or ``"double"`` column, or inches.
        title: above all panels.
        palette: colours of true, edited, related and other: by name, in this order, or a matplotlib map's name.
        font_size: of the labels, in points.

    Returns:
        The figure; shares are probabilities of the first token, and a fact counts at every step with what was read of
        it last. Facts of which no related value is known are left out of all but true and edited.

    Raises:
        ReadingError: if the result lacks one of these, holds several tasks or more editors than a figure can show, or
            an option does not fit.
    """
    require(course, _WHAT, variables=("share", "role"), dims=("editor", "task", "step", "fact", "category"))
    if course.sizes["task"] != 1:
        raise ReadingError(
            f"{_WHAT} shows one task, and there are {course.sizes['task']}. Select one, such as task=[0]."
        )
    editors = [editor for editor in course.editor.values.tolist() if editor != "unedited"]
    if not 1 <= len(editors) <= _MOST_ROWS:
        raise ReadingError(f"{_WHAT} shows 1 to {_MOST_ROWS} editors, and there are {len(editors)}. Select some.")
    canvas = Canvas(axes, width, title, palette, font_size)
    inches = (PAGE_INCHES, 1.5 + 1.7 * len(editors))
    with canvas.page(_WHAT, (len(editors), 2), inches, looks=_LOOKS) as page:
        counts = []
        for row, editor in enumerate(editors):
            for column, (role, name) in enumerate(_GROUPS.items()):
                panel = page.panels[2 * row + column]
                of = course.share.sel(editor=editor).isel(task=0, fact=np.flatnonzero(course.role.values == role))
                counts.append(_stack(page, panel, of))
                page.entitle(panel, f"{shortened(state_name(editor), 20)}: {name}")
                page.label_y(panel, "probability")
                page.label_x(panel, "optimizer steps of the later training")
        entries = {
            name: Patch(facecolor=page.looks[name].color, edgecolor=paper(), hatch=_HATCHES[name]) for name in _LOOKS
        }
        page.legend(entries, f"n = {counts[0]} edited and {counts[1]} intrinsic facts; means over facts", 4)
    return page.root


def _stack(page: Page, axes: Axes, share: xr.DataArray) -> int:
    """The categories on one another; of how many facts they are."""
    whole = share.transpose("step", "fact", "category").sel(category=list(_LOOKS))
    known = whole.dropna("fact", how="any")
    means = (known if known.sizes["fact"] else whole).mean("fact").values.T
    areas = axes.stackplot(
        share.step.values,
        np.clip(np.nan_to_num(means), 0, 1),
        colors=[page.looks[name].color for name in _LOOKS],
        edgecolor=paper(),
        linewidth=stroke(0.6),
    )
    for area, name in zip(areas, _LOOKS, strict=True):
        area.set_hatch(_HATCHES[name])
    axes.set_xlim(share.step.values.min(), share.step.values.max())
    axes.set_ylim(0, 1)
    return known.sizes["fact"] or whole.sizes["fact"]
