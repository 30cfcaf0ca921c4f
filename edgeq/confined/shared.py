"""Memory that parent and child share for one call, so that pixels are not pushed through a pipe.

It is sealed at its size: a child that was taken over cannot cut it off under its parent's hands.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import Final

__all__ = ["map_whole", "shared_file"]

_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def shared_file(data: bytes, size: int) -> int:
    """A descriptor of a file in memory that begins with `data`.

    Args:
        data: what it begins with.
        size: of it, in bytes, at least that of `data`. Only what is written to takes memory.
    """
    descriptor = os.memfd_create("edgeq-confined", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        rest = memoryview(data)
        while rest.nbytes:
            rest = rest[os.write(descriptor, rest) :]
        os.ftruncate(descriptor, size)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def map_whole(descriptor: int, *, write: bool) -> mmap.mmap:
    """Map all of it, every page in one call: faults one by one cost more. The descriptor may be closed then."""
    access = mmap.PROT_READ | (mmap.PROT_WRITE if write else 0)
    return mmap.mmap(descriptor, 0, mmap.MAP_SHARED | mmap.MAP_POPULATE, access)
