"""Take a bundle into a store: verify it, keep each of its files once, and make a version of them."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from edgeq.bundle.contents import SIGNATURE, BundledFile, Manifest
from edgeq.bundle.copy import Report as BytesReport
from edgeq.bundle.copy import meter
from edgeq.bundle.transport import unpack
from edgeq.bundle.verify import Trust, Verified, examine
from edgeq.errors import ArtifactError
from edgeq.install.objects import check_space, missing_bytes, put
from edgeq.install.records import Record, read_record, write_record
from edgeq.install.states import next_number
from edgeq.install.store import Store
from edgeq.install.sweep import sweep
from edgeq.install.versions import bundle_files, publish

__all__ = ["Report", "Taken", "take_in"]

Report = Callable[[str, int, int], None]
"""Called with the stage (`unpacking`, `verifying`, `copying`), the bytes done, and the bytes in all."""


Admit = Callable[[Verified], object]
"""Raises where a verified bundle must not come in."""


@dataclass(frozen=True)
class Taken:
    """A version that is in the store.

    Attributes:
        id: SHA-256 of its manifest.
        signed_by: id of the key whose signature was checked, now or before; None where none was asked for.
        manifest: its own.
        files: all of them, manifest and signature included.
        new: those that the store did not have, or not whole.
    """

    id: str
    signed_by: str | None
    manifest: Manifest
    files: tuple[BundledFile, ...]
    new: tuple[BundledFile, ...]


def take_in(
    store: Store,
    source: Path,
    trust: Trust,
    report: Report | None = None,
    *,
    admit: Admit | None = None,
    because: str = "",
) -> Taken:
    """Verify a bundle and make a version of it, which is whole and on the disk when this returns.

    Files that the store has are read again and compared. A damaged one is replaced, in every version that has it.

    Args:
        store: to put it into; the lock must be held.
        source: a transport file or a directory, which is only read.
        trust: what the bundle must satisfy.
        report: of progress.
        admit: given the bundle once it is verified; raises where it must not come in.
        because: why it is taken though something is against it; empty where nothing is.

    Raises:
        BundleError: the bundle is refused.
        ArtifactError: there is none, or it changed while it was copied.
        OutputError: the disk is full, or fails. In either case nothing of the bundle is left.
    """
    try:
        return _take_in(store, source, trust, report, admit or (lambda _verified: None), because)
    except BaseException:
        sweep(store)
        raise


def _take_in(store: Store, source: Path, trust: Trust, report: Report | None, admit: Admit, because: str) -> Taken:
    with _bundle(store, source, trust, report) as (bundle, ours):
        verified = examine(bundle, trust, report=_stage(report, "verifying"), named=source)
        admit(verified)
        files, signed_by = _signed(store, verified)
        missing = missing_bytes(store, files)
        check_space(store, 0 if ours else missing)
        advance = meter(_stage(report, "copying"), missing)
        new = tuple(file for file in files if put(store, bundle / file.name, file, move=ours, advance=advance))
    record = Record(
        id=verified.digest,
        number=next_number(store),
        installed=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        source=source.name,
        signed_by=signed_by,
        because=because,
    )
    write_record(store, record)
    publish(store, verified.digest, files)
    return Taken(verified.digest, signed_by, verified.manifest, files, new)


def _signed(store: Store, verified: Verified) -> tuple[tuple[BundledFile, ...], str | None]:
    """The files to keep, and whose signature they have: one that was checked stays where another was not checked."""
    files, known = bundle_files(verified), read_record(store, verified.digest).signed_by
    if verified.signed_by is not None or known is None or not (store.version(verified.digest) / SIGNATURE).is_file():
        return files, verified.signed_by
    return tuple(file for file in files if file.name != SIGNATURE), known


@contextmanager
def _bundle(store: Store, source: Path, trust: Trust, report: Report | None) -> Iterator[tuple[Path, bool]]:
    """A directory with the bundle, and whether it is our own, as one that was unpacked is.

    What was unpacked is verified a second time by the caller: what is on this disk is what counts.
    """
    if source.is_dir():
        yield source, False
        return
    if not source.is_file():
        raise ArtifactError(f"{source} is not there", expected="a bundle: an .edgeq.tar file or a directory")
    check_space(store, source.stat().st_size)
    directory = store.staging / secrets.token_hex(8)
    unpack(source, directory, limits=trust.limits, report=_stage(report, "unpacking"))
    try:
        yield directory, True
    finally:
        shutil.rmtree(directory)


def _stage(report: Report | None, name: str) -> BytesReport | None:
    return partial(report, name) if report else None
