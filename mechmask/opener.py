"""What opens a directory of results, for rooms below ``study`` that are handed one; the public face names it.

An import goes down only, and so ``draw`` cannot call ``study``. It asks here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

_openers: list[Callable[[Path], Any]] = []


def opens_directories(opener: Callable[[Path], Any]) -> None:
    """Name what opens a directory of results from now on.

    Args:
        opener: of a path; raises a ``MechmaskError`` where there are no results.
    """
    _openers[:] = [opener]


def opened(directory: Path) -> Any:
    """The results in a directory, whatever their kind.

    Args:
        directory: of a study, of draws, of the paper or of a calibration.
    """
    return _openers[0](directory)
