"""How parent and child speak: a JSON object and bytes beside it, their lengths first. Nothing is unpickled."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["FrameError", "receive", "receive_call", "send"]

_LENGTHS: Final = struct.Struct("<IQ?")
_PLAIN_BYTES: Final = 4 << 20
_PIECE: Final = 1 << 20


class FrameError(Exception):
    """The other side has ended, or sends what is no frame or one that is too long."""


def send(
    line: socket.socket,
    plain: Mapping[str, Any],
    data: bytes | bytearray = b"",
    end: float | None = None,
    *,
    descriptor: int | None = None,
) -> None:
    """Send one frame.

    Args:
        line: a stream socket of the family AF_UNIX.
        plain: sent as JSON.
        data: sent as it is.
        descriptor: of a file that the other side gets too.
        end: by `time.monotonic`, after which it is given up; None waits for ever.

    Raises:
        TimeoutError: the other side does not take it in time.
        FrameError: the other side has ended.
    """
    head = json.dumps(plain).encode()
    lengths = _LENGTHS.pack(len(head), len(data), descriptor is not None)
    try:
        line.settimeout(_left(end))
        first = socket.send_fds(line, [lengths], [] if descriptor is None else [descriptor])
        for part in (memoryview(lengths[first:] + head), memoryview(data)):
            while part.nbytes:
                line.settimeout(_left(end))
                part = part[line.send(part[:_PIECE]) :]
    except TimeoutError:
        raise
    except OSError as error:
        raise FrameError(str(error)) from error


def receive(line: socket.socket, most: int, end: float | None = None) -> tuple[dict[str, Any], bytearray]:
    """Receive one frame; no descriptor is taken.

    Args:
        line: a stream socket.
        most: bytes of its data; a longer one is not read.
        end: by `time.monotonic`, after which it is given up; None waits for ever.

    Raises:
        TimeoutError: it does not come in time.
        FrameError: the other side has ended, or it is no frame, or too long.
    """
    return _rest(line, _exactly(line, _LENGTHS.size, end), most, end)


def receive_call(line: socket.socket, most: int) -> tuple[dict[str, Any], bytearray, int | None]:
    """Receive a frame of the parent, with its descriptor where it has one.

    Args:
        line, most: as for `receive`.

    Raises:
        FrameError: as `receive`.
    """
    try:
        line.settimeout(None)
        first, descriptors, _, _ = socket.recv_fds(line, _LENGTHS.size, 1)
    except OSError as error:
        raise FrameError(str(error)) from error
    lengths = first + _exactly(line, _LENGTHS.size - len(first), None)
    plain, data = _rest(line, lengths, most, None)
    return plain, data, descriptors[0] if descriptors else None


def _rest(
    line: socket.socket, lengths: bytes | bytearray, most: int, end: float | None
) -> tuple[dict[str, Any], bytearray]:
    head_bytes, data_bytes, _ = _LENGTHS.unpack(lengths)
    if head_bytes > _PLAIN_BYTES or data_bytes > most:
        raise FrameError(f"an answer of {head_bytes + data_bytes:,} bytes, at most {most:,} are taken")
    head = _exactly(line, head_bytes, end)
    data = _exactly(line, data_bytes, end)
    try:
        plain = json.loads(head)
    except (ValueError, RecursionError) as error:
        raise FrameError("no JSON") from error
    if not isinstance(plain, dict):
        raise FrameError("no object")
    return plain, data


def _exactly(line: socket.socket, count: int, end: float | None) -> bytearray:
    found = bytearray(count)
    rest = memoryview(found)
    try:
        while rest.nbytes:
            line.settimeout(_left(end))
            came = line.recv_into(rest[:_PIECE])
            if not came:
                raise FrameError("the other side has ended")
            rest = rest[came:]
    except TimeoutError:
        raise
    except OSError as error:
        raise FrameError(str(error)) from error
    return found


def _left(end: float | None) -> float | None:
    """Seconds that are left; raises TimeoutError where there are none."""
    if end is None:
        return None
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
