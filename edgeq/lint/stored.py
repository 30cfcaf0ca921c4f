"""The numbers of stored tensors, piece by piece: no tensor is held whole."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from edgeq.files import open_plain
from edgeq.model.graph.element_types import LARGEST, plainly_held
from edgeq.model.graph.external_data import is_external, place_of
from edgeq.model.graph.onnx_checks import incomplete, stored_values

__all__ = ["StoredRange", "stored_range"]

_PIECE: Final = 1 << 22
"""Numbers that are looked at together."""


@dataclass(frozen=True)
class StoredRange:
    """What FP16 would make of a stored tensor.

    Attributes:
        peak: the largest finite magnitude.
        infinite: whether a number is infinite.
        lost: of its length (L2), the part that rounding to FP16 moves; what is beyond FP16 aside.
    """

    peak: float
    infinite: bool
    lost: float


def stored_range(tensor: onnx.TensorProto, path: Path) -> StoredRange:
    """Look through a stored floating-point tensor.

    Args:
        tensor: of type FLOAT, FLOAT16 or DOUBLE.
        path: the file of its graph.

    Raises:
        ModelError: its data are missing, too short or outside of the graph's directory.
    """
    peak, moved, length, infinite = 0.0, 0.0, 0.0, False
    for stored in _pieces(tensor, path):
        piece = stored.astype(np.float32) if stored.dtype == np.float16 else stored  # squares of FP16 overflow
        if plainly_held(piece):
            peak = max(peak, float(np.abs(piece).max(initial=0.0)))
            length += float(np.square(piece, dtype=np.float64).sum())
            continue
        infinite = infinite or bool(np.isinf(piece).any())
        finite = piece[np.isfinite(piece)].astype(np.float64)
        peak = max(peak, float(np.abs(finite).max(initial=0.0)))
        held = np.clip(finite, -LARGEST, LARGEST)
        moved += float(np.square(held - held.astype(np.float16).astype(np.float64)).sum())
        length += float(np.square(held).sum())
    return StoredRange(peak, infinite, math.sqrt(moved / length) if length else 0.0)


def _pieces(tensor: onnx.TensorProto, path: Path) -> Iterator[NDArray[Any]]:
    if not is_external(tensor):
        yield stored_values(tensor, path).reshape(-1)
        return
    dtype = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.data_type)).newbyteorder("<")
    file, offset, length = place_of(tensor, path)
    if length != math.prod(tensor.dims) * dtype.itemsize:
        raise incomplete(tensor, path)
    with open_plain(file) as data:
        data.seek(offset)
        for start in range(0, length, _PIECE * dtype.itemsize):
            yield np.frombuffer(data.read(min(_PIECE * dtype.itemsize, length - start)), dtype)
