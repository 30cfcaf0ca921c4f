"""Cross-layer equalization: exact to the bit, found where it holds, and alike whatever a channel was multiplied by."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.model.graph.wiring import Wiring
from edgeq.quantize.equalize.conv_points import find_conv_points
from edgeq.quantize.equalize.cross_layer import UNEVEN, cross_layer, unevenness
from edgeq.quantize.equalize.rescale import rescale

CHANNELS = 6


def conv(name: str, data: str, *, group: int = 1, bias: bool = True) -> onnx.NodeProto:
    inputs = [data, f"{name}.weight", *([f"{name}.bias"] if bias else [])]
    return helper.make_node("Conv", inputs, [name], name=name, pads=[1, 1, 1, 1], group=group)


def network(middle: list[onnx.NodeProto], reads: str, *, depthwise: bool = True) -> onnx.ModelProto:
    """first -> `middle` -> [depthwise -> Relu ->] last; float32 [batch, 3, 8, 8] -> [batch, 4, 8, 8]."""
    rng = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {
        "first.weight": (CHANNELS, 3, 3, 3),
        "first.bias": (CHANNELS,),
        "depth.weight": (CHANNELS, 1, 3, 3),
        "depth.bias": (CHANNELS,),
        "last.weight": (4, CHANNELS, 3, 3),
    }
    nodes = [conv("first", "x"), *middle]
    if depthwise:
        nodes += [conv("depth", reads, group=CHANNELS), helper.make_node("Relu", ["depth"], ["second"], name="second")]
    nodes.append(conv("last", "second" if depthwise else reads, bias=False))
    constants = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    constants |= {"zero": np.zeros((), np.float32), "six": np.full((), 6, np.float32)}
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 8, 8])],
        [helper.make_tensor_value_info("last", TensorProto.FLOAT, ["batch", 4, 8, 8])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def relu(name: str, data: str) -> onnx.NodeProto:
    return helper.make_node("Relu", [data], [name], name=name)


def outlier(model: onnx.ModelProto, channel: int, factor: float) -> onnx.ModelProto:
    """The same network, one channel of its first convolution `factor` times as large until the next takes it back."""
    made = onnx.ModelProto()
    made.CopyFrom(model)
    by_name = {tensor.name: tensor for tensor in made.graph.initializer}
    behind = "depth" if any(node.name == "depth" for node in made.graph.node) else "last"
    axis = 0 if behind == "depth" else 1
    for name, at, by in (
        ("first.weight", 0, factor),
        ("first.bias", 0, factor),
        (f"{behind}.weight", axis, 1 / factor),
    ):
        value = np.moveaxis(numpy_helper.to_array(by_name[name]).copy(), at, 0)
        value[channel] *= by
        by_name[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(np.moveaxis(value, 0, at)), name))
    return made


def run(model: onnx.ModelProto) -> NDArray[np.float32]:
    x = np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32)
    return OnnxRuntimeEngine(model.SerializeToString(), threads=1, optimize=False).run({"x": x})["last"]


def weight(model: onnx.ModelProto, name: str) -> NDArray[Any]:
    value = Wiring(model).constant(f"{name}.weight")
    assert value is not None
    return value


def equalized(model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    points, _ = find_conv_points(model, frozenset({"first", "depth", "last"}))
    return rescale(model, cross_layer(model, points)), len(points)


@pytest.mark.parametrize("depthwise", [True, False])
@pytest.mark.parametrize("factor", [1.0, 4096.0, 1 / 256])
def test_it_computes_the_same_to_the_bit(depthwise: bool, factor: float) -> None:
    model = outlier(network([relu("r", "first")], "r", depthwise=depthwise), 2, factor)
    made, points = equalized(model)
    assert points == (2 if depthwise else 1)
    np.testing.assert_array_equal(run(made), run(model))
    assert [node for node in made.graph.node if node.op_type != "Conv"] == [
        node for node in model.graph.node if node.op_type != "Conv"
    ]


def test_an_outlier_is_gone() -> None:
    """A power of two goes in and out of the weights exactly: with it and without it, the same network comes out."""
    plain = network([relu("r", "first")], "r")
    wide = outlier(plain, 3, 4096.0)
    points, _ = find_conv_points(wide, frozenset({"last", "depth"}))
    assert unevenness(wide, points) > UNEVEN > unevenness(plain, points)
    for name in ("first", "depth", "last"):
        np.testing.assert_array_equal(weight(equalized(wide)[0], name), weight(equalized(plain)[0], name))


def test_largest_weights_before_and_behind_are_alike() -> None:
    """Within what rounding the scale to a power of two leaves: sqrt(2) each way, and squared between the two sides."""
    made, _ = equalized(outlier(network([relu("r", "first")], "r", depthwise=False), 1, 1000.0))
    above = np.abs(weight(made, "first")).reshape(CHANNELS, -1).max(axis=1)
    below = np.abs(np.moveaxis(weight(made, "last"), 1, 0)).reshape(CHANNELS, -1).max(axis=1)
    assert np.all(np.abs(np.log2(above / below)) <= 1.0 + 0.05)


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("LeakyRelu", ["first"], ["r"], alpha=0.1),
        helper.make_node("PRelu", ["first", "zero"], ["r"]),
        helper.make_node("MaxPool", ["first"], ["r"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("AveragePool", ["first"], ["r"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    ],
    ids=lambda node: node.op_type,
)
def test_what_leaves_channels_apart_may_stand_between(node: onnx.NodeProto) -> None:
    model = outlier(network([node], "r", depthwise=False), 0, 512.0)
    made, points = equalized(model)
    assert points == 1
    np.testing.assert_array_equal(run(made), run(model))


@pytest.mark.parametrize(
    ("middle", "reason"),
    [
        ([helper.make_node("Clip", ["first", "zero", "six"], ["r"], name="relu6")], "Clip relu6 reads it"),
        ([helper.make_node("Sigmoid", ["first"], ["r"], name="gate")], "Sigmoid gate reads it"),
        ([helper.make_node("Add", ["first", "first"], ["r"], name="twice")], "Add twice reads it"),
        (
            [relu("r", "first"), helper.make_node("ReduceMean", ["r"], ["other"], name="mean", keepdims=0)],
            "ReduceMean mean reads it",
        ),
    ],
    ids=["ReLU6", "sigmoid", "residual", "another reader"],
)
def test_where_it_would_not_be_exact_nothing_is_done(middle: list[onnx.NodeProto], reason: str) -> None:
    model = network(middle, "r", depthwise=False)
    points, left = find_conv_points(model, frozenset({"last"}))
    assert points == ()
    assert left[0].reason == reason


def test_an_output_of_the_graph_keeps_its_scale() -> None:
    model = network([relu("r", "first")], "r", depthwise=False)
    model.graph.output.append(helper.make_tensor_value_info("r", TensorProto.FLOAT, None))
    points, left = find_conv_points(model, frozenset({"last"}))
    assert (points, left[0].reason) == ((), "it is an output of the graph")


def test_several_groups_of_several_channels_are_left_alone() -> None:
    model = network([relu("r", "first")], "r", depthwise=False)
    last = next(node for node in model.graph.node if node.name == "last")
    next(entry for entry in last.attribute if entry.name == "group").i = 2
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "last.weight")
    tensor.CopyFrom(numpy_helper.from_array(np.ones((4, CHANNELS // 2, 3, 3), np.float32), "last.weight"))
    assert find_conv_points(model, frozenset({"last"}))[0] == ()


def test_a_channel_that_nothing_reads_keeps_its_scale() -> None:
    model = network([relu("r", "first")], "r", depthwise=False)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "last.weight")
    value = numpy_helper.to_array(tensor).copy()
    value[:, 4] = 0.0
    tensor.CopyFrom(numpy_helper.from_array(value, "last.weight"))
    made, _ = equalized(outlier(model, 0, 512.0))
    np.testing.assert_array_equal(weight(made, "first")[4], weight(model, "first")[4])
