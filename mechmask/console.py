"""What the command line prints and how it ends: tables, JSON, a word while something loads, one line for an error."""

from __future__ import annotations

import json as encoder
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

import typer

if TYPE_CHECKING:
    import pandas as pd

INTERRUPTED = 130  # the exit code that a shell expects of a program that Ctrl-C ended


def stop_at_usage(error: Exception) -> None:
    """One line for a command that was typed wrongly; typer carries click's errors under a name of its own."""
    sentence, show_help = getattr(error, "format_message", None), getattr(error, "show", None)
    if not callable(sentence) or not callable(show_help):
        return
    if type(error).__name__ == "NoArgsIsHelpError":
        show_help()
        stop("", 2)
    complaint = str(sentence()).strip().replace("Value error, ", "").replace("\n", " ").rstrip(".")
    command = getattr(getattr(error, "ctx", None), "command_path", "mechmask")
    stop(f"mechmask: {complaint}. See {command} --help.", 2)


def stop(message: str, code: int) -> NoReturn:
    """End the program with a line on standard error, if there is something to say."""
    if message:
        typer.echo(message.encode("utf-8", "backslashreplace").decode("utf-8"), err=True)
    sys.exit(code)


def drop_output() -> None:
    """Send what is still to be printed nowhere: standard output is full or closed, and would fail again at the end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


@contextmanager
def loading(what: str = "PyTorch and transformers") -> Iterator[None]:
    """A word on standard error while something is loaded that takes seconds."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(f"loading {what} (some seconds)"):
        yield


def show(table: pd.DataFrame, title: str, json: bool) -> None:
    """Print a table for a person, or its rows as JSON for a script."""
    if json:
        print_json(table.reset_index().to_dict("records"))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    sheet = Table(title=escape(title))
    for name in [*table.index.names, *table.columns]:
        sheet.add_column(str(name), justify="left" if name in table.index.names else "right")
    for index, row in table.iterrows():
        labels = index if isinstance(index, tuple) else (index,)
        cells = [*map(str, labels), *(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row)]
        sheet.add_row(*map(escape, cells))
    Console(width=None if sys.stdout.isatty() else 200).print(sheet)


def print_json(data: Any) -> None:
    """Print JSON; a number that is not finite is null."""
    typer.echo(encoder.dumps(_plain(data), indent=2, ensure_ascii=False))


def _plain(value: Any) -> Any:
    """What JSON can say: Python's own types, and null for a number that is not finite."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value
