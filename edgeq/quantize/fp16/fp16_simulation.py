"""An FP16 graph as hardware with FP16 kernels computes it, to be run where there is none.

ONNX Runtime has few FP16 kernels on a CPU. It puts float32 ones between Casts, and drops the Casts between two of them:
a number beyond 65504 passes as if nothing were, and on a GPU it is infinite. Here every FP16 tensor is rounded.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeq.model.graph.element_types import element_types
from edgeq.model.graph.tensors import constant_names
from edgeq.plan.rules import FUSED_ACTIVATIONS, STORED_IN_INT8

__all__ = ["inside_kernels", "simulate_fp16"]


def simulate_fp16(model: onnx.ModelProto) -> onnx.ModelProto:
    """A float32 graph that computes what `model` does in FP16; `model` is not changed.

    Each result of an FP16 layer is rounded to FP16, so it may become infinite or vanish. Inside a layer, sums and
    squares are float32, as tensor cores accumulate them. So is what an INT8 kernel holds between the integers that it
    reads and those that it writes: the product, a residual that is added to it, its activation.

    Args:
        model: as `edgeq.quantize.fp16.convert.to_fp16` makes it, with or without Q/DQ pairs; float32 inputs and
            outputs, no graphs inside nodes.

    Raises:
        QuantizeError: the element types of the graph contradict each other.
    """
    types = element_types(model)
    inside = inside_kernels(model)
    half = frozenset(name for name, kind in types.items() if kind == TensorProto.FLOAT16 and name not in inside)
    made = onnx.ModelProto()
    made.CopyFrom(model)
    del made.graph.node[:], made.graph.initializer[:], made.graph.value_info[:]
    made.graph.initializer.extend(_widened(tensor) for tensor in model.graph.initializer)
    for node in model.graph.node:
        made.graph.node.extend(_steps(node, half))
    return made


def inside_kernels(model: onnx.ModelProto) -> frozenset[str]:
    """The tensors that no INT8 kernel writes: between a DequantizeLinear and the QuantizeLinear behind its readers."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    given = {output.name for output in model.graph.output}
    constants = constant_names(model.graph)
    entered: set[str] = set()  # read from pairs, through layers that are fused
    for node in model.graph.node:
        values = [name for name in node.input if name and name not in constants]
        fused = node.op_type in STORED_IN_INT8 | FUSED_ACTIVATIONS | {"Add"} and values and entered.issuperset(values)
        if fused or node.op_type == "DequantizeLinear":
            entered.update(node.output)
    inside: set[str] = set()
    for node in reversed(model.graph.node):
        for name in node.output:
            left = name in given or any(
                user.op_type != "QuantizeLinear" and not inside.issuperset(user.output)
                for user in readers.get(name, ())
            )
            if name in entered and (node.op_type == "DequantizeLinear" or not left):
                inside.add(name)
    return frozenset(inside)


def _widened(tensor: onnx.TensorProto) -> onnx.TensorProto:
    """A constant in float32, with the numbers it has in FP16."""
    if tensor.data_type != TensorProto.FLOAT16:
        return tensor
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)


def _steps(node: onnx.NodeProto, half: frozenset[str]) -> Iterator[onnx.NodeProto]:
    """The node, and behind each FP16 result the two Casts that round it."""
    made = onnx.NodeProto()
    made.CopyFrom(node)
    rounded = [slot for slot, name in enumerate(node.output) if name in half]
    for slot in rounded:
        made.output[slot] = f"{node.output[slot]}.exact"
    yield made
    for slot in rounded:
        name = node.output[slot]
        yield helper.make_node("Cast", [f"{name}.exact"], [f"{name}.half"], to=TensorProto.FLOAT16)
        yield helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT)
