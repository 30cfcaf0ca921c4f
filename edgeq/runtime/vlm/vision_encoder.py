"""The vision encoder: a bundle's vision graph in an engine."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from edgeq.engine import Engine
from edgeq.engine.base import DeviceEngine
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import EngineError
from edgeq.families.base import Arrays, Made
from edgeq.families.features import FeatureArray
from edgeq.tensorrt.tensors import DeviceTensor

if TYPE_CHECKING:
    import torch

__all__ = ["VisionEncoder"]


class VisionEncoder:
    """From what the image processor made to what the language model gets of an image.

    Args:
        engine: of the vision graph. From a `DeviceEngine` on torch's memory nothing goes through the host: the language
            model is in the same process, and takes the features where they are.
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

    def encode(self, feeds: Arrays) -> Made:
        """Features of one image.

        Args:
            feeds: an array for each input of the graph; see `VisionGraph.feeds`.

        Returns:
            Each output of the graph, float32 [..., hidden]: arrays, or tensors on the GPU.

        Raises:
            EngineError: the engine fails, takes other inputs, or gives NaN or infinity.
        """
        if feeds.keys() != set(self._engine.inputs):
            raise EngineError(
                f"the vision graph has the inputs {sorted(self._engine.inputs)}",
                expected=f"{sorted(feeds)}, as the model's family says",
                causes=("the bundle was made by another version of edgeq",),
            )
        found = self._run(feeds)
        if not _finite(found.values()):
            raise EngineError(
                "the vision graph gave NaN or infinity for this image",
                causes=("a layer overflows in FP16 on it, which it did not on the images of `edgeq prepare`",),
                next_step="prepare the bundle again with images like this one",
            )
        return found

    def _run(self, feeds: Arrays) -> Made:
        if getattr(self._engine, "on_torch", False):
            placed = cast(DeviceEngine, self._engine).run_device(feeds)
            return {name: _tensor(value) for name, value in placed.items()}
        made = self._engine.run(feeds)
        return {name: value.astype(np.float32, copy=False) for name, value in made.items()}


def _tensor(placed: DeviceTensor) -> torch.Tensor:
    """What lies in torch's memory, as torch sees it, float32.

    It was allocated for the engine's stream: the allocator is told that this one uses it as well.
    """
    import torch

    kind = torch.from_numpy(np.empty(0, placed.dtype)).dtype
    found: torch.Tensor = placed.owner[: placed.nbytes].view(kind).reshape(placed.shape)
    if found.is_cuda:
        found.record_stream(torch.cuda.current_stream())
    return found.to(torch.float32)


def _finite(values: Iterable[FeatureArray]) -> bool:
    """Whether all are numbers; of tensors on the GPU one answer comes to the host, for all together."""
    arrays, tensors = [], []
    for value in values:
        if isinstance(value, np.ndarray):
            arrays.append(value)
        else:
            tensors.append(value)
    if not tensors:
        return all(bool(np.isfinite(array).all()) for array in arrays)
    import torch

    return bool(torch.stack([torch.isfinite(tensor).all() for tensor in tensors]).all())
