"""What is free on this machine now, and what this process has taken since its models were loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edgeq.device import probe
from edgeq.errors import InputError

__all__ = ["MemorySeen", "MemoryWatch"]


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

    Args:
        cuda: the language model is on the GPU.
        root: where `proc` and `sys` are; another one for a test.

    Raises:
        InputError: `/proc` cannot be read.
    """

    def __init__(self, *, cuda: bool = False, root: Path = Path("/")) -> None:
        self._cuda, self._root = cuda, root
        self._before = self._taken()

    def look(self) -> MemorySeen:
        """How it is now; raises InputError where `/proc` cannot be read."""
        return MemorySeen(free=probe(self._root).budget_bytes, own=self._taken() - self._before)

    def _taken(self) -> int:
        """Bytes in memory that belong to no file, and torch's on the GPU."""
        path = self._root / "proc/self/status"
        try:
            lines = path.read_text(encoding="ascii", errors="replace").splitlines()
            resident = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))
        except (OSError, StopIteration, IndexError, ValueError) as error:
            raise InputError(f"this process's memory is not known: {path} cannot be read", expected="Linux") from error
        return resident + (_on_gpu() if self._cuda else 0)


def _on_gpu() -> int:
    import torch

    return int(torch.cuda.memory_reserved())
