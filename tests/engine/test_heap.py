"""Freed memory goes back to the system: glibc's own blocks, and what the process holds by /proc."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgeq.engine.heap import large_blocks_returned, trim_heap

MIB = 1 << 20
LARGE = 24 * MIB


def held() -> int:
    """Bytes of the process that are no file's."""
    found = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return 1024 * int(found[1])


@pytest.fixture
def libc() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallopt"):
        pytest.skip("no glibc")
    library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
    library.free.argtypes = (ctypes.c_void_p,)
    return library


@pytest.fixture
def usual_heap() -> Iterator[None]:
    """As it is once large blocks have come and gone."""
    with large_blocks_returned():
        pass
    yield
    trim_heap()


def left_of_a_large_block(libc: ctypes.CDLL) -> int:
    """Bytes still held of a large block that was freed, while a small one lies behind it."""
    before, large = held(), libc.malloc(LARGE)
    small = [libc.malloc(100_000) for _ in range(40)]
    ctypes.memset(large, 1, LARGE)
    assert held() - before > LARGE - MIB
    libc.free(large)
    found = held() - before
    for block in small:
        libc.free(block)
    return found


@pytest.mark.usefixtures("usual_heap")
def test_large_blocks_are_returned_at_once(libc: ctypes.CDLL) -> None:
    assert left_of_a_large_block(libc) > LARGE - MIB
    trim_heap()
    with large_blocks_returned():
        assert left_of_a_large_block(libc) < 4 * MIB
    assert left_of_a_large_block(libc) > LARGE - MIB
