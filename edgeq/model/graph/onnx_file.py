"""ONNX files: read one with suspicion, write one in one step.

What `load_onnx` gives back is whole and uniform: all weights inside, nodes in order, a graph the checker accepts. The
later rooms need no second look.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from edgeq.errors import ModelError
from edgeq.files import HEAD_BYTES, atomic_write, read_plain, recognise
from edgeq.model.graph.complete import complete
from edgeq.model.graph.external_data import has_external_data, move_out, read_in, stored_bytes
from edgeq.model.graph.onnx_bounds import check_costs, check_node_count
from edgeq.model.graph.onnx_checks import check_model, check_not_quantized, check_parts
from edgeq.model.graph.tensors import drop_constant_inputs

if TYPE_CHECKING:
    import onnx

__all__ = ["EXTERNAL_DATA_BYTES", "MAX_IR_VERSION", "load_onnx", "save_onnx"]

MAX_IR_VERSION = 10
"""The newest IR version written: what TensorRT 10.3 and ONNX Runtime 1.19 read."""

EXTERNAL_DATA_BYTES = 1_500_000_000
"""Weights beyond this many bytes go into `NAME.onnx.data`: a protobuf file ends at 2 GiB."""

_PROTOBUF_BYTES = 2**31 - 1
_NEXT_STEP = "export the model to ONNX again, or copy the file again"


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read a float ONNX model: all its data inside it, in its own opset, checked.

    Nodes are sorted, and what the file leaves out of its inputs and outputs is completed
    (`edgeq.model.graph.complete`). Initializers which are also listed as graph inputs (IR 3 style) are taken off the
    inputs: a weight is a constant here.

    Raises:
        ModelError: the file is missing, empty, cut short, not ONNX, invalid, already quantized, keeps its weights where
            they may not be read, or has a cycle.
        LimitError: it has too many nodes, or its loops go round too often.
    """
    path = Path(path)
    data = _read(path)
    check_node_count(data, path)
    model = _parse(path, data)
    check_costs(model, path)
    check_parts(model, path)
    if model.functions:
        model = _inline_functions(model, path)
    check_not_quantized(model, path)
    if has_external_data(model):
        read_in(model, path)
    complete(model, path)
    check_model(model, path)
    drop_constant_inputs(model)
    return model


def save_onnx(model: onnx.ModelProto, path: Path, *, external_over: int = EXTERNAL_DATA_BYTES) -> None:
    """Write a model in one step, the same bytes for the same model; `model` itself is not changed.

    The IR version is brought down to MAX_IR_VERSION. With more than `external_over` bytes of weights these go to
    `NAME.onnx.data`, written first.

    Args:
        model: with all weights in memory.
        path: of the file; is replaced where it exists.
        external_over: bytes of weights above which they get a file of their own.

    Raises:
        OutputError: the disk is full or the place cannot be written.
    """
    path = Path(path)
    saved = type(model)()
    saved.CopyFrom(model)
    saved.ir_version = min(model.ir_version or MAX_IR_VERSION, MAX_IR_VERSION)
    if stored_bytes(saved) > external_over:
        location = path.name + ".data"

        def write_data(file: BinaryIO) -> None:
            move_out(saved, location, file)

        atomic_write(path.with_name(location), write_data)
    atomic_write(path, saved.SerializeToString(deterministic=True))


def _read(path: Path) -> bytes:
    """All bytes of the file, or ModelError."""
    try:
        if path.is_dir():
            raise ModelError(f"{path} is a directory, expected an .onnx file")
        size = path.stat().st_size
        if size > _PROTOBUF_BYTES:
            raise ModelError(
                f"{path} has {size:,} bytes; a protobuf file ends at 2 GiB",
                next_step="export the model with external data (save_as_external_data)",
            )
        return read_plain(path)
    except FileNotFoundError as error:
        raise ModelError(f"{path} does not exist", expected="an .onnx file") from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error


def _parse(path: Path, data: bytes) -> onnx.ModelProto:
    """The protobuf message in the bytes, or ModelError naming what they are instead."""
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    if not data:
        raise ModelError(f"{path} is empty (0 bytes)", expected="an ONNX model", next_step=_NEXT_STEP)
    if found := recognise(data[:HEAD_BYTES]):
        raise ModelError(f"{path} is not an ONNX model: it is {found}", next_step=_NEXT_STEP)
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError as error:
        raise ModelError(
            f"{path} is not a whole ONNX model: its {len(data):,} bytes cannot be parsed",
            causes=("the file was cut short while it was copied or downloaded", "it is not an ONNX file"),
            next_step=_NEXT_STEP,
        ) from error
    return model


def _inline_functions(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """A copy in which calls of the model's own functions are replaced by their nodes."""
    from onnx import inliner

    try:
        return inliner.inline_local_functions(model)
    except Exception as error:  # the inliner raises RuntimeError, ValueError and protobuf's own errors
        raise ModelError(f"{path}: its local functions cannot be inlined: {error}", next_step=_NEXT_STEP) from error
