"""Progress on standard error, for whatever takes more than a second: what is being made, how far, how long still.

A bar shows itself only once its work has taken a while, so that quick work stays silent. In a notebook it is rich's own
display in the cell, drawn anew in its place: Jupyter, VS Code and Colab do that without a widget, and what is saved is
one bar as it ended. Where standard error is no terminal, as in a log, the finished bar is all that is shown. A bar
within another stays silent: a study that reads is one bar, not two that overwrite each other.
"""

from __future__ import annotations

import io
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Tick = Callable[[str], None]

_SILENT_SECONDS = 1.0
_REDRAWN_SECONDS = 0.25  # in a notebook, where every drawing is a message to a browser
_NOTEBOOK_COLUMNS = 110
_NOTEBOOK_LINE = '<pre style="white-space: pre; overflow-x: auto; line-height: normal">{code}</pre>'
_shown: list[Bar] = []  # the bars that are open and not hidden, the outermost first


class Bar:
    """A bar over a number of pieces; ``progress_bar`` makes one."""

    def __init__(self, name: str, total: int, done: int, *, shown: bool) -> None:
        columns = (
            TextColumn("{task.description:<12}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[status]}", markup=False),
        )
        kind = _NotebookProgress if _in_notebook() else Progress
        self._progress = kind(*columns, console=_console(), get_time=lambda: time.monotonic(), disable=not shown)
        self._task = self._progress.add_task(name, total=total, completed=done, status="")
        self._begun = time.monotonic()
        self._started = False

    def __call__(self, status: str | None = None) -> None:
        """One piece further, and how it stands."""
        self._update(1, status)

    def say(self, status: str) -> None:
        """How it stands, no piece further."""
        self._update(0, status)

    def end_early(self, status: str) -> None:
        """No more pieces will come: the bar ends where it is and says why."""
        done = int(self._progress.tasks[self._task].completed)
        self._progress.update(self._task, total=done)
        self._update(0, status)

    def close(self) -> None:
        """Leave the bar as it is; one that never showed itself stays silent."""
        if self._started:
            self._progress.stop()

    def _update(self, advance: int, status: str | None) -> None:
        fields = {} if status is None else {"status": status}
        self._progress.update(self._task, advance=advance, **fields)  # pyright: ignore[reportArgumentType]
        if not self._started and time.monotonic() - self._begun > _SILENT_SECONDS:
            self._started = True
            self._progress.start()
        elif isinstance(self._progress, _NotebookProgress):
            self._progress.redraw()


class _NotebookProgress(Progress):
    """A bar as one output of a cell that is replaced where it stands.

    rich would draw it into a widget and from a thread, which takes ipywidgets, is not kept in the file, and swallows
    what the cell prints meanwhile.
    """

    _handle: Any = None
    _drawn = -math.inf

    def start(self) -> None:
        """Show the bar in the cell that runs."""
        from IPython.display import display

        if not self.disable:
            self._drawn = self.get_time()
            self._handle = display(self, display_id=True)

    def redraw(self) -> None:
        """Show how it stands, if the last time is long enough ago."""
        if self.get_time() - self._drawn >= _REDRAWN_SECONDS:
            self._drawn = self.get_time()
            self.refresh()

    def refresh(self) -> None:
        """Show how it stands."""
        if self._handle is not None:
            self._handle.update(self)

    def stop(self) -> None:
        """Leave it as it stands."""
        self.refresh()

    def _repr_mimebundle_(self, *_: Any, **__: Any) -> dict[str, str]:
        page = Console(
            file=io.StringIO(), record=True, width=_NOTEBOOK_COLUMNS, force_jupyter=False, force_terminal=True
        )
        page.print(self.get_renderable())
        html = page.export_html(inline_styles=True, code_format=_NOTEBOOK_LINE, clear=False)
        return {"text/html": html, "text/plain": page.export_text()}


@contextmanager
def progress_bar(name: str, total: int, done: int = 0, *, shown: bool = True) -> Iterator[Bar]:
    """A bar over ``total`` pieces, of which ``done`` are made already."""
    bar = Bar(name, total, done, shown=shown and not _shown)
    try:
        if shown:
            _shown.append(bar)
        yield bar
    finally:
        bar.close()
        if bar in _shown:
            _shown.remove(bar)


class PhaseBar:
    """The bar of a training: its steps, with loss and recall beside them."""

    def __init__(self, bar: Bar) -> None:
        self._bar = bar
        self._loss = self._recall = math.nan

    def step(self, loss: float) -> None:
        """One optimizer step further, at this loss in nats per token."""
        self._loss = loss
        self._bar(self._status())

    def recall(self, share: float) -> None:
        """A checkpoint was read: this share of what is taught is recalled."""
        self._recall = share
        self._bar.say(self._status())

    def end_early(self, why: str) -> None:
        """The training ends before its last step."""
        self._bar.end_early(why)

    def _status(self) -> str:
        parts = [] if math.isnan(self._loss) else [f"loss {self._loss:.3f}"]
        return "  ".join([*parts, *([] if math.isnan(self._recall) else [f"recall {self._recall:.2f}"])])


@contextmanager
def phase_bar(name: str, total: int, done: int = 0) -> Iterator[PhaseBar]:
    """A bar over the ``total`` steps of a training, of which ``done`` are made already."""
    with progress_bar(name, total, done) as bar:
        yield PhaseBar(bar)


def note(text: str) -> None:
    """A line on standard error."""
    _console().print(text, markup=False, highlight=False, soft_wrap=True)


def _console() -> Console:
    """Standard error, which would keep every refresh of a bar where it is no terminal.

    A notebook's stream says that it is one, and rich believes of any stream that it is where ``FORCE_COLOR`` is set, as
    in all that a notebook starts or captures.
    """
    is_terminal = sys.stderr is not None and sys.stderr.isatty() and not _in_notebook()
    return Console(stderr=True, force_jupyter=False, force_terminal=None if is_terminal else False)


def _in_notebook() -> bool:
    """Whether what is printed goes to a cell of a notebook; not where it is captured."""
    return type(sys.stderr).__module__.startswith("ipykernel")
