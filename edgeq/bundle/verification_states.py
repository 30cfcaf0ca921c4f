"""The verification as a state machine: length, digest, signature, device match, load, in this order and no other.

Each state is a class, and the one way to the next state is its method, which checks or raises. No file is opened
here: who drives the machine, for a directory or a stream, brings what it saw. The manifest comes out at the end.

    Listed --sized, digested--> Digested --signed--> Signed --matched--> Matched --load--> Verified
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from edgeq.bundle.contents import MANIFEST, SIGNATURE, BundledFile, Manifest, check_names, not_a_bundle
from edgeq.bundle.errors import (
    DeviceError,
    DigestError,
    LengthError,
    MissingFileError,
    UnknownKeyError,
    UnlistedFileError,
    UnsignedError,
)
from edgeq.bundle.keys import PublicKey
from edgeq.bundle.limits import Limits
from edgeq.bundle.manifest_signature import check_signature
from edgeq.bundle.needs import DeviceFacts
from edgeq.bundle.snapshot import Snapshot
from edgeq.strict_json import read_model

__all__ = ["Digested", "Listed", "Matched", "Signed", "Verified", "list_files"]

_DAMAGE = ("it was changed after the bundle was made", "the copy is damaged")
_AGAIN = "copy the bundle again"


@dataclass(frozen=True)
class Verified:
    """A bundle that passed.

    Attributes:
        manifest: may be acted upon now.
        raw: the manifest's bytes.
        signed_by: id of the key whose signature was checked; None where none was.
        seal: the bytes of the signature, checked or not; None where there is none.
        seen: the files as they were when they were looked at; None where they came in a stream.
    """

    manifest: Manifest
    raw: bytes
    signed_by: str | None
    seal: bytes | None = None
    seen: Snapshot | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of the manifest's bytes in hexadecimal; it names the bundle."""
        return hashlib.sha256(self.raw).hexdigest()


def list_files(raw: bytes, where: str, limits: Limits) -> Listed:
    """Begin: read the manifest as data, and bound what it lists.

    Args:
        raw: what `manifest.json` holds; its length was checked against `limits` before it was read.
        where: the bundle, for messages.
        limits: of the bundle.

    Raises:
        ManifestError: it is no manifest of this version.
        LengthError: it lists too many files, too large a file, or too many bytes in all.
        UnsafeNameError: it lists a name that cannot be.
    """
    try:
        manifest = read_model(Manifest, raw)
    except ValueError as error:
        raise not_a_bundle(where, error) from error
    _bound(len(manifest.files), limits.files, f"{where} lists {len(manifest.files):,} files")
    check_names((file.name for file in manifest.files), where, most_bytes=limits.name_bytes)
    for file in manifest.files:
        _bound(file.size, limits.file_bytes, f"{where} lists {file.size:,} bytes for {file.name}")
    _bound(manifest.total_bytes, limits.total_bytes, f"{where} lists {manifest.total_bytes:,} bytes in all")
    return Listed(where, raw, manifest)


def _bound(count: int, most: int, what: str) -> None:
    if count > most:
        raise LengthError(what, expected=f"at most {most:,}", causes=("its manifest lies", "it is no bundle of edgeq"))


@dataclass(frozen=True)
class _State:
    where: str
    raw: bytes
    _manifest: Manifest


