"""Write a GGUF file tensor by tensor, by the package gguf: of the weights, no more than one is in memory."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["GgufTensor", "write_gguf"]


@dataclass(frozen=True)
class GgufTensor:
    """A tensor of a GGUF file.

    Attributes:
        name: in the file.
        shape: of its numbers, as torch has it.
        kind: GGUF's name of its type: F32, F16, BF16, Q4_0 or Q8_0.
        make: gives its bytes, in an array of any shape and dtype.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    make: Callable[[], NDArray[Any]]


def write_gguf(
    file: Path,
    architecture: str,
    settings: Mapping[str, Any],
    tensors: Sequence[GgufTensor],
    written: Callable[[], None],
) -> None:
    """Write a file of llama.cpp's format.

    Args:
        file: a new one.
        architecture: `general.architecture`.
        settings: key -> text, number, truth value or a list of one of these.
        tensors: in their order.
        written: called after each tensor.

    Raises:
        OSError: the disk is full.
        Exception: whatever a tensor's `make` raises.
    """
    import gguf

    writer = gguf.GGUFWriter(file, architecture)
    try:
        for key, value in settings.items():
            _add(writer, key, value)
        for tensor in tensors:
            kind = gguf.GGMLQuantizationType[tensor.kind]
            numbers, size = gguf.GGML_QUANT_SIZES[kind]
            count = prod(tensor.shape) // numbers * size
            writer.add_tensor_info(tensor.name, tensor.shape, np.dtype(np.float32), count, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            _write(writer, np.ascontiguousarray(tensor.make()), file)
            written()
    finally:
        writer.close()


def _add(writer: Any, key: str, value: Any) -> None:
    """A setting by the type of its value; whole numbers are 32 bits wide and have no sign."""
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_string(key, value)


def _write(writer: Any, array: NDArray[Any], file: Path) -> None:
    """NumPy says of a full disk how many bytes it wrote, and not why no more."""
    try:
        writer.write_tensor_data(array)
    except OSError as error:
        if error.errno is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file)) from error
        raise
