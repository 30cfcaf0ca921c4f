"""Freed memory goes back to the system: glibc's own blocks, and what a new process holds by /proc."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys

import pytest

MIB = 1 << 20
LARGE = 24 * MIB

PROCESS = """
import ctypes, json, re
from edgeq.engine.heap import large_blocks_returned, trim_heap

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, (ctypes.c_size_t,)
libc.free.argtypes = (ctypes.c_void_p,)


def held():
    with open("/proc/self/status") as status:
        return 1024 * int(re.search(r"RssAnon:\\s+(\\d+)", status.read())[1])


def left_of_a_large_block():
    before, large = held(), libc.malloc(LARGE)
    small = [libc.malloc(100_000) for _ in range(40)]
    ctypes.memset(large, 1, LARGE)
    libc.free(large)
    found = held() - before
    for block in small:
        libc.free(block)
    return found


with large_blocks_returned():
    pass
usual = left_of_a_large_block()
trim_heap()
with large_blocks_returned():
    returned = left_of_a_large_block()
trim_heap()
print(json.dumps([usual, returned, left_of_a_large_block()]))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="no glibc")
def test_large_blocks_are_returned_at_once() -> None:
    """Bytes still held of a large block that was freed, while small ones lie behind it: before, meanwhile, after."""
    code = PROCESS.replace("LARGE", str(LARGE))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    usual, returned, after = json.loads(done.stdout)
    assert usual > LARGE - MIB
    assert returned < MIB
    assert after > LARGE - MIB
