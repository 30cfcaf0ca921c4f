"""Check a bundle's directory before anything in it is used."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgeq.bundle.contents import MANIFEST, SIGNATURE, Manifest, not_a_bundle
from edgeq.bundle.copy import Report, meter
from edgeq.bundle.directory import copy_file, entries, read_small
from edgeq.bundle.errors import BundleError, DigestError
from edgeq.bundle.keys import PublicKey, load_public
from edgeq.bundle.limits import DEFAULT_LIMITS, Limits
from edgeq.bundle.needs import DeviceFacts
from edgeq.bundle.snapshot import Snapshot
from edgeq.bundle.verification_states import Listed, Verified, list_files

__all__ = ["Trust", "Verified", "check_unchanged", "examine", "read_head", "read_listed", "verify_bundle"]


@dataclass(frozen=True)
class Trust:
    """What a bundle must satisfy.

    Attributes:
        keys: a signature by one of them counts; without any, signatures are not looked at.
        required: an unsigned bundle is refused.
        device: that the bundle must suit; None for any.
        limits: of its size.
        revoked: ids of keys that must not be trusted any more -> why.
    """

    keys: tuple[PublicKey, ...] = ()
    required: bool = False
    device: DeviceFacts | None = None
    limits: Limits = DEFAULT_LIMITS
    revoked: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        keys: Sequence[Path],
        require_signature: bool | None = None,
        device: DeviceFacts | None = None,
        limits: Limits = DEFAULT_LIMITS,
    ) -> Trust:
        """Read the keys' files; who gives keys requires a signature, unless told otherwise.

        Args:
            keys: files of public keys.
            require_signature: refuse an unsigned bundle; None: where keys are given.
            device: that the bundle must suit; None for any.
            limits: of the bundle's size.

        Raises:
            KeyFileError: a file holds no public key.
        """
        required = bool(keys) if require_signature is None else require_signature
        return cls(tuple(load_public(key) for key in keys), required, device, limits)


def verify_bundle(
    directory: Path,
    *,
    keys: Sequence[Path] = (),
    require_signature: bool | None = None,
    device: DeviceFacts | None = None,
    limits: Limits = DEFAULT_LIMITS,
    report: Report | None = None,
) -> Manifest:
    """Check lengths, digests, signature and device, in this order, and return the manifest.

    Args:
        directory: the bundle. Hidden files in it are not looked at.
        keys: files of public keys; a signature by one of them counts.
        require_signature: refuse an unsigned bundle; by default where keys are given.
        device: what it must suit; None for any.
        limits: larger ones are refused.
        report: called with the bytes checked and the bytes in all.

    Raises:
        BundleError: its subclass says at which step, and why.
    """
    return examine(directory, Trust.of(keys, require_signature, device, limits), report=report).manifest


def examine(directory: Path, trust: Trust, *, report: Report | None = None, named: Path | None = None) -> Verified:
    """As `verify_bundle`; tells also the bundle's digest, and whose signature was checked.

    Args:
        directory: the bundle.
        trust: what it must satisfy.
        report: called with the bytes checked and the bytes in all.
        named: what messages call it, where it was unpacked from something.
    """
    seen = Snapshot.of(directory)
    listed, seal = read_head(directory, trust.limits, named)
    files = tuple(listed.sized(entries(directory)))
    advance = meter(report, listed.total_bytes)
    digested = listed.digested((file, copy_file(directory / file.name, file.size, advance=advance)) for file in files)
    signed = digested.signed(seal, trust.keys, required=trust.required, revoked=trust.revoked)
    return replace(signed.matched(trust.device).load(), seen=seen)


def read_listed(directory: Path, limits: Limits = DEFAULT_LIMITS) -> Manifest:
    """What a bundle's manifest says; no file beside it is looked at, so nothing of it is proved.

    Raises:
        BundleError: as `list_files`.
    """
    return read_head(directory, limits)[0].says


def read_head(directory: Path, limits: Limits, named: Path | None = None) -> tuple[Listed, bytes | None]:
    """What the manifest lists, and the signature if there is one.

    Args:
        directory: the bundle.
        limits: larger ones are refused.
        named: as for `examine`.

    Raises:
        BundleError: as `list_files`, or one of the two is too large or no plain file.
    """
    try:
        raw = read_small(directory / MANIFEST, limits.manifest_bytes)
    except OSError as error:
        raise not_a_bundle(directory, error) from error
    seal = None
    with suppress(FileNotFoundError):
        seal = read_small(directory / SIGNATURE, limits.signature_bytes)
    return list_files(raw, str(named or directory), limits), seal


def check_unchanged(directory: Path, verified: Verified) -> None:
    """Raise DigestError where a bundle's files are not those any more that were checked.

    It is called when everything is loaded and before anything is answered. Large files are looked at and, unless
    something about them has changed, not read again (`edgeq.bundle.snapshot` says how that can be).

    Args:
        directory: of the bundle.
        verified: what `examine` found in it.
    """
    assert verified.seen is not None, "checked as a directory"
    digests = {file.name: (file.size, file.sha256) for file in verified.manifest.files}
    digests[MANIFEST] = (len(verified.raw), verified.digest)
    if verified.seal is not None:
        digests[SIGNATURE] = (len(verified.seal), hashlib.sha256(verified.seal).hexdigest())

    def same(name: str) -> bool:
        size, digest = digests.get(name, (0, ""))
        try:
            return copy_file(directory / name, size) == digest
        except (OSError, BundleError):
            return False

    changed = verified.seen.changed(directory, same)
    if changed is not None:
        raise DigestError(
            f"{directory}: {changed} changed after it was checked, while the bundle was loaded",
            causes=("somebody writes into the bundle", "the bundle was removed or replaced"),
            next_step="serve it again, from a place that nobody but its owner writes to",
            passing=True,
        )
