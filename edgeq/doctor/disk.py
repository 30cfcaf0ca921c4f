"""Free space where bundles and engines are kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

from edgeq.doctor.finding import DoctorFinding

__all__ = ["LITTLE_BYTES", "disk_finding"]

LITTLE_BYTES: Final = 2_000_000_000


def disk_finding(place: Path, bundle_bytes: int = 0) -> DoctorFinding:
    """What is free on the disk of `place`, which need not exist yet.

    Args:
        place: a directory.
        bundle_bytes: of the bundle that is to be installed or updated; a second one must fit beside it.
    """
    there = next(path for path in (place.absolute(), *place.absolute().parents) if path.exists())
    free = shutil.disk_usage(there).free
    seen = f"{free / 1e9:.1f} GB free for {place}"
    if free < bundle_bytes:
        means = f"an update needs as much again as the bundle, {bundle_bytes / 1e9:.1f} GB, beside it"
        return DoctorFinding(
            name="disk", status="missing", seen=seen, means=means, next_step="edgeq prune, or a larger disk"
        )
    if free < LITTLE_BYTES:
        means = "little is left for engines and updates"
        return DoctorFinding(name="disk", status="warning", seen=seen, means=means, next_step="edgeq prune")
    return DoctorFinding(name="disk", status="ok", seen=seen)
