"""The user's colours in place of the house's: by name, in turn, or out of one of matplotlib's maps.

A figure's lines are named (``old``, ``new``, ``masked`` ...), and a palette says which colour a name has; line styles
and markers stay, so that a palette of few colours still tells lines apart. A figure that colours numbers takes a map.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from matplotlib import colormaps, rcParams
from matplotlib.colors import Colormap, LinearSegmentedColormap, ListedColormap, is_color_like, to_hex
from matplotlib.typing import ColorType

from mechmask.draw.style import Look, is_users, neutral
from mechmask.errors import ReadingError

Palette = str | Colormap | Sequence[ColorType] | Mapping[str, ColorType]

_MOST_IN_TURN = 20  # a map of so few colours is a list; one of 256 is a course, of which as many are taken as needed


def recoloured(looks: Mapping[str, Look], palette: Palette | None, what: str) -> dict[str, Look]:
    """The looks with the colours of the palette; without one, those of the user's colour cycle where it was changed.

    Args:
        looks: by the name of what has the look, in the figure's order.
        palette: colours by name, or in the figure's order, or the name of a map of matplotlib.
        what: the figure, for the error's text.

    Raises:
        ReadingError: if the palette names what the figure has not, has too few colours or one that is none.
    """
    names = list(looks)
    if palette is None:
        cycle = rcParams["axes.prop_cycle"].by_key().get("color", []) if is_users("axes.prop_cycle") else []
        colours = {name: cycle[i % len(cycle)] for i, name in enumerate(names)} if cycle else {}
    elif isinstance(palette, Mapping):
        unknown = [str(name) for name in palette if name not in looks]
        if unknown:
            raise ReadingError(f"{what} has no colour for {', '.join(unknown)}. palette= may name {_listed(names)}.")
        colours = dict(palette)
    elif isinstance(palette, (str, Colormap)):
        colours = dict(zip(names, _out_of(_map_named(palette, what), len(names)), strict=True))
    else:
        in_turn = list(palette)
        _require_colours(in_turn, what)
        if len(in_turn) < len(names):
            raise ReadingError(
                f"{what} colours {len(names)} things and palette= holds {len(in_turn)}. Give a colour for each of "
                f"{_listed(names)}, or a dictionary of those to change."
            )
        colours = dict(zip(names, in_turn, strict=False))
    _require_colours(colours.values(), what)
    return {
        name: look._replace(color=to_hex(colours[name]) if name in colours else neutral(look.color))
        for name, look in looks.items()
    }


def colour_map(palette: Palette | None, otherwise: Colormap, what: str) -> Colormap:
    """The map for a figure that colours numbers: from the lowest colour to the highest.

    Args:
        palette: a map of matplotlib or its name, two colours or more from low to high, or a dictionary with ``low`` and
            ``high`` (and ``middle``).
        otherwise: the map without a palette.
        what: the figure, for the error's text.

    Raises:
        ReadingError: if there is no such map, or fewer than two colours, or one that is none.
    """
    if palette is None:
        return otherwise
    if isinstance(palette, (str, Colormap)):
        return _map_named(palette, what)
    if isinstance(palette, Mapping):
        unknown = [str(name) for name in palette if name not in ("low", "middle", "high")]
        if unknown or not {"low", "high"} <= set(palette):
            raise ReadingError(
                f"{what} colours numbers, and palette= holds {_listed(list(palette))}. Give low and high, and middle "
                "where there is one."
            )
        palette = [palette[name] for name in ("low", "middle", "high") if name in palette]
    _require_colours(palette, what)
    if len(palette) < 2:
        raise ReadingError(f"{what} colours numbers, which takes two colours or more. Give them from low to high.")
    return LinearSegmentedColormap.from_list("palette", [to_hex(colour) for colour in palette])


def _map_named(palette: str | Colormap, what: str) -> Colormap:
    if isinstance(palette, Colormap):
        return palette
    if palette not in colormaps:
        raise ReadingError(
            f"{what} knows no palette {palette!r}. Give the name of one of matplotlib's colour maps, such as tab10 or "
            "cividis, or a list of colours."
        )
    return colormaps[palette]


def _out_of(colours: Colormap, n: int) -> list[str]:
    """``n`` colours: the first of a list, each once more where it is too short, or evenly out of a course."""
    if isinstance(colours, ListedColormap) and colours.N <= _MOST_IN_TURN:
        return [to_hex(colours(i % colours.N)) for i in range(n)]
    return [to_hex(colours(share)) for share in np.linspace(0.05, 0.95, n)]


def _require_colours(colours: Iterable[ColorType], what: str) -> None:
    wrong = [colour for colour in colours if not is_color_like(colour)]
    if wrong:
        raise ReadingError(f"{what} cannot draw in the colour {wrong[0]!r}. Give a name or a code such as '#0072B2'.")


def _listed(names: Sequence[object]) -> str:
    return ", ".join(map(str, names))