@dataclass(frozen=True)
class Listed(_State):
    """The manifest is read, and within the limits. Next: lengths, then digests."""

    @property
    def says(self) -> Manifest:
        """The manifest as data; nothing of it is proved."""
        return self._manifest

    @property
    def total_bytes(self) -> int:
        """Of all files listed, for reports of progress."""
        return self._manifest.total_bytes

    def sized(self, seen: Iterable[tuple[str, int]]) -> Iterator[BundledFile]:
        """Give the listed file for each name and size seen, in their order, if the size is the one listed.

        Raises:
            UnlistedFileError, LengthError: at the first that is not as listed.
            MissingFileError: at the end.
        """
        missing = {file.name: file for file in self._manifest.files}
        for name, size in seen:
            file = missing.pop(name, None)
            if file is None:
                raise UnlistedFileError(
                    f"{self.where}/{name} is not listed in the bundle's {MANIFEST}",
                    causes=("it was put there after the bundle was made", "the manifest was changed"),
                    next_step="move it elsewhere, or copy the bundle again",
                )
            if size != file.size:
                raise LengthError(
                    f"{self.where}/{name} is not the file that the manifest lists: its length differs",
                    expected=f"{file.size:,} bytes instead of {size:,}",
                    causes=_DAMAGE,
                    next_step=_AGAIN,
                )
            yield file
        self._complete(missing)

    def digested(self, seen: Iterable[tuple[BundledFile, str]]) -> Digested:
        """Compare the digest of every file that `sized` gave.

        Raises:
            DigestError: at the first that differs.
            MissingFileError: at the end.
        """
        missing = {file.name for file in self._manifest.files}
        for file, sha256 in seen:
            if sha256 != file.sha256:
                raise DigestError(
                    f"{self.where}/{file.name} is not the file that the manifest lists: its bytes differ",
                    causes=_DAMAGE,
                    next_step=_AGAIN,
                )
            missing.discard(file.name)
        self._complete(missing)
        return Digested(self.where, self.raw, self._manifest)

    def _complete(self, missing: Iterable[str]) -> None:
        for name in missing:
            raise MissingFileError(f"the bundle {self.where} lacks its file {name!r}", next_step=_AGAIN)


@dataclass(frozen=True)
class Digested(_State):
    """Every file is the one listed. Next: who says so?"""

    def signed(
        self,
        seal: bytes | None,
        keys: Sequence[PublicKey],
        *,
        required: bool,
        revoked: Mapping[str, str] | None = None,
    ) -> Signed:
        """Check the signature; without keys it is not looked at, unless one is required.

        Args:
            seal: bytes of the signature file; None where there is none.
            keys: a signature by one of them counts.
            required: an unsigned bundle is refused.
            revoked: ids of keys that must not be trusted any more -> why.

        Raises:
            UnsignedError: there is none, and one is required.
            UnknownKeyError: it is by none of the keys.
            SignatureError: it is not one of this manifest.
        """
        if seal is None and required:
            raise UnsignedError(
                f"{self.where} is not signed",
                expected=f"a {SIGNATURE} by {_any(keys)}",
                causes=("the signature was removed", "the bundle was never signed"),
                next_step="edgeq sign BUNDLE --key NAME.private.pem",
            )
        if required and not keys and not revoked:
            raise UnknownKeyError(
                f"no key was given to check the signature of {self.where}", next_step="--key NAME.public.pem"
            )
        looked_at = seal is not None and (keys or revoked)
        signed_by = (
            check_signature(seal, self.raw, keys, self.where, revoked) if seal is not None and looked_at else None
        )
        return Signed(self.where, self.raw, self._manifest, signed_by, seal)


def _any(keys: Sequence[PublicKey]) -> str:
    return f"one of the keys {', '.join(key.id for key in keys)}" if keys else "a key that is known here"


@dataclass(frozen=True)
class Signed(_State):
    """Its origin is known, or nobody asked. Next: is it for this device?"""

    signed_by: str | None
    seal: bytes | None

    def matched(self, device: DeviceFacts | None) -> Matched:
        """Compare with what the bundle needs; None leaves that out.

        Raises:
            DeviceError: the device lacks something.
        """
        missing = self._manifest.needs.missing(device) if device else ()
        if missing:
            raise DeviceError(
                f"{self.where} is not for this device",
                causes=missing,
                next_step="install the bundle that was made for this device",
            )
        return Matched(self.where, self.raw, self._manifest, self.signed_by, self.seal)


@dataclass(frozen=True)
class Matched(_State):
    """All checks are behind. Next: load."""

    signed_by: str | None
    seal: bytes | None

    def load(self) -> Verified:
        """Hand out the manifest; whatever it lists may be opened now."""
        return Verified(self._manifest, self.raw, self.signed_by, self.seal)
