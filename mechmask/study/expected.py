"""What a calibration lets a study of twins expect, kept beside its page for planning."""

from __future__ import annotations

import json
from pathlib import Path

from mechmask.configuration import validated
from mechmask.errors import StudyError
from mechmask.files import write_text
from mechmask.measure.twin_design import Expected

EXPECTED = "expected.json"


def write_expected(expected: Expected, path: Path) -> None:
    """Keep it as JSON."""
    write_text(path, expected.model_dump_json(indent=2) + "\n")


def read_expected(path: Path) -> Expected:
    """Read it again.

    Raises:
        StudyError: if there is no such file, or it does not hold what a calibration writes.
    """
    try:
        content = json.loads(path.read_text())
    except OSError as error:
        raise StudyError(
            f"{path} cannot be read ({error.strerror}). Give the directory of a calibration that has ended."
        ) from error
    except ValueError as error:  # no JSON, or no text
        raise StudyError(f"{path} is damaged. Run mechmask calibrate on its directory again.") from error
    return validated(Expected, content, str(path))
