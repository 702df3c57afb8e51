"""The errors that mechmask raises on purpose: one sentence that names the cause and the remedy.

The command line prints them without a traceback; those caused by an argument are also ``ValueError``.
"""

from __future__ import annotations

from collections.abc import Sequence


class MechmaskError(Exception):
    """Root of every error that mechmask raises on purpose."""


class FactError(MechmaskError, ValueError):
    """A fact, a fact set or a file of facts that cannot be used."""


class RouteError(FactError):
    """A fact whose values cannot be told apart as tokens of this tokenizer."""


class ModelError(MechmaskError, ValueError):
    """A model that cannot be loaded, or whose anatomy is not known."""


class ReadingError(MechmaskError, ValueError):
    """A reading that was asked wrongly, or that failed its own check."""


class ChangeError(MechmaskError, ValueError):
    """A change of a model that cannot be made, applied, saved or loaded."""


class StudyError(MechmaskError, ValueError):
    """A study that cannot start, or a directory that holds another one."""


def one_message(what: str, problems: Sequence[str]) -> str:
    """All ``problems`` of ``what`` in one message, a line each where there are several."""
    if len(problems) == 1:
        return problems[0]
    lines = "\n".join(f"  {i}. {problem}" for i, problem in enumerate(problems, 1))
    return f"{len(problems)} problems in {what}:\n{lines}"
