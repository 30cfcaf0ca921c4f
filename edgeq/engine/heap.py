"""Memory that was freed, and that the process holds all the same."""

from __future__ import annotations

import ctypes
from contextlib import suppress

__all__ = ["trim_heap"]


def trim_heap() -> None:
    """Return to the system what was freed.

    glibc keeps it for the threads that had it: after loading a language model a third of the model's size, after an
    ONNX Runtime session a tenth of the process (measured).
    """
    with suppress(OSError, AttributeError):  # no glibc
        ctypes.CDLL(None).malloc_trim(0)
