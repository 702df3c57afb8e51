"""How every figure looks, and how it becomes a file: palette, sizes, fonts, reproducible saving.

Colours are those of Okabe and Ito (2008), told apart with any colour vision; every one goes with its own line style and
marker, so that nothing is lost in grey print. Nothing here touches matplotlib's global state or pyplot.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.figure import Figure

from mechmask.errors import ReadingError
from mechmask.files import replaced_file

COLUMN_INCHES, PAGE_INCHES = 3.5, 7.0  # one and two columns of a journal page: text is at its printed size
SCREEN_DPI = 150  # in a notebook: a page's width is 1050 pixels

BLACK, GREY, LIGHT_GREY = "#000000", "#595959", "#D9D9D9"
ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"


class Look(NamedTuple):
    """Colour, line style, marker and width of one kind of line or point: no two share any of the first three."""

    color: str
    linestyle: Any = "-"
    marker: str = ""
    linewidth: float = 1.3


OLD = Look(BLUE, "-", "o")
NEW = Look(VERMILION, (0, (5, 1.5)), "s")
DISTRACTORS = Look(PURPLE, (0, (4, 1.2, 1, 1.2)), "^")
CEILING = Look(BLACK, (0, (2.5, 1.8)), "", 0.7)
CONTROL = Look(GREEN, (0, (1, 1)), "D")
NEVER = Look(GREY, (0, (7, 2, 1, 2, 1, 2)), "v")
MARGIN = Look(BLACK, "-", "")

BEFORE = Look(SKY, (0, (4, 1.2, 1, 1.2, 1, 1.2)), "D")  # beside MARGIN, which is the state after
CHANGE = Look(GREEN, (0, (6, 1.5)), "P")
PATCHED = Look(ORANGE, (0, (5, 1.5)), "s")
GRAFTED = Look(SKY, (0, (4, 1.2, 1, 1.2)), "^")

VERDICT_LOOKS = {
    "masked": Look(BLUE, "-", "o"),
    "erased": Look(VERMILION, "-", "s"),
    "suppressed": Look(PURPLE, "-", "v"),
    "undecided": Look(GREY, "-", "D"),
}

_RC = {
    "font.family": ["DejaVu Sans"],  # comes with matplotlib, so a figure is the same on every machine
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 3.2,  # long enough to show a dash pattern whole
    "legend.borderaxespad": 0.0,
    "legend.columnspacing": 1.2,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "lines.markersize": 3.5,
    "lines.markeredgewidth": 0.6,
    "pdf.fonttype": 42,  # TrueType: journals refuse Type 3, and the text stays text
    "svg.hashsalt": "mechmask",  # else ids in an SVG are random
}

_UNDATED: dict[str, dict[str, str | None]] = {
    ".pdf": {"CreationDate": None},
    ".svg": {"Date": None},
    ".png": {"Software": None},
}


@contextmanager
def styled() -> Iterator[None]:
    """Within this block matplotlib has mechmask's settings on top of its own defaults, whatever the user's are."""
    with style.context(_RC, after_reset=True):
        yield


class Drawing(Figure):
    """A figure that keeps its look wherever it is drawn, and that a notebook shows without pyplot."""

    def __init__(self, width_inches: float, height_inches: float) -> None:
        super().__init__(figsize=(width_inches, height_inches), dpi=SCREEN_DPI, layout="constrained")

    def draw(self, renderer: RendererBase) -> None:
        """Draw under mechmask's settings: ticks are made only now and would take the user's."""
        with styled():
            super().draw(renderer)

    def _repr_png_(self) -> bytes:
        with styled(), io.BytesIO() as image:
            self.savefig(image, format="png")
            return image.getvalue()


def save_figure(figure: Figure, path: str | Path) -> Path:
    """Write a figure so that the same figure gives the same bytes, atomically.

    Args:
        figure: any matplotlib figure.
        path: where to; its suffix is the format: ``.pdf``, ``.svg`` or ``.png`` (300 dpi); without one, ``.pdf``.

    Returns:
        The path that was written.

    Raises:
        ReadingError: if the suffix is another.
    """
    path = Path(path)
    path = path if path.suffix else path.with_suffix(".pdf")
    suffix = path.suffix.lower()
    if suffix not in _UNDATED:
        raise ReadingError(
            f"A figure cannot be saved as {path.name!r}. Give a name that ends in {', '.join(_UNDATED)}."
        )
    with styled(), replaced_file(path) as temporary:
        figure.savefig(temporary, format=suffix[1:], dpi=300, metadata=_UNDATED[suffix])
    return path


def plain(text: object) -> str:
    """Text from data as text: a pair of dollars in it is no formula."""
    return str(text).replace("$", r"\$")


def shortened(text: object, n_characters: int) -> str:
    """Text from data, cut to ``n_characters`` where it is longer."""
    whole = " ".join(str(text).split())
    return plain(whole if len(whole) <= n_characters else whole[: n_characters - 1] + "\N{HORIZONTAL ELLIPSIS}")


def percent(level: float) -> str:
    """0.95 as ``95%``."""
    return f"{100 * level:g}%"


def entitle(axes: Axes, letter: str, title: str = "", *, pad: float = 5.0) -> None:
    """The panel's letter at its upper left corner, a short title behind it."""
    at_the_top = letter + "\n" * title.count("\n")
    axes.set_title(at_the_top, loc="left", fontweight="bold", fontsize=9, pad=pad)
    axes.set_title(title, x=14 / (72 * axes.bbox.width / SCREEN_DPI), ha="left", pad=pad)


def legend_below(figure: Figure, entries: dict[str, Any], note: str, n_columns: int) -> None:
    """A legend under all panels, each entry once, with a note above it."""
    figure.legend(
        *(list(entries.values()), list(entries)),
        title=note,
        loc="outside lower center",
        ncols=n_columns,
        alignment="left",
    )


def entries_of(panels: Iterable[Axes]) -> dict[str, Any]:
    """What the panels draw, by label; what several draw is there once."""
    return {label: handle for axes in panels for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
