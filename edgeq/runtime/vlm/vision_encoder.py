"""The vision encoder: a bundle's vision graph in an engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from edgeq.engine import Engine
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import EngineError
from edgeq.families.base import Arrays

__all__ = ["VisionEncoder"]


class VisionEncoder:
    """From what the image processor made to what the language model gets of an image.

    Args:
        engine: of the vision graph.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, graph: Path, *, threads: int | None = None) -> VisionEncoder:
        """An ONNX file in ONNX Runtime; raises EngineError when that refuses it.

        It takes its memory tensor by tensor: in one block it would keep one for the first image, and from the second of
        the same size on another for all such.
        """
        return cls(OnnxRuntimeEngine(graph, threads=threads, memory_pattern=False))

    def encode(self, feeds: Arrays) -> Arrays:
        """Features of one image.

        Args:
            feeds: an array for each input of the graph; see `VisionGraph.feeds`.

        Returns:
            Each output of the graph, float32 [..., hidden].

        Raises:
            EngineError: the engine fails, takes other inputs, or gives NaN or infinity.
        """
        if feeds.keys() != set(self._engine.inputs):
            raise EngineError(
                f"the vision graph has the inputs {sorted(self._engine.inputs)}",
                expected=f"{sorted(feeds)}, as the model's family says",
                causes=("the bundle was made by another version of edgeq",),
            )
        made = self._engine.run(feeds)
        found = {name: value.astype(np.float32, copy=False) for name, value in made.items()}
        if not all(np.isfinite(value).all() for value in found.values()):
            raise EngineError(
                "the vision graph gave NaN or infinity for this image",
                causes=("a layer overflows in FP16 on it, which it did not on the images of `edgeq prepare`",),
                next_step="prepare the bundle again with images like this one",
            )
        return found
