"""The vision encoder: a bundle's vision graph in an engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgeq.engine import Engine
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import EngineError

__all__ = ["VisionEncoder"]


class VisionEncoder:
    """From pixels to what the language model gets of an image.

    Args:
        engine: a graph with one input (pixels) and one output (features).

    Raises:
        EngineError: it has others.
    """

    def __init__(self, engine: Engine) -> None:
        if len(engine.inputs) != 1 or len(engine.outputs) != 1:
            raise EngineError(
                f"the vision graph has inputs {list(engine.inputs)} and outputs {list(engine.outputs)}",
                expected="one of each: pixels and features",
            )
        self._engine = engine

    @classmethod
    def open(cls, graph: Path, *, threads: int | None = None) -> VisionEncoder:
        """An ONNX file in ONNX Runtime; raises EngineError when that refuses it."""
        return cls(OnnxRuntimeEngine(graph, threads=threads))

    def encode(self, pixels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Features of pictures.

        Args:
            pixels: float32 [n, 3, height, width].

        Returns:
            float32 [n, tokens, hidden].

        Raises:
            EngineError: the engine fails, or gives NaN or infinity.
        """
        found = self._engine.run({self._engine.inputs[0]: pixels})[self._engine.outputs[0]]
        features: NDArray[np.float32] = found.astype(np.float32, copy=False)
        if features.ndim != 3 or len(features) != len(pixels):
            raise EngineError(f"the vision graph gave {list(features.shape)} for {len(pixels)} pictures")
        if not np.isfinite(features).all():
            raise EngineError(
                "the vision graph gave NaN or infinity for this image",
                causes=("a layer overflows in FP16 on it, which it did not on the images of `edgeq prepare`",),
                next_step="prepare the bundle again with images like this one",
            )
        return features
