"""What TensorRT measured of kernels in earlier builds, kept in a file: a second build of a like graph measures less.

A timing cache is good for one release of TensorRT on one kind of device, so both are in the file's name. The file is
one line of text, `edgeq.timing-cache/1 NAME SHA-256`, and TensorRT's bytes: a file that was renamed, cut short or
changed is not given to TensorRT. Two builds at once each add what they measured: a lock beside the file guards reading
it again and writing it, not the build.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from edgeq.files import atomic_write

__all__ = ["MAX_TIMING_CACHE_BYTES", "read_timing_cache", "timing_cache_file", "update_timing_cache"]

MAX_TIMING_CACHE_BYTES: Final = 512 * 1024 * 1024
"""A larger file is not read."""

_MAGIC: Final = "edgeq.timing-cache/1"


def timing_cache_file(directory: Path, tensorrt: str, device: str) -> Path:
    """The file for a release and a kind of device.

    Args:
        directory: that holds the files.
        tensorrt: the release, such as `10.3.0`.
        device: its GPU's name, SM and system, in any words.
    """
    digest = hashlib.sha256(f"{tensorrt}\n{device}".encode()).hexdigest()[:12]
    words = re.sub(r"[^A-Za-z0-9.]+", "-", f"{tensorrt} {device}").strip("-")[:60]
    return directory / f"timing-{words}-{digest}.cache"


def read_timing_cache(path: Path) -> tuple[bytes, str]:
    """TensorRT's bytes, and why there are none where a file is there but cannot be used; empty otherwise."""
    try:
        if path.stat().st_size > MAX_TIMING_CACHE_BYTES:
            return b"", f"{path.name} is larger than {MAX_TIMING_CACHE_BYTES} bytes"
        head, _, payload = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return b"", ""
    except OSError as error:
        return b"", f"{path.name} cannot be read: {error.strerror or error}"
    if head.decode(errors="replace") != _head(path, payload):
        return b"", f"{path.name} was changed, cut short, or made for another device or release"
    return payload, ""


def update_timing_cache(path: Path, merge: Callable[[bytes], bytes]) -> None:
    """Replace the file in one step, under its lock.

    Args:
        path: the file; its directory is made.
        merge: from what is in the file by now (empty where it cannot be used) to what shall be.

    Raises:
        OutputError: the file cannot be written.
        OSError: the lock cannot be.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.with_name(f"{path.name}.lock")):
        payload = merge(read_timing_cache(path)[0])
        atomic_write(path, f"{_head(path, payload)}\n".encode() + payload)


def _head(path: Path, payload: bytes) -> str:
    return f"{_MAGIC} {path.name} {hashlib.sha256(payload).hexdigest()}"


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file's lock, which the system drops with the process, however it ends."""
    import fcntl  # Linux; TensorRT's devices have no other system

    with path.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
