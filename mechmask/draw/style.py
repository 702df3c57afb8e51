"""How every figure looks unless its user says otherwise: type, strokes, ink, and a look for each kind of line.

The house style is a default *under* the user's settings: a key of ``rcParams`` that the user has changed from
matplotlib's default stays as it is, in a style context as in a ``matplotlibrc``. Colours are those of Okabe and Ito
(2008), told apart with any colour vision; every one goes with its own line style and marker, so that nothing is lost in
grey print. Nothing here changes matplotlib's global state or imports pyplot.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from math import isfinite
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from cycler import cycler
from matplotlib import rc_context, rcParams, rcParamsDefault
from matplotlib.colors import to_hex, to_rgb

from mechmask.errors import ReadingError

COLUMN_INCHES, PAGE_INCHES = 3.5, 7.0  # one and two columns of a journal page: text is at its printed size
BODY_POINTS, LINE_POINTS = 8.0, 1.3  # of the house; sizes and strokes below are given beside them

BLACK, GREY, LIGHT_GREY = "#000000", "#595959", "#D9D9D9"
ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE = "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7"


_SMALLEST_POINTS = 1.0
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_house: ContextVar[Mapping[str, Any]] = ContextVar(
    "house", default=_NOTHING
)  # what ``house_style`` has set around here


class Look(NamedTuple):
    """Colour, line style, marker and width of one kind of line or point: no two share any of the first three."""

    color: str
    linestyle: Any = "-"
    marker: str = ""
    linewidth: float = LINE_POINTS


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

SERIES = (  # for what has no meaning of its own that a colour could carry: lenses, changes
    Look(BLUE, "-", "o"),
    Look(VERMILION, (0, (5, 1.5)), "s"),
    Look(GREEN, (0, (4, 1.2, 1, 1.2)), "^"),
    Look(PURPLE, (0, (1, 1)), "D"),
    Look(ORANGE, (0, (7, 2, 1, 2, 1, 2)), "v"),
    Look(SKY, (0, (2.5, 1.8)), "P"),
    Look(BLACK, (0, (8, 2)), "X"),
)

_SIZES = {  # points where the body is 8; they follow it
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "figure.titlesize": 9,
}
_STROKES = {
    "lines.linewidth": LINE_POINTS,
    "lines.markersize": 3.5,
    "lines.markeredgewidth": 0.6,
    "legend.handlelength": 3.2,  # long enough to show a dash pattern whole
    "legend.columnspacing": 1.2,
}
_FRAME = {
    "figure.dpi": 150,  # in a notebook: a page's width is 1050 pixels
    "legend.frameon": False,
    "legend.borderaxespad": 0.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
}
_FILES = {
    "pdf.fonttype": 42,  # TrueType: journals refuse Type 3, and the text stays text
    "svg.hashsalt": "mechmask",  # else ids in an SVG are random
}


def house_settings(font_size: float | None = None, *, in_users_axes: bool = False) -> dict[str, Any]:
    """The keys of the house that the user has left at matplotlib's defaults.

    Args:
        font_size: of the body, in points; what the user asked of this one figure, so it rules over ``rcParams``.
        in_users_axes: then frame and type are there already, and only strokes are set.
    """
    strokes = {key: value for key, value in _STROKES.items() if not is_users(key)}
    if in_users_axes:
        return strokes if font_size is None else strokes | {"font.size": font_size}
    asked = is_users("font.size") or "font.size" in _house.get()
    body = font_size or (rcParams["font.size"] if asked else BODY_POINTS)
    sizes = {key: points * body / BODY_POINTS for key, points in _SIZES.items()}
    free = {key: value for key, value in (sizes | _FRAME | _FILES).items() if not is_users(key)}
    if not is_users("font.family") and not is_users("font.sans-serif"):
        free["font.family"] = ["DejaVu Sans"]  # comes with matplotlib, so a figure is the same on every machine
    return {**strokes, **free, "font.size": body}


def is_changed(key: str) -> bool:
    """Whether a key of ``rcParams`` is not what matplotlib ships."""
    return bool(rcParams[key] != rcParamsDefault[key])  # pyright: ignore[reportArgumentType]


def is_users(key: str) -> bool:
    """Whether a key of ``rcParams`` is neither what matplotlib ships nor what an enclosing ``house_style`` set."""
    of_house = _house.get()
    if key not in of_house:
        return is_changed(key)
    return bool(rcParams[key] != of_house[key])  # pyright: ignore[reportArgumentType]


def require_points(size: Any) -> None:
    """Refuse what is not a size of type.

    Raises:
        ReadingError: if it is none, or below a point.
    """
    is_number = isinstance(size, (int, float, np.number)) and not isinstance(size, bool)
    if not (is_number and isfinite(size) and size >= _SMALLEST_POINTS):
        raise ReadingError(f"font_size={size!r} is not a font size. Give points, such as 8.")


@contextmanager
def house_style(font_size: float | None = None) -> Iterator[None]:
    """A context in which your own figures look like those of ``mechmask.draw``: type, strokes, frame and colours.

    What you have set yourself stays, before the block as within it, and ``rcParams`` are afterwards what they were,
    whatever happens inside. A figure of ``mechmask.draw`` that is made inside takes the font size too, unless it gets
    its own.

    Args:
        font_size: of the labels, in points; all other type follows it. Without it yours, where you have set one, or 8.

    Raises:
        ReadingError: if that is not a font size.

    Examples:
        >>> import matplotlib.pyplot as plt
        >>> import mechmask as mm
        >>> with mm.draw.house_style(font_size=7):
        ...     plt.rcParams["font.size"], plt.rcParams["axes.spines.top"]
        (7.0, False)
    """
    if font_size is not None:
        require_points(font_size)
    settings = house_settings(font_size)
    if not is_users("axes.prop_cycle"):
        settings["axes.prop_cycle"] = cycler(color=[look.color for look in SERIES])
    with rc_context(settings):  # pyright: ignore[reportArgumentType]
        now = {key: rcParams[key] for key in settings}  # pyright: ignore[reportArgumentType]
        token = _house.set({**_house.get(), **now})
        try:
            yield
        finally:
            _house.reset(token)


@contextmanager
def styled(font_size: float | None = None, *, in_users_axes: bool = False) -> Iterator[None]:
    """Within this block the house style fills in what the user's settings leave open."""
    with rc_context(house_settings(font_size, in_users_axes=in_users_axes)):  # pyright: ignore[reportArgumentType]
        yield


