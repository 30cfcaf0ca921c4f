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

from edgeq.bundle.contents import BundledFile
from edgeq.bundle.copy import Report as BytesReport
from edgeq.bundle.copy import meter
from edgeq.bundle.transport import unpack
from edgeq.bundle.verify import Trust, examine
from edgeq.errors import ArtifactError
from edgeq.install.objects import check_space, missing_bytes, put
from edgeq.install.records import Record, write_record
from edgeq.install.states import next_number
from edgeq.install.store import Store
from edgeq.install.sweep import sweep
from edgeq.install.versions import bundle_files, publish

__all__ = ["Report", "Taken", "take_in"]

Report = Callable[[str, int, int], None]
"""Called with the stage (`unpacking`, `verifying`, `copying`), the bytes done, and the bytes in all."""


@dataclass(frozen=True)
class Taken:
    """A version that is in the store.

    Attributes:
        id: SHA-256 of its manifest.
        signed_by: id of the key whose signature was checked; None where none was asked for.
        files: all of them, manifest and signature included.
        new: those that the store did not have, or not whole.
    """

    id: str
    signed_by: str | None
    files: tuple[BundledFile, ...]
    new: tuple[BundledFile, ...]


def take_in(store: Store, source: Path, trust: Trust, report: Report | None = None) -> Taken:
    """Verify a bundle and make a version of it, which is whole and on the disk when this returns.

    Files that the store has are read again and compared. A damaged one is replaced, in every version that has it.

    Args:
        store: to put it into; the lock must be held.
        source: a transport file or a directory, which is only read.
        trust: what the bundle must satisfy.
        report: of progress.

    Raises:
        BundleError: the bundle is refused.
        ArtifactError: there is none, or it changed while it was copied.
        OutputError: the disk is full, or fails. In either case nothing of the bundle is left.
    """
    try:
        return _take_in(store, source, trust, report)
    except BaseException:
        sweep(store)
        raise


def _take_in(store: Store, source: Path, trust: Trust, report: Report | None) -> Taken:
    with _bundle(store, source, trust, report) as (bundle, ours):
        verified = examine(bundle, trust, report=_stage(report, "verifying"))
        files = bundle_files(bundle, verified)
        missing = missing_bytes(store, files)
        check_space(store, 0 if ours else missing)
        advance = meter(_stage(report, "copying"), missing)
        new = tuple(file for file in files if put(store, bundle / file.name, file, move=ours, advance=advance))
    record = Record(
        id=verified.digest,
        number=next_number(store),
        installed=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        source=source.name,
        signed_by=verified.signed_by,
    )
    write_record(store, record)
    publish(store, verified.digest, files)
    return Taken(verified.digest, verified.signed_by, files, new)


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
