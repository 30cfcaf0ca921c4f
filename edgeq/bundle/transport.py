"""A bundle as one file, `NAME.edgeq.tar`: packed and unpacked as a stream, checked while it passes.

It is a tar archive without compression, since weights do not compress. `manifest.json` comes first and `manifest.sig`
second, so that a reader knows every name, length and digest before any data come. Names are sorted, and times, owners
and modes are not kept: the same bundle gives the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Final

from edgeq.bundle.contents import MANIFEST, SIGNATURE, BundledFile, Manifest
from edgeq.bundle.copy import Advance, Report, copy_bytes, meter, read_exactly
from edgeq.bundle.directory import copy_file, entries
from edgeq.bundle.errors import LengthError, TransportError, TruncatedError
from edgeq.bundle.limits import DEFAULT_LIMITS, Limits
from edgeq.bundle.needs import DeviceFacts
from edgeq.bundle.tar import END, Member, header, members, padding
from edgeq.bundle.verification_states import Digested, Verified, list_files
from edgeq.bundle.verify import Trust, read_head
from edgeq.errors import OutputError
from edgeq.files import atomic_write, new_directory

__all__ = ["SUFFIX", "examine_file", "pack", "unpack"]

SUFFIX: Final = ".edgeq.tar"


def pack(directory: Path, file: Path, *, limits: Limits = DEFAULT_LIMITS, report: Report | None = None) -> Manifest:
    """Write a bundle's directory as one file; every digest is checked while its bytes pass.

    Args:
        directory: the bundle; a signature in it travels along and is not checked.
        file: is replaced where it exists.
        limits: larger bundles are refused.
        report: called with the bytes packed and the bytes in all.

    Raises:
        BundleError: the bundle is not whole; no file is made then.
        OutputError: the file cannot be written, or would be in the bundle.
    """
    if directory.resolve() in file.resolve().parents:
        raise OutputError(f"{file} lies in the bundle that is to be packed", next_step="choose another place with -o")
    listed, seal = read_head(directory, limits)
    files = tuple(listed.sized(entries(directory)))
    advance = meter(report, listed.total_bytes)
    passed: list[Digested] = []

    def write(out: BinaryIO) -> None:
        _put(out, MANIFEST, listed.raw)
        if seal is not None:
            _put(out, SIGNATURE, seal)
        passed.append(listed.digested((entry, _pour_in(out, directory, entry, advance)) for entry in files))
        out.write(END)

    atomic_write(file, write)
    return passed[0].signed(None, (), required=False).matched(None).load().manifest


def _put(out: BinaryIO, name: str, data: bytes) -> None:
    out.write(header(name, len(data)) + data + padding(len(data)))


def _pour_in(out: BinaryIO, directory: Path, file: BundledFile, advance: Advance) -> str:
    """Copy one file into the archive, and return its digest."""
    out.write(header(file.name, file.size))
    digest = copy_file(directory / file.name, file.size, sink=out.write, advance=advance)
    out.write(padding(file.size))
    return digest


def unpack(
    file: Path,
    directory: Path,
    *,
    keys: Sequence[Path] = (),
    require_signature: bool | None = None,
    device: DeviceFacts | None = None,
    limits: Limits = DEFAULT_LIMITS,
    report: Report | None = None,
) -> Manifest:
    """Make a bundle's directory from its transport file; it exists only if every check of `verify_bundle` passed.

    Args:
        file: read once from beginning to end, so a pipe will do.
        directory: must not exist.
        keys, require_signature, device, limits: as for `verify_bundle`.
        report: called with the bytes unpacked and the bytes in all.

    Raises:
        BundleError: its subclass says why; nothing is left behind.
        OutputError: the directory exists, or the disk is full.
    """
    trust = Trust.of(keys, require_signature, device, limits)
    with _opened(file) as source, new_directory(directory) as work:
        return _stream(source, str(file), trust, work, report).manifest


def examine_file(file: Path, trust: Trust, *, report: Report | None = None) -> Verified:
    """Check a transport file as `unpack` does, and write nothing.

    Args:
        file: read once from beginning to end, so a pipe will do.
        trust: what the bundle must satisfy.
        report: called with the bytes checked and the bytes in all.

    Raises:
        BundleError: its subclass says why.
    """
    with _opened(file) as source:
        return _stream(source, str(file), trust, None, report)


@contextmanager
def _opened(file: Path) -> Iterator[BufferedReader]:
    try:
        source = file.open("rb")
    except OSError as error:
        raise TransportError(f"{file} cannot be read: {error.strerror or error}") from error
    with source:
        yield source


def _stream(source: BufferedReader, where: str, trust: Trust, into: Path | None, report: Report | None) -> Verified:
    """Drive the verification with what the stream brings; files are written below `into`, or nowhere."""
    try:
        stream = members(source, where, trust.limits)
        raw = _head(source, next(stream, None), where, trust.limits)
        listed = list_files(raw, where, trust.limits)
        seal, stream = _seal(source, stream, trust.limits)
        advance = meter(report, listed.total_bytes)
        files = listed.sized((member.name, member.size) for member in stream)
        digested = listed.digested((file, _pour_out(source, file, into, advance)) for file in files)
    except EOFError as error:
        raise TruncatedError(
            f"{where} ends too early", causes=("it was not copied to its end",), next_step="copy it again"
        ) from error
    verified = (
        digested.signed(seal, trust.keys, required=trust.required, revoked=trust.revoked).matched(trust.device).load()
    )
    if into:
        (into / MANIFEST).write_bytes(raw)
        if seal is not None:
            (into / SIGNATURE).write_bytes(seal)
    return verified


def _head(source: BufferedReader, first: Member | None, where: str, limits: Limits) -> bytes:
    """The manifest's bytes."""
    if first is None or first.name != MANIFEST:
        raise TransportError(
            f"{where} is not the transport file of a bundle",
            expected=f"a tar archive that begins with {MANIFEST}",
            next_step="edgeq bundle pack BUNDLE -o FILE",
        )
    return _small(source, first, limits.manifest_bytes)


def _seal(source: BufferedReader, stream: Iterator[Member], limits: Limits) -> tuple[bytes | None, Iterator[Member]]:
    """The signature's bytes if it comes next, and the members that are left."""
    second = next(stream, None)
    if second is not None and second.name == SIGNATURE:
        return _small(source, second, limits.signature_bytes), stream
    return None, chain((second,) if second else (), stream)


def _small(source: BufferedReader, member: Member, most_bytes: int) -> bytes:
    if member.size > most_bytes:
        raise LengthError(f"{member.name} has {member.size:,} bytes", expected=f"at most {most_bytes:,}")
    return read_exactly(source, member.size)


def _pour_out(source: BufferedReader, file: BundledFile, into: Path | None, advance: Advance) -> str:
    """Pass one file's bytes, writing them where that is wanted, and return their digest."""
    if into is None:
        return copy_bytes(source, file.size, advance=advance)
    path = into / file.name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as out:
        return copy_bytes(source, file.size, sink=out.write, advance=advance)
