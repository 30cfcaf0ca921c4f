"""The host's memory in the place of a GPU's: what edgeq copies to the device and frees there can be looked at."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeq.tensorrt.buffer import Buffer

__all__ = ["HostMemory", "read"]

ALIGNMENT = 256
STREAM = 77


def read(address: int, nbytes: int) -> bytes:
    """What lies at an address."""
    return ctypes.string_at(address, nbytes)


class HostMemory:
    """A DeviceMemory whose addresses can be read.

    Attributes:
        log: what was asked for, in order.
        live: address -> bytes of each buffer that was not freed.
        stream: a number that stands for a stream.
    """

    def __init__(self) -> None:
        self.log: list[str] = []
        self.live: dict[int, NDArray[np.uint8]] = {}
        self.stream = STREAM

    def allocate(self, nbytes: int) -> Buffer:
        room = np.zeros(nbytes + ALIGNMENT, np.uint8)
        aligned = room[-room.ctypes.data % ALIGNMENT :][:nbytes]
        address = aligned.ctypes.data
        self.live[address] = aligned
        self.log.append(f"allocate {nbytes}")
        return Buffer(address, nbytes, aligned)

    def copy_in(self, buffer: Buffer, array: NDArray[Any]) -> None:
        assert array.flags.c_contiguous
        self.live[buffer.address][: array.nbytes] = array.reshape(-1).view(np.uint8)
        self.log.append(f"copy in {array.nbytes}")

    def copy_out(self, buffer: Buffer, array: NDArray[Any]) -> None:
        assert array.flags.c_contiguous
        array.reshape(-1).view(np.uint8)[:] = self.live[buffer.address][: array.nbytes]
        self.log.append(f"copy out {array.nbytes}")

    def wait_for_caller(self) -> None:
        self.log.append("wait for caller")

    def synchronize(self) -> None:
        self.log.append("synchronize")

    def free(self, buffer: Buffer) -> None:
        if buffer.address:
            del self.live[buffer.address]
            self.log.append(f"free {buffer.nbytes}")
        buffer.address, buffer.handle = 0, None
