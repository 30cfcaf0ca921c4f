"""What is known of a network's outputs, before it has run or after, and what an ONNX file says of itself."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Seen", "Shape", "class_names", "ultralytics_task"]

_MOST_NAMES: Final = 1 << 20

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
    def names(self) -> Sequence[str] | None:
        """The class names, from the config or the ONNX file."""
        return self.labels if self.labels is not None else class_names(self.metadata)


def class_names(metadata: Mapping[str, str]) -> tuple[str, ...] | None:
    """Names that Ultralytics writes into an ONNX file, `{0: 'person', ...}`; None where there are none."""
    text = metadata.get("names", "")
    if not text or len(text) > _MOST_NAMES:
        return None
    try:
        names: Any = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or set(names) != set(range(len(names))) or not names:
        return None
    return tuple(str(names[index]) for index in range(len(names)))


def ultralytics_task(metadata: Mapping[str, str]) -> str | None:
    """What Ultralytics' export says that an ONNX file is for, such as `detect`; None where it says nothing."""
    return metadata.get("task")
