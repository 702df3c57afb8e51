"""The five options of every figure, and the panels that they make: a new figure gets all of them from here.

A figure function hands its user's ``axes`` (and ``ax``), ``width``, ``title``, ``palette`` and ``font_size`` to a
``Canvas`` and draws on the ``Page`` that the canvas opens. In the user's own axes nothing is set that the user has set:
no size, no frame, no letter of a panel.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite
from string import ascii_lowercase
from typing import Any, Literal, cast

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from mechmask.draw.colour import Scale
from mechmask.draw.drawing import Drawing, LegendPlan
from mechmask.draw.ends import LineEnd
from mechmask.draw.palette import Palette, colour_map, recoloured
from mechmask.draw.style import COLUMN_INCHES, PAGE_INCHES, Look, require_points, stroke, styled, text_points
from mechmask.errors import ReadingError

Width = Literal["single", "double"] | float
AxesLike = Axes | Iterable[Axes] | Iterable[Iterable[Axes]]

_WIDTHS = {"single": COLUMN_INCHES, "double": PAGE_INCHES}
_FEWEST_INCHES = 1.0
_TITLE_PAD = 5.0  # points between a title and its panel
_LETTER_POINTS = 14.0  # from the panel's corner to its title
_OVERHANG = 1.15  # of a panel's side: what a label may take of the gap to the next panel
_CHARACTER = 0.55  # of the size of type: the mean width of a character


@dataclass(frozen=True)
class Canvas:
    """What a user asked of one figure, whatever it draws.

    Attributes:
        axes: panels of the user's own figure to draw into, one or as many as the figure has, row by row.
        width: of a new figure: ``"single"`` (3.5 inches) or ``"double"`` (7 inches) for a column of a journal or two,
            or inches. Without it every figure has the width that its panels want.
        title: above the figure; of a figure with one panel, in place of that panel's title.
        palette: colours by name, in the figure's order, or out of one of matplotlib's maps.
        font_size: of the labels, in points; all other type follows it.
        ax: one panel, which a figure that always has one takes under this name too.

    Raises:
        ReadingError: on making it, if a width or size is not one, or a width is asked of the user's own axes.
    """

    axes: AxesLike | None = None
    width: Width | None = None
    title: str | None = None
    palette: Palette | None = None
    font_size: float | None = None
    ax: Axes | None = None

    def __post_init__(self) -> None:
        if self.ax is not None:
            if self.axes is not None:
                raise ReadingError("ax= and axes= are one panel and several. Give one of the two.")
            object.__setattr__(self, "axes", self.ax)
        if self.width is not None:
            self._inches(self.width)
            if self.axes is not None:
                raise ReadingError(
                    "width= is the width of a new figure, and axes= draws into yours. Set the width of your figure, or "
                    "leave axes= out."
                )
        if self.font_size is not None:
            require_points(self.font_size)

    @contextmanager
    def page(
        self,
        what: str,
        shape: tuple[int, int],
        inches: tuple[float, float],
        *,
        looks: Mapping[str, Look] | None = None,
        n_panels: int | None = None,
        share: tuple[bool | Literal["row", "col"], bool | Literal["row", "col"]] = (False, False),
    ) -> Iterator[Page]:
        """Panels to draw on, under the house's settings and the user's; on leaving, title and type are set.

        Args:
            what: the figure, for an error's text.
            shape: rows and columns of panels.
            inches: width and height that a new figure has without ``width=``.
            looks: what the figure colours, by name, in the order of its legend.
            n_panels: how many of the panels are used, where the last row is not full.
            share: which panels of a new figure share their x axes, and which their y axes.

        Raises:
            ReadingError: if the axes are not as many as the panels, or the palette does not fit.
        """
        n = shape[0] * shape[1] if n_panels is None else n_panels
        panels = None if self.axes is None else _users_panels(self.axes, what, shape, n)
        with styled(self.font_size, in_users_axes=panels is not None):
            coloured = recoloured(looks or {}, self.palette, what) if looks else {}
            if panels is None:
                width = inches[0] if self.width is None else self._inches(self.width)
                figure = Drawing(width, inches[1])
                grid = figure.subplots(*shape, sharex=share[0], sharey=share[1], squeeze=False)
                for axes in list(grid.flat)[n:]:
                    axes.remove()
                page = Page(self, what, figure, grid, n, coloured)
            else:
                figure = panels[0].figure
                grid = np.empty(shape, dtype=object)
                grid.flat[:n] = panels
                page = Page(self, what, figure, grid, n, coloured)
            yield page
            page.finish()

    def colour_map(self, otherwise: Colormap, what: str) -> Colormap:
        """The palette of a figure that colours numbers."""
        return colour_map(self.palette, otherwise, what)

    def _inches(self, width: Width) -> float:
        if isinstance(width, str) and width in _WIDTHS:
            return _WIDTHS[width]
        if isinstance(width, str) or not _is_number(width) or not isfinite(width) or width < _FEWEST_INCHES:
            raise ReadingError(
                f"width={width!r} is not a width. Give 'single', 'double', or inches ({_FEWEST_INCHES:g} or more)."
            )
        return float(width)


@dataclass
class Page:
    """The panels of one figure while it is drawn.

    Attributes:
        canvas: what the user asked.
        what: the figure, for an error's text.
        figure: of the panels: a new ``Drawing``, or the figure or subfigure of the user's axes.
        grid: the panels ``[row, column]``.
        n: how many of them are used.
        looks: by name, in the colours of the palette.
    """

    canvas: Canvas
    what: str
    figure: Figure | SubFigure
    grid: np.ndarray
    n: int
    looks: dict[str, Look]
    _titles: dict[Axes, str] = field(default_factory=dict)

    @property
    def panels(self) -> list[Axes]:
        """Those that are used, row by row."""
        return list(self.grid.flat)[: self.n]

    @property
    def root(self) -> Figure:
        """The figure as a whole, to be handed to the user."""
        return cast("Figure", self.figure.get_figure(root=True))

    def entitle(self, axes: Axes, title: str, *, pad: float = _TITLE_PAD) -> None:
        """A title; in a new figure of several panels with the panel's letter before it."""
        if self.n == 1 and self.canvas.title is not None:
            title = self.canvas.title
        if not isinstance(self.figure, Drawing):
            self._titles[axes] = title
            axes.set_title(title, pad=None if pad == _TITLE_PAD else pad)
            return
        lettered = self.n > 1
        shift = _LETTER_POINTS / 72 if lettered else 0.0
        text = axes.set_title(title, x=0, ha="left", pad=pad)
        text.set_transform(text.get_transform() + ScaledTranslation(shift, 0, self.figure.dpi_scale_trans))
        self.figure.keep_within(text, lambda: 1.05 * axes.bbox.width - shift * axes.get_figure(root=True).dpi)  # pyright: ignore[reportOptionalMemberAccess]
        if lettered:
            letter = ascii_lowercase[self.panels.index(axes) % 26]
            axes.annotate(
                letter,
                xy=(0, 1),
                xycoords=text,
                xytext=(-_LETTER_POINTS, 1),
                textcoords="offset points",
                va="top",
                fontweight="bold",
                fontsize=text_points(9),
                annotation_clip=False,
            )

    def label_x(self, axes: Axes, label: str) -> None:
        """What the x axis is, broken where the panel is narrow."""
        axes.set_xlabel(label)
        if isinstance(self.figure, Drawing):
            self.figure.keep_within(axes.xaxis.label, lambda: _OVERHANG * axes.bbox.width)

    def label_y(self, axes: Axes, label: str) -> None:
        """What the y axis is, broken where the panel is low."""
        axes.set_ylabel(label)
        if isinstance(self.figure, Drawing):
            self.figure.keep_within(axes.yaxis.label, lambda: _OVERHANG * axes.bbox.height)

    def name_line(self, line: Line2D, name: str, entry: str, n: str = "", *, in_any_column: bool = False) -> None:
        """Name a line at its end, if it stands in a new figure and its panel has room.

        Args:
            line: as it is drawn.
            name: short.
            entry: the legend's entry that the name replaces.
            n: of how many it is the mean, for the legend's note.
            in_any_column: else only the last panel of a row has names, which then are those of its neighbours.
        """
        in_last = any(line.axes is row[-1] for row in self._rows())
        if isinstance(self.figure, Drawing) and (in_last or in_any_column):
            self.figure.name_line(LineEnd(line, name, entry, n))

    def colour_bar(self, scale: Scale, label: str, *, extendfrac: float = 0.05, pad: float = 0.02) -> None:
        """The bar that explains the colours of all panels' cells."""
        shape = {"extend": scale.extend, "extendfrac": extendfrac, "pad": pad, "aspect": 30}
        bar = self.figure.colorbar(self.panels[0].images[0], ax=self.panels, **shape)
        bar.set_label(label)
        bar.outline.set_linewidth(stroke(0.6))  # pyright: ignore[reportCallIssue]

    def legend(self, entries: dict[str, Any], note: str, n_columns: int = 2) -> None:
        """Under all panels, each entry once; where the user's figure has more in it, within the panels.

        Args:
            entries: handles by label; a line that is named at its end is left out.
            note: above the entries.
            n_columns: at best.
        """
        if isinstance(self.figure, Drawing):
            self.figure.put_legend(LegendPlan(entries, note, n_columns))
        elif self._is_whole_figure():
            handles, labels = list(entries.values()), list(entries)
            place = {"loc": "outside lower center", "ncols": n_columns, "alignment": "left"}
            self.figure.legend(handles, labels, title=note or None, **place)
        else:
            self._legend_within(entries, note)

    def finish(self) -> None:
        """The title, and the user's size of type in the user's axes; a new figure grows where its legend needs it."""
        title = self.canvas.title
        if isinstance(self.figure, Drawing):
            if title is not None and self.n > 1:
                text = self.figure.suptitle(title, x=0.01, ha="left")
                self.figure.keep_within(text, lambda: 0.97 * self.figure.bbox.width)
            self.figure.settle()
            return
        if title and self.n > 1:
            first = self.panels[0]
            first.set_title("\n".join(filter(None, [title, self._titles.get(first, "")])))
        if self.canvas.font_size is not None:
            self._set_type(self.canvas.font_size)

    def _rows(self) -> list[list[Axes]]:
        width = self.grid.shape[1]
        return [self.panels[start : start + width] for start in range(0, self.n, width)]

    def _is_whole_figure(self) -> bool:
        """Whether the user's figure has these panels alone, and a layout that makes room for a legend."""
        others = [axes for axes in self.figure.axes if axes not in self.panels and not _is_colour_bar(axes)]
        return not others and isinstance(self.root.get_layout_engine(), ConstrainedLayoutEngine)

    def _legend_within(self, entries: dict[str, Any], note: str) -> None:
        """Each entry in the panel that draws it; what none draws by name, and the note, in the last one."""
        last = self.panels[-1]
        homes = {id(handle): axes for axes in self.panels for handle in axes.get_legend_handles_labels()[0]}
        for axes in self.panels:
            labels = [label for label, handle in entries.items() if homes.get(id(handle), last) is axes]
            inches = axes.bbox.width / self.root.dpi
            n_characters = max(20, int(0.8 * 72 * inches / (_CHARACTER * text_points(7))))
            lines = [textwrap.fill(line, n_characters) for line in note.split("\n") if axes is last and line]
            if not labels and not lines:
                continue
            legend = axes.legend(
                [entries[label] for label in labels],
                [textwrap.fill(label, n_characters) for label in labels],
                title="\n".join(lines) or None,
                fontsize=text_points(7),
                title_fontsize=text_points(7),
                alignment="left",
            )
            legend.set_in_layout(False)

    def _set_type(self, size: float) -> None:
        for axes in self.panels:
            for text in (axes.title, axes.xaxis.label, axes.yaxis.label):
                text.set_fontsize(size)
            axes.tick_params(labelsize=text_points(7))


