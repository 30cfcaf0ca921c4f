"""Weight standardization as torch's tracing exporter writes it, and a Pad that ONNX Runtime would take for a pool's."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.export.rewrites.batch_statistics import write_out_batch_statistics
from edgeq.export.rewrites.pads import keep_pads_before_pools


def graph(nodes: list[onnx.NodeProto], constants: Mapping[str, NDArray[np.generic]], opset: int) -> onnx.ModelProto:
    made = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 2, 3])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize("opset", [17, 18])
def test_a_batchnorm_in_training_mode_takes_the_statistics_of_what_it_is_given(opset: int) -> None:
    """Channel 0 is 1, 2, 3: mean 2, variance 2/3; what the last two inputs say does not count."""
    constants = {
        "scale": np.array([1.0, 2.0], np.float32),
        "bias": np.array([0.0, 1.0], np.float32),
        "mean": np.array([7.0, 7.0], np.float32),
        "var": np.array([9.0, 9.0], np.float32),
    }
    node = helper.make_node(
        "BatchNormalization",
        ["x", "scale", "bias", "mean", "var"],
        ["y", "running_mean", "running_var"],
        training_mode=1,
        epsilon=0.0,
    )
    model = write_out_batch_statistics(graph([node], constants, opset))
    assert "BatchNormalization" not in {made.op_type for made in model.graph.node}
    x = np.array([[[1, 2, 3], [0, 0, 6]]], np.float32)
    found = OnnxRuntimeEngine(model.SerializeToString()).run({"x": x})["y"]
    one, root = np.sqrt(1.5), np.sqrt(8.0)
    wanted = [[[-one, 0.0, one], [1 - 4 / root, 1 - 4 / root, 1 + 8 / root]]]
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("value", ["left out", "an initializer", "a node"])
def test_zeros_in_front_of_a_pool_stay_larger_than_what_is_below_them(value: str) -> None:
    nodes = [helper.make_node("MaxPool", ["padded"], ["y"], kernel_shape=[2])]
    constants: dict[str, NDArray[np.generic]] = {"pads": np.array([0, 0, 1, 0, 0, 0])}
    given = ["x", "pads"]
    if value == "a node":
        zero = numpy_helper.from_array(np.array(0.0, np.float32))
        nodes.insert(0, helper.make_node("Constant", [], ["zero"], value=zero))
    elif value == "an initializer":
        constants["zero"] = np.array(0.0, np.float32)
    nodes.insert(-1, helper.make_node("Pad", given if value == "left out" else [*given, "zero"], ["padded"]))
    model = keep_pads_before_pools(graph(nodes, constants, 17))
    x = np.array([[[-1, -2, -3], [-4, -5, 6]]], np.float32)
    found = OnnxRuntimeEngine(model.SerializeToString()).run({"x": x})["y"]
    assert found.tolist() == [[[0, -1, -2], [0, -4, 6]]]
