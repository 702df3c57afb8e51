"""The command line: parses, calls study and draw, prints. Everything else is a line of Python away.

Errors are one sentence on standard error and exit code 2; results go to standard output, as JSON with ``--json``. What
a command needs is imported when it is called, so that help is there at once.
"""

from __future__ import annotations

import sys
import warnings
from importlib.metadata import version
from typing import Annotated

import typer

from mechmask.cli.planning import doctor, power
from mechmask.cli.readings import fit, read, trajectory
from mechmask.cli.studies import calibrate, demo, edit, export, report, status, study, sweep
from mechmask.console import INTERRUPTED, drop_output, stop, stop_at_usage
from mechmask.errors import MechmaskError

app = typer.Typer(
    help="Is a fact that a language model no longer says deleted, or out-competed?",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # square brackets are TOML here, not markup
)
for command in (demo, study, sweep, edit, calibrate, status, report, export, read, trajectory, doctor, power):
    app.command()(command)

lenses = typer.Typer(help="Lenses for readings of depth.", no_args_is_help=True, rich_markup_mode=None)
lenses.command()(fit)
app.add_typer(lenses, name="lens")


def main() -> None:
    """Entry point of the console script."""
    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries, about themselves
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    code: object = 0
    try:
        code = app(standalone_mode=False)
    except KeyboardInterrupt:
        stop("mechmask: stopped.", INTERRUPTED)
    except MechmaskError as error:
        stop(f"mechmask: {error}", 2)
    except BrokenPipeError:
        drop_output()
        stop("", 1)
    except RecursionError:
        stop("mechmask: The input is nested too deeply to be read. Give a plainer file.", 2)
    except OSError as error:
        if error.filename is None:
            drop_output()
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror or error)
        stop(f"mechmask: {what}. Check the path, its permissions and the free space.", 2)
    except MemoryError:
        stop(
            "mechmask: There is not enough memory. Use a smaller model, or in a study a smaller batch_size.",
            2,
        )
    except Exception as error:
        stop_at_usage(error)
        first = (str(error).strip().splitlines() or ["no message"])[0]
        stop(f"mechmask: {type(error).__name__}: {first}. This is a bug of mechmask: please report it.", 1)
    if code == INTERRUPTED:
        stop("mechmask: stopped.", INTERRUPTED)
    sys.exit(code if isinstance(code, int) else 0)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"mechmask {version('mechmask')}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Is a fact that a language model no longer says deleted, or out-competed?"""
