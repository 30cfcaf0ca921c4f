"""The layers of a graph that FP16 would break on some runs."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from edgeq.model.graph.element_types import LARGEST
from edgeq.quantize.fp16.overflow import Feeds, layers_beyond, peaks

__all__ = ["find_overflow"]


def find_overflow(model: onnx.ModelProto, runs: Iterable[Feeds], *, limit: float = LARGEST) -> tuple[str, ...]:
    """Names, in the graph's order."""
    return layers_beyond(model, peaks(model, runs), limit)
