"""Graphs for the tests of cuts and sensitivity: a plain chain of layers, and what has no cut inside."""

from __future__ import annotations

import math

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

SIDE = 16
CLASSES = 3


def model_of(
    nodes: list[onnx.NodeProto],
    constants: dict[str, NDArray[np.float32]],
    source: list[int | str],
    target: list[int | str],
) -> onnx.ModelProto:
    """float32 `x` -> float32 `y`, opset 17, checked."""
    graph = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, source)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, target)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def pooled_chain(seed: int = 0) -> onnx.ModelProto:
    """Conv, Relu, MaxPool, Conv, Relu, Conv, mean, Gemm: every tensor is a cut, one lies before a carrier."""
    rng = np.random.default_rng(seed)

    def weight(*shape: int) -> NDArray[np.float32]:
        return (rng.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))).astype(np.float32)

    constants = {
        "one.weight": weight(8, 3, 3, 3),
        "two.weight": weight(8, 8, 3, 3),
        "three.weight": weight(8, 8, 1, 1),
        "head.weight": weight(CLASSES, 8),
        "three.bias": rng.uniform(-0.5, 0.5, 8).astype(np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "one.weight"], ["a"], name="one", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"], name="one_relu"),
        helper.make_node("MaxPool", ["b"], ["c"], name="smaller", kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["c", "two.weight"], ["d"], name="two", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["d"], ["e"], name="two_relu"),
        helper.make_node("Conv", ["e", "three.weight", "three.bias"], ["f"], name="three"),
        helper.make_node("GlobalAveragePool", ["f"], ["g"], name="mean"),
        helper.make_node("Flatten", ["g"], ["h"], name="flat"),
        helper.make_node("Gemm", ["h", "head.weight"], ["y"], name="head", transB=1),
    ]
    return model_of(nodes, constants, ["n", 3, SIDE, SIDE], ["n", CLASSES])


def attention_block(seed: int = 0) -> onnx.ModelProto:
    """x + softmax(q k') v, then + relu(. w1) w2: a transformer's block without its norms, float32 [n, 4, 6]."""
    rng = np.random.default_rng(seed)
    constants = {
        name: rng.standard_normal((6, 6)).astype(np.float32) for name in ("q.w", "k.w", "v.w", "up.w", "down.w")
    }
    nodes = [
        *(helper.make_node("MatMul", ["x", f"{name}.w"], [name], name=name) for name in ("q", "k", "v")),
        helper.make_node("Transpose", ["k"], ["kt"], name="turned", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["scores"], name="scores"),
        helper.make_node("Softmax", ["scores"], ["share"], name="share", axis=-1),
        helper.make_node("MatMul", ["share", "v"], ["seen"], name="seen"),
        helper.make_node("Add", ["x", "seen"], ["middle"], name="middle"),
        helper.make_node("MatMul", ["middle", "up.w"], ["up"], name="up"),
        helper.make_node("Relu", ["up"], ["bent"], name="bent"),
        helper.make_node("MatMul", ["bent", "down.w"], ["down"], name="down"),
        helper.make_node("Add", ["middle", "down"], ["y"], name="end"),
    ]
    return model_of(nodes, constants, ["n", 4, 6], ["n", 4, 6])
