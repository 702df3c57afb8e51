"""Colours for numbers with a sign: a map for any eye and for grey print, and limits that a few far values do not set.

The lightness rises all the way from the most negative to the most positive, so that grey print keeps the order and the
sign; the hues are blue and orange, which every colour vision tells apart. A step at zero shows the sign of small
values too.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, LinearSegmentedColormap
from matplotlib.patches import Patch

from mechmask.draw.style import grey, paper
from mechmask.errors import ReadingError

ANCHORS = (  # 0 is minus the limit, 1 the limit
    (0.0, "#00224E"),
    (0.25, "#175591"),
    (0.5, "#7289A3"),
    (0.5, "#B3A58E"),
    (0.75, "#F7BE45"),
    (1.0, "#FFF6C2"),
)
SIGNED = LinearSegmentedColormap.from_list("signed", ANCHORS)

_COVERED = 98  # percent of the values that the colours tell apart where the rest lies far out
_FAR = 1.5  # times that percentile: within it, the largest value is the limit and nothing is cut


class Scale(NamedTuple):
    """Colours go from ``-limit`` to ``limit``; what lies beyond has the colour of the end."""

    limit: float
    n: int
    n_below: int
    n_above: int
    lowest: float
    highest: float
    n_infinite: int

    @property
    def extend(self) -> Literal["neither", "min", "max", "both"]:
        """At which ends of the colour bar an arrow says that values lie beyond."""
        ends: dict[tuple[bool, bool], Literal["neither", "min", "max", "both"]]
        ends = {(False, False): "neither", (True, False): "min", (False, True): "max", (True, True): "both"}
        return ends[self.n_below > 0, self.n_above > 0]

    @property
    def note(self) -> str:
        """What is cut, in words; empty where nothing is."""
        n_cut = self.n_below + self.n_above
        if not n_cut:
            return ""
        infinite = f", {self.n_infinite} of them infinite" if self.n_infinite else ""
        note = (
            f"colours end at \N{PLUS-MINUS SIGN}{self.limit:.1f} nats: {n_cut} of {self.n} values lie beyond{infinite} "
            f"(finite values: {self.lowest:.1f} to {self.highest:.1f})"
        )
        return note.replace("-", "\N{MINUS SIGN}")


def scale_of(values: np.ndarray, layers: np.ndarray, what: str) -> Scale:
    """Limits symmetric around zero: the largest value, or the 98th percentile of the sizes where few lie far beyond.

    The layers above the embedding rule: a lens that reads the embedding as if it were the last layer is off by tens of
    nats.

    Args:
        values: ``[..., layer]`` in nats.
        layers: which layers these are.
        what: the figure, for the error's text.

    Raises:
        ReadingError: if no value is finite.
    """
    known = values[~np.isnan(values)]
    finite = known[np.isfinite(known)]
    if not finite.size:
        raise ReadingError(f"{what} has no finite value to draw. Give a reading that has some.")
    above = values[..., layers > 0]
    ruling = above[np.isfinite(above)]
    sizes = np.abs(ruling if ruling.size else finite)
    covered = float(np.percentile(sizes, _COVERED))
    limit = covered if 0 < _FAR * covered < sizes.max() else float(sizes.max()) or 1.0
    n_below, n_above = int((known < -limit).sum()), int((known > limit).sum())
    n_infinite = known.size - finite.size
    return Scale(limit, known.size, n_below, n_above, float(finite.min()), float(finite.max()), n_infinite)


def draw_cells(
    axes: Axes,
    table: np.ndarray,
    scale: Scale,
    colours: Colormap,
    extent: tuple[float, float, float, float],
    origin: Literal["upper", "lower"] = "upper",
) -> None:
    """A table ``[row, column]`` as colours from ``-scale.limit`` to ``scale.limit``; NaN lets the ground through."""
    axes.imshow(
        np.ma.masked_invalid(table),
        cmap=colours.with_extremes(bad=(0, 0, 0, 0)),
        vmin=-scale.limit,
        vmax=scale.limit,
        extent=extent,
        origin=origin,
        aspect="auto",
        interpolation="nearest",
    )


def mark_missing(axes: Axes) -> None:
    """Hatch the ground of a panel, which is seen where a value is missing."""
    axes.patch.set(hatch="//////", edgecolor=grey(), facecolor=paper())
    axes.grid(False)  # a style's grid would lie on the colours


def missing_patch() -> Patch:
    """The legend's sample of a missing value."""
    return Patch(facecolor=paper(), edgecolor=grey(), hatch="//////", linewidth=0)