def share_limits(panels: Sequence[Axes], axis: Literal["x", "y"]) -> None:
    """Give panels the limits that hold all of theirs: a user's axes need not share them."""
    limits = np.array([axes.get_xlim() if axis == "x" else axes.get_ylim() for axes in panels])
    for axes in panels:
        (axes.set_xlim if axis == "x" else axes.set_ylim)(limits.min(), limits.max())


def _users_panels(given: AxesLike, what: str, shape: tuple[int, int], n: int) -> list[Axes]:
    panels = _flat(given)
    strangers = [panel for panel in panels if not isinstance(panel, Axes)]
    if strangers:
        raise ReadingError(
            f"axes= takes matplotlib axes, and holds a {type(strangers[0]).__name__}. Make them with plt.subplots."
        )
    if len(panels) != n or len(set(map(id, panels))) != n:
        rows = f" ({shape[0]} rows of {shape[1]})" if shape[0] > 1 and shape[1] > 1 else ""
        several = "one panel" if n == 1 else f"{n} panels{rows}"
        raise ReadingError(
            f"{what} has {several}, and axes= holds {len(set(map(id, panels)))}. Give {n}, row by row, as plt.subplots "
            "makes them."
        )
    if len({id(panel.get_figure(root=False)) for panel in panels}) > 1:
        raise ReadingError(f"{what} is drawn into one figure, and axes= holds panels of several. Give axes of one.")
    return panels


def _flat(given: Any) -> list[Any]:
    if isinstance(given, (Axes, str)) or not isinstance(given, Iterable):
        return [given]
    if isinstance(given, np.ndarray):
        return list(given.flat)
    return [axes for part in given for axes in _flat(part)]


def _is_colour_bar(axes: Axes) -> bool:
    return axes.get_label() == "<colorbar>"


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
