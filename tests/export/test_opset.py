"""Opsets: what comes out is 17 or 18, and computes the same in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeq.errors import ModelError
from edgeq.export.opset import to_supported_opset
from edgeq.model.graph.element_types import opset_of

FILE = Path("a.onnx")


def model_of(nodes: list[onnx.NodeProto], opset: int, **constants: NDArray[Any]) -> onnx.ModelProto:
    """x float32 [batch, 4, 6, 6] -> y of any shape."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def assert_lowered(model: onnx.ModelProto, tolerance: float = 0.0) -> onnx.ModelProto:
    """The converted copy, which computes the same within `tolerance`."""
    converted = to_supported_opset(model, FILE)
    assert opset_of(converted) == (17 if opset_of(model) < 17 else 18)
    x = np.random.default_rng(1).normal(size=(2, 4, 6, 6)).astype(np.float32)
    sessions = [
        onnxruntime.InferenceSession(one.SerializeToString(), providers=["CPUExecutionProvider"])
        for one in (model, converted)
    ]
    before, after = (session.run(None, {"x": x})[0] for session in sessions)
    np.testing.assert_allclose(after, before, rtol=0, atol=tolerance)
    return converted


def layers() -> tuple[list[onnx.NodeProto], dict[str, NDArray[Any]]]:
    """Conv, Relu, pooling, Flatten, Gemm."""
    random = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "fc.w", "fc.b"], ["y"], transB=1),
    ]
    shapes = {"w": (8, 4, 3, 3), "b": (8,), "fc.w": (5, 8), "fc.b": (5,)}
    return nodes, {name: random.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("opset", [9, 11, 13, 16, 19, 20, 21, 22, 23, 24])
def test_other_opsets_are_converted(opset: int) -> None:
    nodes, constants = layers()
    assert_lowered(model_of(nodes, opset, **constants))


@pytest.mark.parametrize("opset", [17, 18])
def test_these_stay_as_they_are(opset: int) -> None:
    nodes, constants = layers()
    model = model_of(nodes, opset, **constants)
    assert to_supported_opset(model, FILE) is model


def test_an_operator_that_the_converter_does_not_know_is_renamed() -> None:
    """ONNX's converter has no way for ConstantOfShape from 20 to 18; the operator only took more types since."""
    value = numpy_helper.from_array(np.array([2], np.float32))
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"]),
        helper.make_node("ConstantOfShape", ["shape"], ["twos"], value=value),
        helper.make_node("Add", ["x", "twos"], ["y"]),
    ]
    assert_lowered(model_of(nodes, 20))


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_is_written_out(approximate: str) -> None:
    converted = assert_lowered(model_of([helper.make_node("Gelu", ["x"], ["y"], approximate=approximate)], 20), 1e-6)
    assert ("Erf" if approximate == "none" else "Tanh") in [node.op_type for node in converted.graph.node]
    assert [opset.domain for opset in converted.opset_import] == [""]


def test_rms_normalization_is_written_out() -> None:
    scale = np.linspace(0.5, 2, 6, dtype=np.float32)
    nodes = [helper.make_node("RMSNormalization", ["x", "scale"], ["y"], axis=-1)]
    assert_lowered(model_of(nodes, 23, scale=scale), 1e-6)


def test_swish_is_written_out() -> None:
    nodes = [helper.make_node("Swish", ["x"], ["s"]), helper.make_node("Swish", ["s"], ["y"], alpha=0.5)]
    converted = to_supported_opset(model_of(nodes, 24), FILE)
    x = np.random.default_rng(1).normal(size=(2, 4, 6, 6)).astype(np.float32)
    session = onnxruntime.InferenceSession(converted.SerializeToString(), providers=["CPUExecutionProvider"])
    once = x / (1 + np.exp(-x))
    np.testing.assert_allclose(session.run(None, {"x": x})[0], once / (1 + np.exp(-once / 2)), rtol=0, atol=1e-6)


def test_an_operator_that_18_lacks_is_named() -> None:
    offsets, weight = np.zeros((1, 18, 6, 6), np.float32), np.ones((2, 4, 3, 3), np.float32)
    nodes = [helper.make_node("DeformConv", ["x", "w", "o"], ["y"], pads=[1, 1, 1, 1], kernel_shape=[3, 3])]
    with pytest.raises(ModelError, match=r"opset 19 and cannot be converted to 18: .*DeformConv") as caught:
        to_supported_opset(model_of(nodes, 19, w=weight, o=offsets), FILE)
    assert "TensorRT 10.3" in caught.value.expected
    assert "17 or 18" in caught.value.next_step
