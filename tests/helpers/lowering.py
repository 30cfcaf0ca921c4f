"""What the tests of lowered graphs are written with: nodes, weights, scales."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from edgeq.calibrate.observe import with_outputs
from edgeq.calibrate.scales import Scales, TensorRange, TensorScale
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.files import sha256_file
from edgeq.plan.precision import PrecisionPlan
from edgeq.quantize.int8.qdq import calibrated_tensors

__all__ = ["drawn_weight", "measured_scales", "node", "scales"]


def node(op: str, inputs: Sequence[str], output: str, **attributes: Any) -> onnx.NodeProto:
    """Named after what it makes."""
    return helper.make_node(op, list(inputs), [output], name=output, **attributes)


def drawn_weight(rng: np.random.Generator, *shape: int) -> NDArray[np.float32]:
    """Random weights that keep the size of what goes through them."""
    values: NDArray[np.float32] = (rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    return values


def scales(ranges: Mapping[str, tuple[float, float]]) -> Scales:
    """As calibration with minmax leaves them, of tensors with these lowest and highest values."""
    tensors = {
        name: TensorScale(
            minimum=low,
            maximum=high,
            ranges={"minmax": TensorRange(amax=max(-low, high), low=low, high=high)},
            histogram_sha256="",
        )
        for name, (low, high) in ranges.items()
    }
    return Scales(graph_sha256="", preprocess_sha256="", images=1, method="minmax", tensors=tensors)


def measured_scales(graph: Path, plan: PrecisionPlan, feeds: Mapping[str, NDArray[np.float32]]) -> Scales:
    """As calibration with minmax on one batch leaves them; for the stage that wants the scales of this file."""
    model = onnx.load(graph)
    names = calibrated_tensors(model, plan)
    inner = [name for name in names if name not in feeds]
    engine = OnnxRuntimeEngine(with_outputs(model, inner).SerializeToString(), threads=1)
    found = {**feeds, **engine.run(feeds, inner)}
    made = scales({name: (float(found[name].min()), float(found[name].max())) for name in names})
    return made.model_copy(update={"graph_sha256": sha256_file(graph)})
