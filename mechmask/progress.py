"""Progress bars on standard error for what takes more than a second: what is being made, how far, how well."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

Tick = Callable[[str], None]


def bar_on_stderr(*, shown: bool = True) -> Progress:
    """A bar on standard error; where that is no terminal, as in a notebook, its end is all it shows."""
    columns = (
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[status]}"),
    )
    return Progress(*columns, console=Console(stderr=True, force_jupyter=False), disable=not shown)


@contextmanager
def progress_bar(name: str, total: int, *, shown: bool = True) -> Iterator[Tick]:
    """A bar over ``total`` pieces; what it yields takes one piece further and says how it stands."""
    with bar_on_stderr(shown=shown) as progress:
        task = progress.add_task(name, total=total, status="")
        yield lambda status: progress.update(task, advance=1, status=status)


@contextmanager
def patient_bar(name: str, total: int, *, shown: bool = True, after_seconds: float = 2.0) -> Iterator[Tick]:
    """A bar with an estimate that appears only when the work takes longer than ``after_seconds``."""
    began = time.monotonic()
    bar = Progress(
        TextColumn("{task.description:<12}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("about"),
        TimeRemainingColumn(),
        TextColumn("left  {task.fields[status]}"),
        console=Console(stderr=True, force_jupyter=False),
        disable=not shown,
    )
    task = bar.add_task(name, total=total, status="")

    def tick(status: str) -> None:
        bar.update(task, advance=1, status=status)
        if not bar.live.is_started and time.monotonic() - began > after_seconds:
            bar.start()

    try:
        yield tick
    finally:
        if bar.live.is_started:  # to stop one that never began prints an empty line
            bar.stop()


class PhaseBar:
    """One bar of one phase."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress = progress
        self._task = task
        self._loss = self._recall = float("nan")

    def step(self, loss: float) -> None:
        """One step further, at this loss in nats a token."""
        self._loss = loss
        self._show(advance=1)

    def recall(self, share: float) -> None:
        """A checkpoint was read: this share of what is taught is recalled."""
        self._recall = share
        self._show(advance=0)

    def tick(self) -> None:
        """One piece further, where there is no loss."""
        self._progress.advance(self._task)

    def _show(self, advance: int) -> None:
        status = f"loss {self._loss:.3f}" + ("" if self._recall != self._recall else f"  recall {self._recall:.2f}")
        self._progress.update(self._task, advance=advance, status=status)


@contextmanager
def phase_bar(name: str, total: int, done: int = 0) -> Iterator[PhaseBar]:
    """A bar over ``total`` pieces of which ``done`` are made already."""
    with bar_on_stderr() as progress:
        yield PhaseBar(progress, progress.add_task(name, total=total, completed=done, status=""))
