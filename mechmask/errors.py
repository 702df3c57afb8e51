"""The errors that mechmask raises on purpose: one sentence that names the cause and the remedy.

The command line prints them without a traceback; those caused by an argument are also ``ValueError``, those caused by
the file system also ``OSError``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class MechmaskError(Exception):
    """Root of every error that mechmask raises on purpose."""

    def __str__(self) -> str:
        """The sentence, with characters that no terminal can print (from a file's name, say) escaped."""
        return super().__str__().encode("utf-8", "backslashreplace").decode("utf-8")


class FactError(MechmaskError, ValueError):
    """A fact, a fact set or a file of facts that cannot be used."""


class RouteError(FactError):
    """A fact whose values cannot be told apart as tokens of this tokenizer."""


class ModelError(MechmaskError, ValueError):
    """A model that cannot be loaded, or whose anatomy is not known."""


class WeightsError(ModelError):
    """Something that needs weights as numbers on their devices, asked of a model that is quantised or offloaded."""


class ReadingError(MechmaskError, ValueError):
    """A reading that was requested with unusable arguments, or that failed its self-check."""


class ChangeError(MechmaskError, ValueError):
    """A change of a model that cannot be made, applied, saved or loaded."""


class StudyError(MechmaskError, ValueError):
    """A study that cannot start, or a directory that holds another one."""


class UnfinishedError(StudyError):
    """A result of a study that is not there yet, or is older than what it was made from."""


class FileError(MechmaskError, OSError):
    """A file or directory that cannot be written or read: disk full, no permission, name too long."""


class DamageError(MechmaskError, ValueError):
    """Something that was written whole and no longer is: a file is missing, cut, altered or extra."""


def one_message(what: str, problems: Sequence[str]) -> str:
    """All ``problems`` of ``what`` in one message, one line each if there are several."""
    if len(problems) == 1:
        return problems[0]
    lines = "\n".join(f"  {i}. {problem}" for i, problem in enumerate(problems, 1))
    return f"{len(problems)} problems in {what}:\n{lines}"


def known_names(name: str, known: Iterable[str]) -> str:
    """The sentence after an unknown name: the nearest known one, if there is one, and all of them.

    Args:
        name: the name that is not known.
        known: the names that are, in the order in which they should be read.

    Examples:
        >>> known_names("logits", ["logit", "tuned"])
        "Did you mean 'logit'? Known are logit, tuned."
    """
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1)
    return (f"Did you mean {near[0]!r}? " if near else "") + f"Known are {', '.join(known)}."
