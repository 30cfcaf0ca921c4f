"""A residual network whose answer, and whose error in INT8, can be worked out by hand."""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

CHANNELS = 16
SIDE = 8


def residual_network(blocks: int, *, branch: float = 0.05, seed: int = 0) -> onnx.ModelProto:
    """Conv, Relu, then blocks of Conv, Relu, Conv, Add with what came in, Relu; mean, Flatten, Gemm.

    float32 `pixel_values` [batch, 3, SIDE, SIDE] -> `logits` [batch, 3]; nodes are `stem`, `one0`, `two0`, `add0`,
    `sum0`, ..., `head`.

    Args:
        blocks: how many.
        branch: size of a block's weights beside those that would keep what goes through as large as it is.
        seed: of the weights.
    """
    rng = np.random.default_rng(seed)
    constants: dict[str, NDArray[np.float32]] = {}

    def conv(name: str, source: str, channels: int, size: float) -> onnx.NodeProto:
        weight = size * rng.standard_normal((CHANNELS, channels, 3, 3)) / np.sqrt(9 * channels)
        constants[f"{name}.weight"] = weight.astype(np.float32)
        return helper.make_node("Conv", [source, f"{name}.weight"], [name], name=name, pads=[1, 1, 1, 1])

    def step(op: str, *inputs: str, name: str) -> onnx.NodeProto:
        return helper.make_node(op, list(inputs), [name], name=name)

    nodes = [conv("stem", "pixel_values", 3, 1.0), step("Relu", "stem", name="start")]
    here = "start"
    for block in range(blocks):
        one, two, total = f"one{block}", f"two{block}", f"add{block}"
        nodes += [
            conv(one, here, CHANNELS, 1.0),
            step("Relu", one, name=f"relu{block}"),
            conv(two, f"relu{block}", CHANNELS, branch),
            step("Add", two, here, name=total),
            step("Relu", total, name=f"sum{block}"),
        ]
        here = f"sum{block}"
    constants["head.weight"] = rng.standard_normal((3, CHANNELS)).astype(np.float32)
    nodes += [
        step("GlobalAveragePool", here, name="mean"),
        step("Flatten", "mean", name="flat"),
        helper.make_node("Gemm", ["flat", "head.weight"], ["logits"], name="head", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "residual",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model
