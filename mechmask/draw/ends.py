"""Lines named at their end, so that no eye has to travel to a legend: where there is room, and else not at all.

Names stand to the right of the panel, each at the height at which its line ends; where two would touch they are moved
apart a little. Where that would not do, the panel's lines stay in the legend.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.lines import Line2D
from matplotlib.text import Text

from mechmask.draw.style import readable, text_points

_WIDEST = 0.36  # of the panel's width: a longer name would cost more than it tells
_FARTHEST = 1.7  # heights of a line of text by which a name may be moved from where its line ends
_GAP_POINTS = 3.0


@dataclass
class LineEnd:
    """A line to name at its end, the legend entry that the name replaces, and of how many facts it is the mean."""

    line: Line2D
    name: str
    entry: str
    n: str = ""
    text: Text | None = None

    @property
    def axes(self) -> Axes:
        """The panel of the line."""
        return cast("Axes", self.line.axes)


def name_ends(ends: list[LineEnd], renderer: RendererBase) -> set[str]:
    """Name the lines of every panel that has room; the names of the others go.

    Args:
        ends: the lines, of any number of panels that are laid out.
        renderer: which measures the text.

    Returns:
        The legend entries that are no longer needed.
    """
    named: set[str] = set()
    for axes in dict.fromkeys(end.axes for end in ends):
        of_panel = [end for end in ends if end.axes is axes]
        for end in of_panel:
            _put(end)
        if _stand_apart(axes, of_panel, renderer):
            named |= {end.entry for end in of_panel}
        else:
            for end in of_panel:
                _take_away(end)
    return named


def _put(end: LineEnd) -> None:
    if end.text is None:
        end.text = end.axes.annotate(
            end.name,
            xy=(1, 0),
            xycoords=end.axes.get_yaxis_transform(),
            xytext=(_GAP_POINTS, 0),
            textcoords="offset points",
            ha="left",
            va="center",
            fontsize=text_points(7),
            color=readable(str(end.line.get_color())),
            annotation_clip=False,
        )
        end.text.set_gid(f"end of {end.entry}")


def _take_away(end: LineEnd) -> None:
    if end.text is not None:
        end.text.remove()
        end.text = None


def _stand_apart(axes: Axes, ends: list[LineEnd], renderer: RendererBase) -> bool:
    """Move the names to the heights of their lines' ends and apart; returns whether they stand well."""
    points = [_last_point(end.line) for end in ends]
    if any(point is None for point in points):
        return False
    at = np.array([point for point in points if point is not None])
    boxes = [end.text.get_window_extent(renderer) for end in ends if end.text is not None]
    ends_at = axes.transData.transform(at)[:, 1] if len(at) else np.empty(0)
    line_height = max((box.height for box in boxes), default=0.0)
    heights = spread(ends_at, line_height)
    scale = 72 / axes.get_figure(root=True).dpi  # pyright: ignore[reportOptionalMemberAccess]
    for end, (_, y), height, pixel in zip(ends, at, heights, ends_at, strict=True):
        if end.text is not None:
            end.text.xy = (1, y)  # pyright: ignore[reportAttributeAccessIssue]
            end.text.set_position((_GAP_POINTS, (height - pixel) * scale))
    within = bool(((ends_at >= axes.bbox.y0 - 1) & (ends_at <= axes.bbox.y1 + 1)).all())
    narrow = all(box.width <= _WIDEST * axes.bbox.width for box in boxes)
    together = len(at) > 0 and float(np.ptp(at[:, 0])) <= 1e-9 * max(1.0, float(np.abs(at[:, 0]).max()))
    return within and narrow and together and bool((np.abs(heights - ends_at) <= _FARTHEST * line_height).all())


def spread(wanted: np.ndarray, apart: float) -> np.ndarray:
    """The heights nearest to ``wanted``, in the least squares, of which no two are nearer than ``apart``.

    Names that touch form a block about the mean of where they would stand (isotonic regression of ``wanted`` less what
    each has below it, by pooling adjacent violators).
    """
    order = np.argsort(wanted, kind="stable")
    ranks = apart * np.arange(len(wanted))
    blocks: list[list[float]] = []
    for value in wanted[order] - ranks:
        blocks.append([value])
        while len(blocks) > 1 and np.mean(blocks[-2]) > np.mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] = blocks[-1] + last
    pooled = np.concatenate([np.full(len(block), np.mean(block)) for block in blocks]) if blocks else np.empty(0)
    heights = np.empty(len(wanted))
    heights[order] = pooled + ranks
    return heights


def _last_point(line: Line2D) -> tuple[float, float] | None:
    """Where the line ends; None where it has no finite point."""
    x, y = (np.asarray(line.get_data()[i], dtype=float) for i in (0, 1))
    finite = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    return (float(x[finite[-1]]), float(y[finite[-1]])) if finite.size else None
