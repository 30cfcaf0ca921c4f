"""Memory as it is, and whether what a bundle needs can really be taken."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edgeq.device import DeviceProfile, probe
from edgeq.doctor.child import Outcome
from edgeq.doctor.finding import DoctorFinding
from edgeq.doctor.memory_probe import MemoryKind
from edgeq.doctor.reading import text_in
from edgeq.errors import InputError

__all__ = ["RESERVE_BYTES", "allocation_finding", "memory_finding", "memory_kind"]

RESERVE_BYTES: Final = 512 << 20
"""So much is always left to the system while memory is tried out."""

_KB: Final = 1024


def memory_finding(root: Path, *, jetson: bool) -> DoctorFinding:
    """`/proc/meminfo`, the control group's limit, swap and zram.

    Args:
        root: where `proc` and `sys` are.
        jetson: GPU and CPU share the memory.
    """
    try:
        device = probe(root)
    except InputError as error:
        return DoctorFinding(name="memory", status="unknown", seen=error.what)
    total, available = _gigabytes(device.total_bytes), _gigabytes(device.budget_bytes)
    parts = [f"{available} of {total} available{_limited(root, device)}", *_swaps(root)]
    if not jetson:
        return DoctorFinding(name="memory", status="ok", seen="; ".join(parts))
    return DoctorFinding(
        name="memory",
        status="ok",
        seen="; ".join(parts),
        means="CPU and GPU share it; what the GPU takes never goes to swap or zram, which help other processes only",
    )


def _limited(root: Path, device: DeviceProfile) -> str:
    """Says so where a control group allows less than the machine has."""
    lines = (text_in(root / "proc/meminfo") or "").splitlines()
    machine = next((int(line.split()[1]) * _KB for line in lines if line.startswith("MemTotal:")), 0)
    return f" (a control group's limit; the machine has {_gigabytes(machine)})" if device.total_bytes < machine else ""


def _swaps(root: Path) -> list[str]:
    """Swap areas, zram apart: that is memory of the same machine, compressed."""
    rows = [line.split() for line in (text_in(root / "proc/swaps") or "").splitlines()[1:]]
    areas = [(row[0], int(row[2]) * _KB, int(row[3]) * _KB) for row in rows if len(row) >= 4 and row[2].isdecimal()]
    found = []
    for kind, chosen in (
        ("zram", [area for area in areas if "/zram" in area[0]]),
        ("swap", [area for area in areas if "/zram" not in area[0]]),
    ):
        size, used = sum(area[1] for area in chosen), sum(area[2] for area in chosen)
        found.append(f"{kind} {_gigabytes(size)}, {_gigabytes(used)} used" if chosen else f"no {kind}")
    return found


def memory_kind(torch: Outcome | None) -> MemoryKind:
    """Where a bundle's memory comes from on this machine, by what the torch probe told."""
    facts = torch.facts if torch else {}
    if "gpu" not in facts or "computes" not in facts:
        return "system"
    return "unified" if facts["gpu"].get("integrated") else "gpu"


def allocation_finding(probed: Outcome | None, kind: MemoryKind, needed: int | None) -> DoctorFinding:
    """What came of taking `needed` bytes.

    Args:
        probed: of `edgeq.doctor.memory_probe`; None where nothing says how much is needed.
        kind: where the memory was taken from.
        needed: bytes.
    """
    if probed is None or needed is None:
        step = "edgeq doctor BUNDLE, or --needs-memory GB"
        return DoctorFinding(
            name="allocation", status="unknown", seen="nothing says how much is needed", next_step=step
        )
    how = {"system": "by the CPU", "unified": "by CUDA from the shared memory", "gpu": "on the GPU"}[kind]
    wanted = f"{_gigabytes(needed)} {how}"
    if probed.facts.get("whole"):
        return DoctorFinding(name="allocation", status="ok", seen=f"took and touched {wanted}, and gave it back")
    return DoctorFinding(
        name="allocation",
        status="missing",
        seen=f"wanted {wanted}, took {_gigabytes(probed.facts.get('taken', 0))}: {_why(probed)}",
        means="the bundle's memory plan does not fit what this machine has now",
        next_step="end other processes, switch the desktop off, or plan with a shorter context: edgeq plan --context",
    )


def _why(probed: Outcome) -> str:
    """Why not all was taken."""
    if "whole" in probed.facts:
        left = f"less than {_gigabytes(RESERVE_BYTES)} would be left"
        return f"{_gigabytes(probed.facts['available'])} were available, and {left}"
    return str(probed.facts.get("refused") or probed.ending)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"
