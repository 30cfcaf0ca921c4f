"""A probe: take the memory that a bundle needs, touch it, and give it back.

Memory is taken in pieces, and before each piece the kernel is asked what is left: where what is still to be taken
would leave less than the reserve, nothing more is taken. The process offers itself to the kernel's OOM killer first.
On a Jetson the memory is taken through CUDA, whose allocations never go to swap.

Run as `python -m edgeq.doctor.memory_probe KIND BYTES RESERVE`, by `edgeq.doctor.child.run_probe`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

import numpy as np

from edgeq.device import PROFILES, probe
from edgeq.doctor.child import tell

__all__ = ["PIECE_BYTES", "MemoryKind", "main", "take"]

MemoryKind = Literal["system", "unified", "gpu"]
"""`system`: taken by the CPU. `unified`: by CUDA, from the memory that the CPU uses too. `gpu`: a GPU's own."""

PIECE_BYTES: Final = 256 << 20

_PAGE: Final = 4096
_RUNTIME_BYTES: Final = PROFILES["orin-nx-16gb"].runtime_bytes


def take(
    needed: int,
    reserve: int,
    allocate: Callable[[int], object],
    available: Callable[[], int],
    told: Callable[[int], None],
) -> bool:
    """Take `needed` bytes and hold them; false where that would leave less than the reserve.

    Args:
        needed: bytes.
        reserve: bytes that must be left.
        allocate: gives so many bytes, touched.
        available: bytes that could be taken now.
        told: is told how many have been taken so far.
    """
    held, taken = [], 0
    while taken < needed:
        if available() - (needed - taken) < reserve:
            return False
        size = min(PIECE_BYTES, needed - taken)
        held.append(allocate(size))
        taken += size
        told(taken)
    return True


def main(arguments: list[str]) -> None:
    """Tell what was available, what was taken, and whether it was all."""
    kind, needed, reserve = arguments[0], int(arguments[1]), int(arguments[2])
    _offer_to_the_oom_killer()
    tell("available", _system_available())
    if kind == "system":
        tell("whole", take(needed, reserve, _on_cpu, _system_available, _tell_taken))
    else:
        _on_gpu(kind == "unified", needed, reserve)


def _offer_to_the_oom_killer() -> None:
    """Where memory runs out all the same, this process goes first."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def _on_gpu(unified: bool, needed: int, reserve: int) -> None:
    """Take it through CUDA; on unified memory, what CUDA's context and torch have taken counts as taken."""
    import torch

    def allocate(size: int) -> object:
        piece = torch.full((size,), 1, dtype=torch.uint8, device="cuda")
        torch.cuda.synchronize()
        return piece

    def gpu_available() -> int:
        return int(torch.cuda.mem_get_info()[0])

    before = _system_available()
    torch.cuda.synchronize()
    runtime = min(max(before - _system_available(), 0), _RUNTIME_BYTES) if unified else 0
    tell("runtime", runtime)
    if not unified:
        tell("available", gpu_available())
    available = _system_available if unified else gpu_available
    try:
        tell("whole", take(max(needed - runtime, 0), reserve, allocate, available, _tell_taken))
    except RuntimeError as error:  # torch.OutOfMemoryError, and what NvMap's errors become
        tell("refused", str(error).splitlines()[0][:300])


def _on_cpu(size: int) -> object:
    piece = np.empty(size, dtype=np.uint8)
    piece[::_PAGE] = 1
    return piece


def _system_available() -> int:
    """What the kernel could give, or the container's limit leaves, in bytes."""
    return probe().budget_bytes


def _tell_taken(count: int) -> None:
    tell("taken", count)


if __name__ == "__main__":
    main(sys.argv[1:])
