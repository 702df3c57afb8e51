"""The seal of a file: a digest of all its bytes, appended, so that a flipped bit is noticed before a parser meets it.

HDF5 ignores what follows its own end, so a sealed file stays a netCDF-4 file for every other program. The digest is of
bytes and not of decoded values: it covers texts, attributes and structure alike, needs no canonical form that another
version could write otherwise, and keeps damaged files away from the HDF5 library, which may crash on them. That a file
was sealed is in its attributes, so that a seal that was cut off is missed.
"""

from __future__ import annotations

import hashlib

from mechmask.errors import ReadingError

_MARK = b"mechmask sha256:"
_LENGTH = len(_MARK) + 64


def sealed(content: bytes) -> bytes:
    """The content with its digest appended."""
    return content + _MARK + hashlib.sha256(content).hexdigest().encode()


def has_seal(content: bytes, name: object) -> bool:
    """Whether the content of a file ends with a seal.

    Raises:
        ReadingError: if it does, and the content is not what was sealed; ``name`` says which file.
    """
    before, seal = content[:-_LENGTH], content[-_LENGTH:]
    if not seal.startswith(_MARK):
        return False
    if sealed(before) != content:
        raise ReadingError(f"{name} is damaged: it does not match its digest. Delete it and make the reading again.")
    return True
