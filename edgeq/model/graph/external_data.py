"""ONNX external data: weights in a file beside the graph. Where they may lie, reading them in, writing them out.

Format: https://github.com/onnx/onnx/blob/main/docs/ExternalData.md. The location is a path written by the maker of the
    file, so it is not followed out of the directory of the graph.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, BinaryIO

from edgeq.errors import ModelError
from edgeq.files import open_plain
from edgeq.model.graph.tensors import attribute_graphs

if TYPE_CHECKING:
    import onnx

__all__ = [
    "SMALLEST",
    "all_tensors",
    "gather",
    "has_external_data",
    "is_external",
    "move_out",
    "place_of",
    "read_in",
    "refer",
    "stored_bytes",
]

SMALLEST = 1024
"""Tensors below this many bytes stay in the graph: shapes and scalars are needed to check it."""

_ALIGNMENT = 4096  # lets a reader map a tensor from the file


def all_tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor stored in a graph: initializers and attributes, subgraphs included."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors
            for subgraph in attribute_graphs(attribute):
                yield from all_tensors(subgraph)


def has_external_data(model: onnx.ModelProto) -> bool:
    """Whether any tensor of the model is outside its file."""
    return any(is_external(tensor) for tensor in all_tensors(model.graph))


def stored_bytes(model: onnx.ModelProto) -> int:
    """Bytes of the raw tensor data inside the model."""
    return sum(len(tensor.raw_data) for tensor in all_tensors(model.graph))


def read_in(model: onnx.ModelProto, path: Path, wanted: Callable[[onnx.TensorProto], bool] | None = None) -> None:
    """Put external data of the model at `path` into the model itself, in place.

    Args:
        model: read from there without its external data; is changed.
        path: its file.
        wanted: of which tensors; None reads all.

    Raises:
        ModelError: a data file is missing, too short, of the wrong length, or outside the directory of `path`.
    """
    for tensor in all_tensors(model.graph):
        if is_external(tensor) and (wanted is None or wanted(tensor)):
            _read_tensor(tensor, path)


def move_out(model: onnx.ModelProto, location: str, file: BinaryIO) -> None:
    """Write the large tensors of the model to `file`, in place of their raw data a reference to `location`.

    Args:
        model: is changed.
        location: name of the file, beside the model's.
        file: written from where it stands.
    """
    for tensor in all_tensors(model.graph):
        data = tensor.raw_data  # a copy each time that it is asked for
        if len(data) >= SMALLEST:
            refer(tensor, location, _append(file, data), len(data))


def gather(model: onnx.ModelProto, path: Path, location: str, file: BinaryIO) -> None:
    """Copy all external data of the model at `path` to `file`, each aligned; the model then refers to `location`.

    No tensor is held in memory on the way.

    Args:
        model: read without its external data; is changed.
        path: where it was read from; its data files are beside that.
        location: name of the new file, beside the model's.
        file: written from where it stands.

    Raises:
        ModelError: as for `read_in`.
    """
    for tensor in all_tensors(model.graph):
        if not is_external(tensor):
            continue
        data_file, offset, length = place_of(tensor, path)
        refer(tensor, location, _append_from(file, data_file, offset, length), length)


def refer(tensor: onnx.TensorProto, location: str, offset: int, length: int) -> None:
    """Let a tensor's data be part of a file, whatever they were.

    Args:
        tensor: is changed.
        location: name of the file, beside the model's.
        offset, length: of the data, in bytes.
    """
    import onnx

    tensor.ClearField("raw_data")
    tensor.ClearField("external_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": str(offset), "length": str(length)}.items():
        tensor.external_data.add(key=key, value=value)


def _append(file: BinaryIO, data: bytes | memoryview) -> int:
    """Write data where a reader can map them; gives that place."""
    file.write(b"\0" * (-file.tell() % _ALIGNMENT))
    offset = file.tell()
    file.write(data)
    return offset


def _append_from(file: BinaryIO, source: Path, offset: int, length: int) -> int:
    """The same with a piece of another file."""
    if length == 0:
        return _append(file, b"")
    with (
        open_plain(source) as other,
        mmap.mmap(other.fileno(), 0, access=mmap.ACCESS_READ) as data,
        memoryview(data) as whole,
        whole[offset : offset + length] as piece,
    ):
        return _append(file, piece)


def is_external(tensor: onnx.TensorProto) -> bool:
    """Whether the data of a tensor is in another file."""
    import onnx

    return tensor.data_location == onnx.TensorProto.EXTERNAL


def place_of(tensor: onnx.TensorProto, path: Path) -> tuple[Path, int, int]:
    """The file in which a tensor's external data lie, their offset and their length in bytes.

    Args:
        tensor: of the model.
        path: the model's file.

    Raises:
        ModelError: as for `read_in`.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    data_file = _resolve(entries.get("location", ""), path, tensor.name)
    try:
        return data_file, *_extent(data_file, entries, f"tensor {tensor.name!r} of {path.name}")
    except OSError as error:
        raise _unreadable(data_file, error) from error


def _read_tensor(tensor: onnx.TensorProto, path: Path) -> None:
    """Read one tensor's data and forget that it was elsewhere."""
    data_file, offset, length = place_of(tensor, path)
    try:
        with open_plain(data_file) as file:
            file.seek(offset)
            tensor.raw_data = file.read(length)
    except OSError as error:
        raise _unreadable(data_file, error) from error
    tensor.ClearField("data_location")
    tensor.ClearField("external_data")


def _unreadable(data_file: Path, error: OSError) -> ModelError:
    return ModelError(f"{data_file} cannot be read: {error.strerror or error}")


def _extent(data_file: Path, entries: Mapping[str, str], what: str) -> tuple[int, int]:
    """Offset and length of one tensor's bytes, which lie inside the file; `what` names it."""
    size = data_file.stat().st_size
    offset = _number(entries.get("offset", "0"), "offset", what)
    length = _number(entries.get("length", str(max(size - offset, 0))), "length", what)
    if offset + length > size:
        raise ModelError(
            f"{data_file} is too short: it has {size} bytes, and {what} lies at {offset}..{offset + length}",
            causes=("the copy or the download was cut short", "the data file belongs to another version of the graph"),
            next_step=f"copy the .onnx file and {data_file.name} again, together",
        )
    return offset, length


def _resolve(location: str, path: Path, tensor: str) -> Path:
    """The data file a location means: a regular file inside the directory of the graph, links resolved."""
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    directory = path.parent.resolve()
    climbs = posix.is_absolute() or windows.drive or "\\" in location or "\0" in location or ".." in posix.parts
    if not location or climbs or not (directory / location).resolve().is_relative_to(directory):
        raise ModelError(
            f"{path}: tensor {tensor!r} wants its data from {location!r}, outside the directory of the model",
            expected="a file beside the model; a path or link that leads out of its directory is never followed",
            next_step="put the data file beside the model, as a plain file, and export or save the model again",
        )
    data_file = directory / location
    if not data_file.is_file():
        raise ModelError(
            f"{data_file} is missing: {path.name} keeps its weights there (tensor {tensor!r})",
            causes=("only the .onnx file was copied", "the data file was renamed"),
            next_step=f"copy {location} into {path.parent}",
        )
    return data_file


def _number(text: str, key: str, what: str) -> int:
    """A non-negative integer from an external data entry."""
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise ModelError(f"{what} has {key} {text!r} for its external data, expected a number of bytes")
    return int(text)
