"""An ONNX file without the bytes of its weights: what a plan needs, at a hundredth of the reading.

The large initializers become external data, which is in the very file that was read. Wire format:
    https://protobuf.dev/programming-guides/encoding/, field numbers: onnx.proto.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgeq.errors import ModelError
from edgeq.files import open_plain
from edgeq.model.graph.external_data import SMALLEST, refer
from edgeq.model.graph.onnx_bounds import check_node_count
from edgeq.model.graph.protobuf_fields import Field, message_fields

if TYPE_CHECKING:
    import onnx

__all__ = ["load_outline"]

_GRAPH: Final = 7  # of a ModelProto
_INITIALIZER: Final = 5  # of a GraphProto
_RAW_DATA: Final = 9  # of a TensorProto


def load_outline(path: Path) -> onnx.ModelProto:
    """The model at `path`; initializers of 1,024 bytes and more are references to that file (`external_data`).

    External data that the file itself refers to stay as they are.

    Raises:
        ModelError: the file cannot be read or is no whole ONNX file.
        LimitError: it has too many nodes.
    """
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        with open_plain(path) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            check_node_count(data, path)
            return _read(data, path.name)
    except (OSError, ValueError, IndexError, DecodeError) as error:  # ValueError: an empty file cannot be mapped
        raise ModelError(
            f"{path} cannot be read: {error}",
            expected="a whole .onnx file",
            causes=("the file was cut short while it was copied", "it is not an ONNX file"),
        ) from error


def _read(data: mmap.mmap, location: str) -> onnx.ModelProto:
    import onnx

    model, rest = onnx.ModelProto(), []
    for field in message_fields(data, 0, len(data)):
        if field.number != _GRAPH:
            rest.append(data[field.start : field.stop])
            continue
        parts = list(message_fields(data, field.value, field.stop))
        others = (data[part.start : part.stop] for part in parts if part.number != _INITIALIZER)
        model.graph.MergeFromString(b"".join(others))
        weights = (part for part in parts if part.number == _INITIALIZER)
        model.graph.initializer.extend(_light(data, weight, location) for weight in weights)
    model.MergeFromString(b"".join(rest))
    return model


def _light(data: mmap.mmap, field: Field, location: str) -> onnx.TensorProto:
    """An initializer, with a reference in the place of its raw data where these are large."""
    import onnx

    light, large = b"", None
    for part in message_fields(data, field.value, field.stop):
        if part.number == _RAW_DATA and part.stop - part.value >= SMALLEST:
            large = part
        else:
            light += data[part.start : part.stop]
    tensor = onnx.TensorProto()
    tensor.ParseFromString(light)
    if large is not None:
        refer(tensor, location, large.value, large.stop - large.value)
    return tensor
