"""Files of readings that were parsed lately, by their content: a study asks for the same ones again and again.

What a file holds is known by a digest of all its bytes, never by its path or its time, so that a file that was written
anew is parsed anew. Parsing takes some hundred times as long as the digest and the copy that a caller gets.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock

import xarray as xr
import xxhash


class RecentReadings:
    """The readings parsed last, as many as fit.

    Args:
        max_bytes: of all arrays that are kept together; the least recently used are let go.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[bytes, xr.Dataset] = OrderedDict()
        self._lock = Lock()

    def get(self, content: bytes, parse: Callable[[bytes], xr.Dataset]) -> xr.Dataset:
        """What ``parse`` makes of a file's content; the caller's own copy.

        Args:
            content: the file.
            parse: makes the reading; called where this content is not kept.
        """
        key = xxhash.xxh3_128_digest(content)
        with self._lock:
            kept = self._kept.get(key)
            if kept is not None:
                self._kept.move_to_end(key)
        if kept is None:
            kept = parse(content)
            self._keep(key, kept)
        return kept.copy(deep=True)

    def _keep(self, key: bytes, reading: xr.Dataset) -> None:
        if reading.nbytes > self._max_bytes:
            return
        with self._lock:
            self._kept[key] = reading
            while sum(each.nbytes for each in self._kept.values()) > self._max_bytes:
                self._kept.popitem(last=False)
