"""Graphs that are only looked at, never run."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

__all__ = ["Node", "sketch"]

Node = tuple[str, tuple[str, ...], str]
"""Operator, tensors that it reads, tensor that it makes, after which it is named."""


def sketch(*nodes: Node, output: str) -> onnx.ModelProto:
    """A graph whose shapes do not matter. It reads `x`; tensors `w...` are constants."""
    made = [helper.make_node(op, list(inputs), [name], name=name) for op, inputs, name in nodes]
    constants = sorted({name for _, inputs, _ in nodes for name in inputs if name.startswith("w")})
    return helper.make_model(
        helper.make_graph(
            made,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 4])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            [numpy_helper.from_array(np.ones((4, 4), np.float32), name) for name in constants],
        )
    )
