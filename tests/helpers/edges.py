"""Other inputs for a network that computes the same: uint8 with normalization inside, FP16, channels last, grey."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


def rename_input(model: onnx.ModelProto, name: str) -> str:
    """Let the first nodes read a tensor `name` that is to be made; returns the input's name."""
    old = str(model.graph.input[0].name)
    for node in model.graph.node:
        for place, read in enumerate(node.input):
            node.input[place] = name if read == old else read
    return old


def takes_uint8(
    model: onnx.ModelProto,
    *,
    scale: float | None = None,
    mean: NDArray[np.float32] | None = None,
    std: NDArray[np.float32] | None = None,
    last: bool = False,
) -> onnx.ModelProto:
    """A copy that takes pixels 0..255, uint8 [batch, 3, H, W] or [batch, H, W, 3], and does (p * scale - mean) / std.

    Args:
        model: takes float32 [batch, 3, H, W].
        scale, mean, std: None leaves the step out; mean and std are float32 [3].
        last: channels last, turned behind the normalization.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    source = rename_input(made, "normalized")
    axes = [axis.dim_param or axis.dim_value for axis in made.graph.input[0].type.tensor_type.shape.dim]
    shape = (1, 1, 1, 3) if last else (1, 3, 1, 1)
    nodes = [helper.make_node("Cast", [source], ["cast"], to=TensorProto.FLOAT)]
    steps = (("Mul", "scale", None if scale is None else np.array(scale, np.float32)), ("Sub", "mean", mean))
    for op, name, value in (*steps, ("Div", "std", std)):
        if value is None:
            continue
        constant = value if value.ndim == 0 else value.reshape(shape)
        made.graph.initializer.append(numpy_helper.from_array(constant, f"inside.{name}"))
        nodes.append(helper.make_node(op, [nodes[-1].output[0], f"inside.{name}"], [f"inside.{op}"]))
    if last:
        nodes.append(helper.make_node("Transpose", [nodes[-1].output[0]], ["turned"], perm=[0, 3, 1, 2]))
    nodes[-1].output[0] = "normalized"
    for place, node in enumerate(nodes):
        made.graph.node.insert(place, node)
    wanted = [axes[0], axes[2], axes[3], axes[1]] if last else axes
    made.graph.input[0].CopyFrom(helper.make_tensor_value_info(source, TensorProto.UINT8, wanted))
    del made.graph.value_info[:]
    return made


def in_half(model: onnx.ModelProto, *, edges: bool = True) -> onnx.ModelProto:
    """A copy in FP16, its weights rounded; without `edges`, FP32 goes in and comes out through Casts."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            half = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
    if edges:
        for value in (*made.graph.input, *made.graph.output):
            value.type.tensor_type.elem_type = TensorProto.FLOAT16
    else:
        source, result = rename_input(made, "half"), made.graph.output[0].name
        for node in made.graph.node:
            for place, name in enumerate(node.output):
                node.output[place] = "half_result" if name == result else name
        made.graph.node.insert(0, helper.make_node("Cast", [source], ["half"], to=TensorProto.FLOAT16))
        made.graph.node.append(helper.make_node("Cast", ["half_result"], [result], to=TensorProto.FLOAT))
    del made.graph.value_info[:]
    return made


def takes_grey(model: onnx.ModelProto, weight: str) -> onnx.ModelProto:
    """A copy that takes one channel, with what its first convolution does to three equal ones.

    Args:
        model: takes float32 [batch, 3, H, W].
        weight: name of that convolution's weight.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    for tensor in made.graph.initializer:
        if tensor.name == weight:
            summed = numpy_helper.to_array(tensor).sum(axis=1, keepdims=True)
            tensor.CopyFrom(numpy_helper.from_array(summed, weight))
    made.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    del made.graph.value_info[:]
    return made
