"""The data reader of ONNX Runtime's quantizer, which ModelOpt takes too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.task import Task

if TYPE_CHECKING:

    class CalibrationDataReader:
        """ONNX Runtime has no types."""

else:
    from onnxruntime.quantization import CalibrationDataReader

__all__ = ["Reader"]


class Reader(CalibrationDataReader):
    """One image at a time, straight from the disk; nothing is kept of it here."""

    def __init__(self, task: Task, name: str) -> None:
        self._task = task
        self._name = name
        self._pixels: Iterator[NDArray[np.float32]] = task.pixels()

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next image as the graph's feed, float32 [1, 3, H, W]; None behind the last."""
        pixels = next(self._pixels, None)
        return None if pixels is None else {self._name: pixels}

    def get_first(self) -> dict[str, NDArray[np.float32]]:
        """The first image again; ModelOpt runs the graph on it once."""
        return {self._name: next(self._task.pixels())}

    def rewind(self) -> None:
        """Begin again."""
        self._pixels = self._task.pixels()
