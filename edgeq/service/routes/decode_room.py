"""Memory for images that are being decoded: what their headers say that it takes is reserved before it begins.

It is taken out of the reserve, which requests that are under way leave free: so all together stays within the memory
that the process was given.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from edgeq.device import probe
from edgeq.runtime.scheduler.errors import BusyError
from edgeq.service.http.errors import RequestError
from edgeq.service.settings import ServiceSettings

__all__ = ["DecodeRoom", "decode_budget"]

_SHARE: Final = 3
_LEAST: Final = 256 << 20


def decode_budget(settings: ServiceSettings) -> int:
    """Bytes for decoding: the reserve, but no more than a third of the memory that the process may take."""
    given = probe().total_bytes if settings.memory_gb is None else round(settings.memory_gb * 1e9)
    return max(min(given // _SHARE, settings.reserve_mib << 20), _LEAST)


class DecodeRoom:
    """Reserves; for any number of threads.

    Args:
        budget: bytes for all images that are decoded at once.
    """

    def __init__(self, budget: int) -> None:
        self._budget = self._free = budget
        self._changed = threading.Condition()

    @contextmanager
    def take(self, needed: int, seconds: float) -> Iterator[None]:
        """Have so many bytes while the block runs.

        Args:
            needed: bytes.
            seconds: that it may wait for others to give theirs back.

        Raises:
            RequestError: 413 it never fits.
            BusyError: others did not give back enough in time.
        """
        if needed > self._budget:
            told = f"decoding takes {needed:,} bytes, and there are {self._budget:,} for it: send a smaller image"
            raise RequestError(413, "too_much_memory", told)
        with self._changed:
            if not self._changed.wait_for(lambda: self._free >= needed, seconds):
                raise BusyError(1)
            self._free -= needed
        try:
            yield
        finally:
            with self._changed:
                self._free += needed
                self._changed.notify_all()
