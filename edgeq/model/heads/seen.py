"""What is known of a network's outputs, before it has run or after, and what an ONNX file says of itself."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["MOST_KEYPOINTS", "Seen", "Shape", "class_names", "ultralytics_task"]

_MOST_NAMES: Final = 1 << 20

MOST_KEYPOINTS: Final = 1000
"""Of an object."""

Shape = tuple[int | None, ...]
"""Of an output; None for an axis of any length."""


@dataclass(frozen=True)
class Seen:
    """What is known of a network.

    Attributes:
        shapes: of its outputs by name, in the graph's order.
        height, width: of its input, in pixels.
        labels: class names; None where nobody says.
        metadata: of the ONNX file.
        values: what it gave for real images, float32 [n, ...] by output; None where it has not run.
    """

    shapes: Mapping[str, Shape]
    height: int
    width: int
    labels: Sequence[str] | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, NDArray[np.float32]] | None = None

    @property
    def keypoints(self) -> tuple[int, int] | None:
        """Keypoints of an object and numbers of each (2 or 3), as Ultralytics' `kpt_shape` says; None without it."""
        found = _literal(self.metadata.get("kpt_shape", ""))
        if not isinstance(found, list | tuple) or len(found) != 2 or not all(type(one) is int for one in found):
            return None
        count, values = found
        return (count, values) if 1 <= count <= MOST_KEYPOINTS and values in (2, 3) else None

    @property
    def names(self) -> Sequence[str] | None:
        """The class names, from the config or the ONNX file."""
        return self.labels if self.labels is not None else class_names(self.metadata)


def class_names(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """Names that Ultralytics writes into an ONNX file, `{0: 'person', ...}`; None where there are none."""
    names = _literal(metadata.get("names", ""))
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or set(names) != set(range(len(names))) or not names:
        return None
    return tuple(str(names[index]) for index in range(len(names)))


def _literal(text: str) -> Any:
    """What Ultralytics wrote with Python's `str`; None where it is nothing of that kind."""
    if not text or len(text) > _MOST_NAMES:
        return None
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def ultralytics_task(metadata: Mapping[str, str]) -> str | None:
    """What Ultralytics' export says that an ONNX file is for, such as `detect`; None where it says nothing."""
    return metadata.get("task")
