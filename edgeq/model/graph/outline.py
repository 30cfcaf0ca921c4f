"""An ONNX file without the bytes of its weights: what a plan needs, at a hundredth of the reading.

The large initializers become external data, which is in the very file that was read. Wire format:
    https://protobuf.dev/programming-guides/encoding/, field numbers: onnx.proto.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgeq.errors import ModelError
from edgeq.files import open_plain
from edgeq.model.graph.external_data import SMALLEST, refer

if TYPE_CHECKING:
    import onnx

__all__ = ["load_outline"]

_GRAPH: Final = 7  # of a ModelProto
_INITIALIZER: Final = 5  # of a GraphProto
_RAW_DATA: Final = 9  # of a TensorProto
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10


@dataclass(frozen=True)
class _Field:
    """One field of a message, by its place in the file: from `start`, its value from `value` to `stop`."""

    number: int
    start: int
    value: int
    stop: int


def load_outline(path: Path) -> onnx.ModelProto:
    """The model at `path`; initializers of 1,024 bytes and more are references to that file (`external_data`).

    External data that the file itself refers to stay as they are.

    Raises:
        ModelError: the file cannot be read or is no whole ONNX file.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        with open_plain(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read(data, path.name)
    except (OSError, ValueError, IndexError, DecodeError) as error:  # ValueError: an empty file cannot be mapped
        raise ModelError(
            f"{path} cannot be read: {error}",
            expected="a whole .onnx file",
            causes=("the file was cut short while it was copied", "it is not an ONNX file"),
        ) from error


def _read(data: mmap.mmap, location: str) -> onnx.ModelProto:
    import onnx

    model, rest = onnx.ModelProto(), b""
    for field in _fields(data, 0, len(data)):
        if field.number != _GRAPH:
            rest += data[field.start : field.stop]
            continue
        parts = list(_fields(data, field.value, field.stop))
        others = (data[part.start : part.stop] for part in parts if part.number != _INITIALIZER)
        model.graph.MergeFromString(b"".join(others))
        weights = (part for part in parts if part.number == _INITIALIZER)
        model.graph.initializer.extend(_light(data, weight, location) for weight in weights)
    model.MergeFromString(rest)
    return model


def _light(data: mmap.mmap, field: _Field, location: str) -> onnx.TensorProto:
    """An initializer, with a reference in the place of its raw data where these are large."""
    import onnx

    light, large = b"", None
    for part in _fields(data, field.value, field.stop):
        if part.number == _RAW_DATA and part.stop - part.value >= SMALLEST:
            large = part
        else:
            light += data[part.start : part.stop]
    tensor = onnx.TensorProto()
    tensor.ParseFromString(light)
    if large is not None:
        refer(tensor, location, large.value, large.stop - large.value)
    return tensor


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[_Field]:
    """The fields of the message between two places; raises ValueError where it is none."""
    while at < end:
        start = at
        key, at = _varint(data, at)
        kind, value = key & 7, at
        if kind == _VARINT:
            _, at = _varint(data, at)
        elif kind == _BYTES:
            length, value = _varint(data, at)
            at = value + length
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"no protobuf field begins at byte {start}")
        if at > end:
            raise ValueError(f"the protobuf field at byte {start} ends at {at}, beyond {end}")
        yield _Field(key >> 3, start, value, at)


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, the lowest first, and where it ends."""
    number = 0
    for group in range(_LONGEST_VARINT):
        byte = data[at + group]
        number |= (byte & 0x7F) << (7 * group)
        if byte < 0x80:
            return number, at + group + 1
    raise ValueError(f"no number ends near byte {at}")
