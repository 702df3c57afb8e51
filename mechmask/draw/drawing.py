"""A figure that keeps its look wherever it is drawn, fits its words to its size, and becomes a file reproducibly.

Titles are broken to the width of their panels and the legend to that of the figure, anew whenever the figure has
another size, so that ``set_size_inches`` clips nothing. Lines are named at their end where there is room, else in the
legend.
"""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.backend_bases import RendererBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend import Legend
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from mechmask.draw.ends import LineEnd, name_ends
from mechmask.draw.style import file_settings, is_changed
from mechmask.errors import ReadingError
from mechmask.files import replaced_file

_MOST_LEGEND = 0.5  # of the figure's height: more would leave its panels none
_LEGEND_AT_FIRST = 0.4  # of a new figure's height, which grows where its legend needs more
_FEWEST_INCHES = 0.75  # of height that a panel has at first; the figure grows where words leave it less
_SMALLEST_LEGEND = 4.5  # points

_UNDATED: dict[str, dict[str, str | None]] = {
    ".pdf": {"CreationDate": None},
    ".svg": {"Date": None},
    ".png": {"Software": None},
}


class LegendPlan(NamedTuple):
    """What stands under the panels: handles by label, a note above them, and into how many columns they go at best."""

    entries: dict[str, Any]
    note: str
    n_columns: int


@dataclass
class _Words:
    """A text as it was given, how long its lines may be in pixels, and how it was last shown."""

    text: Text
    whole: str
    room: Callable[[], float]
    shown: str | None = None


