"""A piece of the GPU's memory, and what an engine and a calibrator need of whatever gives it to them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import EngineError, first_line

__all__ = ["Buffer", "DeviceMemory", "bytes_of", "refusals"]


@dataclass
class Buffer:
    """A piece of the GPU's memory.

    Attributes:
        address: on the device; 0 once it was freed.
        nbytes: its size.
        handle: what its owner needs to give it back.
    """

    address: int
    nbytes: int
    handle: Any


class DeviceMemory(Protocol):
    """What an engine and a calibrator need of the GPU; one thread at a time.

    Copies are put into the stream and done after `synchronize`; until then the array must stay as it is.

    Attributes:
        stream: the handle of a CUDA stream of its own, which is not the default one.
    """

    @property
    def stream(self) -> int:
        """The CUDA stream that everything here is put into."""
        ...

    def allocate(self, nbytes: int) -> Buffer:
        """At least `nbytes` bytes at an address that is a multiple of 256, as TensorRT demands; EngineError if full."""
        ...

    def copy_in(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """Copy a C-contiguous array into the first bytes of a buffer; EngineError if it does not fit."""
        ...

    def copy_out(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """Fill a C-contiguous array from the first bytes of a buffer; EngineError if there are not as many."""
        ...

    def wait_for_caller(self) -> None:
        """Let the stream begin after what the caller has put into its own stream so far."""
        ...

    def synchronize(self) -> None:
        """Wait until everything in the stream is done; EngineError if any of it failed."""
        ...

    def free(self, buffer: Buffer) -> None:
        """Give a buffer back; a second time does nothing. Nothing in the stream may use it any more."""
        ...


def bytes_of(buffer: Buffer, array: NDArray[Any]) -> NDArray[np.uint8]:
    """The bytes of an array, uint8 [nbytes], not copied; EngineError where they cannot be copied as one piece."""
    if buffer.handle is None:
        raise EngineError("a buffer of the GPU is used after it was freed")
    if not array.flags.c_contiguous:
        raise EngineError("an array with gaps cannot be copied as one piece", expected="a C-contiguous array")
    if array.nbytes > buffer.nbytes:
        raise EngineError(f"{array.nbytes:,} bytes do not fit into a buffer of {buffer.nbytes:,}")
    return array.reshape(-1).view(np.uint8)


@contextmanager
def refusals(what: str) -> Iterator[None]:
    """EngineError for whatever torch or pycuda raises: their exceptions share no base class but Exception."""
    try:
        yield
    except Exception as error:
        raise EngineError(
            f"the GPU did not {what}",
            causes=(first_line(error), "its memory is full; on a Jetson it is also the system's"),
            next_step="see what is free: tegrastats on a Jetson, nvidia-smi elsewhere",
        ) from error
