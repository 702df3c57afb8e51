"""A progress bar that says what a study is doing: phase, step, loss, recall."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import Progress, TaskID

from mechmask.read.progress import bar_on_stderr


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
