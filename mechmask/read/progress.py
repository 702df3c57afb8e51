"""A progress bar for readings that take more than a second: what is being made, how far, how well."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

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
