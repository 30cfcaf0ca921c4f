"""`manifest.json`: write a bundle's, and read it back with every file checked."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgeq import __version__
from edgeq.bundle.contents import MANIFEST, BundledFile, Kind, Manifest, Task, check_names
from edgeq.bundle.directory import entries
from edgeq.bundle.limits import DEFAULT_LIMITS
from edgeq.bundle.needs import DeviceNeeds
from edgeq.bundle.verify import verify_bundle
from edgeq.files import atomic_write

__all__ = ["MANIFEST", "BundledFile", "DeviceNeeds", "Kind", "Manifest", "read_manifest", "write_manifest"]


def write_manifest(
    directory: Path,
    *,
    kind: Kind = "classifier",
    labels: tuple[str, ...] = (),
    allowed: Mapping[str, str] | None = None,
    needs: DeviceNeeds | None = None,
    task: Task | None = None,
) -> Manifest:
    """Measure every file below `directory` and write its manifest; hidden files are not part of a bundle.

    The same files and arguments give the same bytes.

    Args:
        directory: of the bundle; a manifest in it is replaced.
        kind: of model.
        labels: class names in the order of the logits; empty where there are none.
        allowed: guards that said no and were passed all the same: code -> because.
        needs: what the device must have; None for nothing.
        task: as in `Manifest`.

    Raises:
        UnsafeNameError: a file's name could not be read back.
        IrregularFileError: something below is neither a file nor a directory, or is a link.
    """
    names = [name for name, _ in entries(directory)]
    check_names(names, str(directory), most_bytes=DEFAULT_LIMITS.name_bytes)
    manifest = Manifest(
        kind=kind,
        made_by=f"edgeq {__version__}",
        labels=labels,
        allowed=dict(allowed or {}),
        needs=needs or DeviceNeeds(),
        task=task,
        files=tuple(BundledFile.of(directory / name, directory) for name in names),
    )
    atomic_write(directory / MANIFEST, manifest.model_dump_json(indent=1).encode())
    return manifest


def read_manifest(directory: Path) -> Manifest:
    """Read a bundle's manifest and check every file against it, without keys and for any device.

    Raises:
        BundleError: as `verify_bundle`.
    """
    return verify_bundle(directory)
