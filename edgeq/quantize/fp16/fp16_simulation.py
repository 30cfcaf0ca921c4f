"""An FP16 graph as hardware with FP16 kernels computes it, to be run where there is none.

ONNX Runtime has few FP16 kernels on a CPU. It puts float32 ones between Casts, and drops the Casts between two of them:
a number beyond 65504 passes as if nothing were, and on a GPU it is infinite. Here every FP16 tensor is rounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeq.model.graph.element_types import element_types

__all__ = ["simulate_fp16"]


def simulate_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float32 graph that computes what `model` does in FP16; `model` is not changed.

    Each result of an FP16 layer is rounded to FP16, so it may become infinite or vanish. Inside a layer, sums and
    squares are float32, as tensor cores accumulate them.

    Args:
        model: as `edgeq.quantize.fp16.convert.to_fp16` makes it; float32 inputs and outputs, no graphs inside nodes.

    Raises:
        QuantizeError: the element types of the graph contradict each other.
    """
    types = element_types(model)
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.node[:], made.graph.initializer[:], made.graph.value_info[:]
    made.graph.initializer.extend(_widened(tensor) for tensor in model.graph.initializer)
    for node in model.graph.node:
        made.graph.node.extend(_steps(node, types))
    return made


def _widened(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """A constant in float32, with the numbers it has in FP16."""
    if tensor.data_type != TensorProto.FLOAT16:
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)


def _steps(node: onnx.NodeProto, types: Mapping[str, int]) -> Iterator[onnx.NodeProto]:
    """The node, and behind each FP16 result the two Casts that round it."""
    made = onnx.NodeProto()
    made.CopyFrom(node)
    half = [slot for slot, name in enumerate(node.output) if types.get(name) == TensorProto.FLOAT16]
    for slot in half:
        made.output[slot] = f"{node.output[slot]}.exact"
    yield made
    for slot in half:
        name = node.output[slot]
        yield helper.make_node("Cast", [f"{name}.exact"], [f"{name}.half"], to=TensorProto.FLOAT16)
        yield helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT)