def file_settings() -> dict[str, Any]:
    """What a file needs to be accepted and reproducible, unless the user has set it."""
    return {key: value for key, value in _FILES.items() if not is_users(key)}


def text_points(points: float) -> float:
    """A size of type, given for a body of 8 points, beside the body of now."""
    return points * (rcParams["font.size"] / BODY_POINTS)


def stroke(points: float) -> float:
    """A stroke, given for lines of 1.3 points, beside the lines of now."""
    return points * (rcParams["lines.linewidth"] / LINE_POINTS)


def paper() -> str:
    """The colour of the panels' background."""
    return to_hex(rcParams["axes.facecolor"])


def ink() -> str:
    """Black on white; on a dark style's background whatever its text has."""
    return to_hex(rcParams["text.color"])


def grey() -> str:
    """For what is secondary: as far from the background as ``GREY`` is from white."""
    return neutral(GREY)


def light_grey() -> str:
    """For regions: as far from the background as ``LIGHT_GREY`` is from white."""
    return neutral(LIGHT_GREY)


def neutral(color: str) -> str:
    """A colour between black and white as the same step between ink and paper; any other as it is."""
    red, green, blue = to_rgb(color)
    if not red == green == blue:
        return to_hex(color)
    mixed = (1 - red) * np.array(to_rgb(ink())) + red * np.array(to_rgb(paper()))
    return to_hex(tuple(mixed.tolist()))


def readable(color: str) -> str:
    """A colour for text: moved towards the ink until it stands out from the paper by 4.5 to 1 (WCAG 2)."""
    mixed, towards = np.array(to_rgb(color)), np.array(to_rgb(ink()))
    for _ in range(20):
        if _contrast(mixed, np.array(to_rgb(paper()))) >= 4.5:
            break
        mixed = 0.9 * mixed + 0.1 * towards
    return to_hex(tuple(mixed.tolist()))


def _contrast(first: np.ndarray, second: np.ndarray) -> float:
    """Ratio of relative luminances (WCAG 2)."""
    linear = [np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) for rgb in (first, second)]
    low, high = sorted(float(rgb @ (0.2126, 0.7152, 0.0722)) for rgb in linear)
    return (high + 0.05) / (low + 0.05)


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


def count(n: int, noun: str) -> str:
    """``1 fact``, ``2 facts``."""
    return f"{n} {noun}{'s' * (n != 1)}"