class Drawing(Figure):
    """A figure that a notebook shows without pyplot, with the settings under which it was made."""

    def __init__(self, width_inches: float, height_inches: float) -> None:
        super().__init__(figsize=(width_inches, height_inches), layout="constrained")
        FigureCanvasAgg(self)
        self._settings = {key: value for key, value in rcParams.items() if _is_look(key)}
        self._words: list[_Words] = []
        self._ends: list[LineEnd] = []
        self._plan: LegendPlan | None = None
        self._legend: Legend | None = None
        self._fitted_to: tuple[float, ...] | None = None
        self._starts: dict[Axes, Bbox] = {}
        self._shrinks = True

    def draw(self, renderer: RendererBase) -> None:
        """Draw under the settings of the figure's making: ticks are made only now and would take those of now."""
        with rc_context(self._settings):  # pyright: ignore[reportArgumentType]
            self.fit()
            if isinstance(self.get_layout_engine(), ConstrainedLayoutEngine):  # savefig draws once more without one
                for axes, start in self._starts.items():  # a layout that began where the last one ended would drift
                    axes._set_position(start, which="both")  # pyright: ignore[reportAttributeAccessIssue]
            super().draw(renderer)

    def savefig(self, *args: Any, **kwargs: Any) -> None:
        """As matplotlib's; text in a PDF stays text."""
        with rc_context(file_settings()):  # pyright: ignore[reportArgumentType]
            super().savefig(*args, **kwargs)

    def _repr_png_(self) -> bytes:
        with io.BytesIO() as image:
            self.savefig(image, format="png")
            return image.getvalue()

    def keep_within(self, text: Text, room: Callable[[], float]) -> None:
        """Break a text into lines where it is longer than ``room`` says, in pixels along its direction."""
        self._words.append(_Words(text, text.get_text(), room, text.get_text()))

    def name_line(self, end: LineEnd) -> None:
        """Name a line at its end where there is room; its entry then leaves the legend."""
        self._ends.append(end)

    def put_legend(self, plan: LegendPlan) -> None:
        """Put a legend under all panels."""
        self._plan = plan
        self._set_legend(plan.entries, plan.note, plan.n_columns)

    def fit(self) -> None:
        """Fit words, line names and legend to the figure's size, unless they are already."""
        inches = tuple(self.get_size_inches().tolist())
        if inches == self._fitted_to:
            return
        self._fitted_to = inches
        self._fit_legend(set())
        if self._words or self._ends:
            self._lay_out()
            for words in self._words:
                if words.text.get_text() == words.shown:  # else the user has written another
                    words.shown = _broken(words, self._agg())
                    words.text.set_text(words.shown)
            self._fit_legend(name_ends(self._ends, self._agg()))
        self._starts = {axes: axes.get_position(original=True) for axes in self.axes}

    def settle(self) -> None:
        """Fit a new figure; it grows in height where the legend would press its panels."""
        self._shrinks = False
        self.fit()
        width, height = self.get_size_inches()
        wanted = height * max(1.0, self.legend_height / _LEGEND_AT_FIRST)
        wanted += max(0.0, _FEWEST_INCHES - self._panel_inches()) * self._n_rows()
        if wanted > height:
            self.set_size_inches(width, wanted)
            self.fit()
        self._shrinks = True

    @property
    def legend_height(self) -> float:
        """Of the legend, as a share of the figure's."""
        if self._legend is None:
            return 0.0
        return self._legend.get_window_extent(self._agg()).height / self.bbox.height

    def _panel_inches(self) -> float:
        """How high the lowest panel was at the last layout."""
        return min((axes.bbox.height / self.dpi for axes in self.axes), default=_FEWEST_INCHES)

    def _n_rows(self) -> int:
        specs = [axes.get_subplotspec() for axes in self.axes]
        return len({spec.rowspan.start for spec in specs if spec is not None}) or 1

    def _agg(self) -> RendererBase:
        return self.canvas.get_renderer()  # pyright: ignore[reportAttributeAccessIssue]

    def _lay_out(self) -> None:
        engine = self.get_layout_engine()
        if engine is not None:
            with warnings.catch_warnings():  # of panels without room: the figure grows, or its drawing warns
                warnings.simplefilter("ignore", UserWarning)
                engine.execute(self)

    def _fit_legend(self, named: set[str]) -> None:
        """As many columns as fit; one that does not fit is broken into lines, and made smaller if it were too high."""
        if self._plan is None or self._legend is None or self._legend not in self.legends:  # the user has taken it away
            return
        entries = {label: handle for label, handle in self._plan.entries.items() if label not in named}
        note = "\n".join(filter(None, [self._plan.note, _sizes_of(self._ends, named)]))
        padding = 2 * rcParams["legend.borderpad"] * self._legend_points() / 72 * self.dpi
        room = 0.97 * self.bbox.width - padding
        most = max(1, min(self._plan.n_columns, len(entries)))
        legend = self._legend
        for n_columns in range(most, 0, -1):
            legend = self._set_legend(entries, note, n_columns)
            if legend.get_window_extent(self._agg()).width <= room + padding:
                break
            title = legend.get_title()
            title.set_text(_broken(_Words(title, note, lambda: room), self._agg()))
            if legend.get_window_extent(self._agg()).width <= room + padding:
                break
        else:
            for text in legend.get_texts():
                sample = legend.get_window_extent(self._agg()).width - padding - _widest(legend, self._agg())
                text.set_text(_broken(_Words(text, text.get_text(), lambda taken=sample: room - taken), self._agg()))
        if self._shrinks and self.legend_height > _MOST_LEGEND:
            smaller = max(_MOST_LEGEND / self.legend_height, 0.6)
            for text in (*legend.get_texts(), legend.get_title()):
                text.set_fontsize(max(float(text.get_fontsize()) * smaller, _SMALLEST_LEGEND))

    def _legend_points(self) -> float:
        return 0.0 if self._legend is None else self._legend.get_title().get_fontsize()  # pyright: ignore[reportReturnType]

    def _set_legend(self, entries: dict[str, Any], note: str, n_columns: int) -> Legend:
        if self._legend in self.legends:
            self._legend.remove()
        handles, labels = list(entries.values()), list(entries)
        place = {"loc": "outside lower center", "ncols": max(n_columns, 1), "alignment": "left"}
        self._legend = self.legend(handles, labels, title=note or None, **place)
        return self._legend


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
    with rc_context(file_settings()), replaced_file(path) as temporary:  # pyright: ignore[reportArgumentType]
        figure.savefig(temporary, format=suffix[1:], dpi=300, metadata=_UNDATED[suffix])
    return path


def _is_look(key: str) -> bool:
    """Whether a setting is about how a figure looks and was changed, by the user or the house."""
    machinery = ("backend", "interactive", "toolbar", "webagg", "tk.", "savefig", "animation", "keymap", "figure.hooks")
    return not key.startswith(machinery) and is_changed(key)


def _broken(words: _Words, renderer: RendererBase) -> str:
    """The text with line breaks where a line is too wide for its room."""
    lines = []
    for line in words.whole.split("\n"):
        words.text.set_text(line)
        box, room = words.text.get_window_extent(renderer), max(words.room(), 1.0)
        length = box.height if words.text.get_rotation() == 90 else box.width
        fitting = max(int(len(line) * room / length), 6) if length > room else 0
        lines += textwrap.wrap(line, fitting, break_long_words=False) if fitting else [line]
    return "\n".join(lines)


def _widest(legend: Legend, renderer: RendererBase) -> float:
    return max((text.get_window_extent(renderer).width for text in legend.get_texts()), default=0.0)


def _sizes_of(ends: list[LineEnd], named: set[str]) -> str:
    """``n = 10: old, new`` of the lines whose entry is not in the legend."""
    names: dict[str, list[str]] = {}
    for end in ends:
        if end.entry in named and end.n and end.name not in names.setdefault(end.n, []):
            names[end.n].append(end.name)
    return "; ".join(f"{n}: {', '.join(of_n)}" for n, of_n in names.items() if of_n)
