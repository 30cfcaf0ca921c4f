"""What is free on this machine now, and what this process has taken since its models were loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeq.device import MemoryFiles, OpenText
from edgeq.errors import InputError

__all__ = ["MemorySeen", "MemoryWatch", "bound_gpu_memory"]


@dataclass(frozen=True)
class MemorySeen:
    """One look, as `Admission.observe` takes it.

    Attributes:
        free: bytes that a process could still take, what the kernel can reclaim included.
        own: bytes that this process has taken since the watch began; negative where it has given some back.
    """

    free: int
    own: int


class MemoryWatch:
    """Begins when it is made: after the models were loaded and have run once, before the first request.

    On a Jetson what CUDA takes does not count as the process's resident memory, so that torch's own count is added. Its
    allocator keeps what was freed; that counts as taken, because requests will get it again.

    The files of `/proc` stay open from then on: where connections take all descriptors, they can still be read.

    Args:
        cuda: the language model is on the GPU.
        root: where `proc` and `sys` are; another one for a test.

    Raises:
        InputError: `/proc` cannot be read.
    """

    def __init__(self, *, cuda: bool = False, root: Path = Path("/")) -> None:
        self._cuda, self._path = cuda, root / "proc/self/status"
        self._machine = MemoryFiles(root)
        try:
            self._status = OpenText(self._path)
        except OSError as error:
            raise self._unknown() from error
        self._before = self._taken()

    def look(self) -> MemorySeen | None:
        """How it is now; None where that cannot be said: then nothing is known, and nothing has ended."""
        try:
            _, free = self._machine.read()
            return MemorySeen(free=free, own=self._taken() - self._before)
        except InputError:
            return None

    def _taken(self) -> int:
        """Bytes in memory that belong to no file, and torch's on the GPU."""
        try:
            lines = self._status.read().splitlines()
            resident = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
        except (OSError, StopIteration, IndexError, ValueError) as error:
            raise self._unknown() from error
        return resident + (_on_gpu() if self._cuda else 0)

    def _unknown(self) -> InputError:
        return InputError(f"this process's memory is not known: {self._path} cannot be read", expected="Linux")


def _on_gpu() -> int:
    import torch

    return int(torch.cuda.memory_reserved())


def bound_gpu_memory(more: int) -> None:
    """Let torch take no more than it has now, and so many bytes: beyond that a request gets torch's OutOfMemoryError.

    Without a bound, on memory that CPU and GPU share, what takes too much ends in the kernel's or the driver's hands,
    which end the process.

    Args:
        more: what the plan gives to kernels, requests and caches.
    """
    import torch

    whole = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    torch.cuda.set_per_process_memory_fraction(min((torch.cuda.memory_reserved() + more) / whole, 1.0))
