"""Versions: bundles made of hard links to objects, complete before they get their name."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path

from edgeq.bundle.contents import MANIFEST, SIGNATURE, BundledFile, Manifest
from edgeq.bundle.manifest import read_manifest
from edgeq.bundle.verify import Verified
from edgeq.errors import EdgeqError, OutputError, first_line
from edgeq.files import new_directory, sha256_file
from edgeq.install.store import Store, is_id, sync_directory
from edgeq.strict_json import read_model

__all__ = ["bundle_files", "damage", "manifest_of", "publish", "withdraw"]

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK)


def bundle_files(verified: Verified) -> tuple[BundledFile, ...]:
    """Every file of a bundle that was verified: the manifest, its signature if there is one, and what it lists."""
    own = BundledFile(name=MANIFEST, size=len(verified.raw), sha256=verified.digest)
    if verified.seal is None:
        return own, *verified.manifest.files
    digest = hashlib.sha256(verified.seal).hexdigest()
    return own, BundledFile(name=SIGNATURE, size=len(verified.seal), sha256=digest), *verified.manifest.files


def publish(store: Store, identity: str, files: Iterable[BundledFile]) -> None:
    """Make a version of objects that are there: a directory under another name, which is synced and gets its own.

    A version that is there already is mended, and so are all others that have one of the files.

    Args:
        store: with the objects.
        identity: of the version.
        files: all of the bundle's, with name and SHA-256.

    Raises:
        OutputError: the disk is full, or fails, or knows no hard links.
    """
    files = tuple(files)
    directory = store.version(identity)
    if directory.is_dir():
        _mend(store, directory, files)
    else:
        with new_directory(directory) as work:
            for file in files:
                path = work / file.name
                path.parent.mkdir(parents=True, exist_ok=True)
                _link(store.object(file.sha256), path)
    _mend_others(store, {file.sha256 for file in files})


def withdraw(store: Store, identity: str) -> None:
    """Take a version out of the list, in one step; its files go with the next sweep."""
    store.version(identity).rename(store.staging / secrets.token_hex(8))
    sync_directory(store.versions)


def damage(store: Store, identity: str) -> str:
    """What is wrong with a version's files, all of which are read; empty where nothing is."""
    directory = store.version(identity)
    try:
        if sha256_file(directory / MANIFEST) != identity:
            return f"its {MANIFEST} is not the one that was installed"
        read_manifest(directory)
    except EdgeqError as error:
        return error.what
    except OSError as error:
        return first_line(error)
    return ""


def manifest_of(store: Store, identity: str) -> Manifest | None:
    """A version's manifest, without a look at the other files; None where it cannot be read."""
    try:
        return read_model(Manifest, (store.version(identity) / MANIFEST).read_bytes())
    except (OSError, ValueError):
        return None


def _mend_others(store: Store, digests: set[str]) -> None:
    """Give every version the objects that are there now: its own were replaced since they were damaged."""
    for directory in store.versions.iterdir():
        manifest = manifest_of(store, directory.name) if is_id(directory.name) else None
        if manifest is not None:
            _mend(store, directory, [file for file in manifest.files if file.sha256 in digests])


def _mend(store: Store, directory: Path, files: Iterable[BundledFile]) -> None:
    """Replace what is no link to its object, each file in one step."""
    for file in files:
        path, wanted = directory / file.name, store.object(file.sha256)
        if path.exists() and path.samefile(wanted):
            continue
        temporary = store.staging / secrets.token_hex(8)
        _link(wanted, temporary)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.replace(path)
        sync_directory(path.parent)


def _link(target: Path, path: Path) -> None:
    try:
        os.link(target, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        raise OutputError(
            f"{path} cannot be a hard link: {error.strerror}",
            expected="a file system with hard links, such as ext4, XFS or Btrfs",
        ) from error
