"""Inputs as exporters leave them: channels last is put right, the rest is named."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from export_graphs import graph, operators, random, run
from networks import SIDE, tiny_network
from onnx import TensorProto, helper

from edgeq.errors import ModelError
from edgeq.export.image_input import channels_first, check_input, image_size, is_channels_last
from edgeq.export.stage import fold_graph


def channels_last(*, own_transpose: bool) -> onnx.ModelProto:
    """`tiny_network` that takes [batch, SIDE, SIDE, 3], turned by a node of its own; or a mean over its places."""
    if not own_transpose:
        nodes = [
            helper.make_node("ReduceMean", ["x"], ["m"], axes=[1, 2], keepdims=0),
            helper.make_node("MatMul", ["m", "w"], ["y"]),
        ]
        return graph(nodes, {"w": random(1, 3, 4)}, ("batch", SIDE, SIDE, 3))
    model = tiny_network()
    model.graph.input[0].name = "x"
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = "turned" if name == "pixel_values" else name
    model.graph.node.insert(0, helper.make_node("Transpose", ["x"], ["turned"], perm=[0, 3, 1, 2]))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", SIDE, SIDE, 3]))
    return model


@pytest.mark.parametrize("own_transpose", [True, False])
def test_channels_last(own_transpose: bool) -> None:
    model = channels_last(own_transpose=own_transpose)
    assert is_channels_last(model)
    made, _ = fold_graph(channels_first(model))
    assert image_size(made) == (SIDE, SIDE)
    assert not is_channels_last(made)
    pixels = random(2, 3, 3, SIDE, SIDE)
    wanted = run(model, np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)))
    got = run(made, pixels)
    for name, values in wanted.items():
        np.testing.assert_allclose(got[name], values, rtol=0, atol=1e-5)
    assert ("Transpose" in operators(made)) == (not own_transpose)


def test_channels_first_is_left_alone() -> None:
    assert not is_channels_last(tiny_network())
    odd = graph([helper.make_node("Relu", ["x"], ["y"])], {}, ("batch", 3, SIDE, 3))  # three pixels wide
    assert not is_channels_last(odd)


def test_transposes_that_turn_only_part_of_the_way_back() -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["a"], perm=[0, 2, 3, 1]),
        helper.make_node("Transpose", ["a"], ["b"], perm=[0, 2, 3, 1]),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    model = graph(nodes, {}, ("batch", 3, 4, 5))
    made, _ = fold_graph(model)
    assert operators(made) == ["Transpose", "Relu"]
    x = random(1, 2, 3, 4, 5)
    np.testing.assert_array_equal(run(made, x)["y"], run(model, x)["y"])


@pytest.mark.parametrize(
    ("kind", "shape", "told", "reason"),
    [
        (TensorProto.INT8, [1, 3, 8, 8], "x, int8 [1, 3, 8, 8]", "its type is int8"),
        (TensorProto.DOUBLE, ["n", 3, 8, 8], "x, double [n, 3, 8, 8]", "its type is double"),
        (TensorProto.BFLOAT16, ["n", 3, 8, 8], "x, bfloat16 [n, 3, 8, 8]", "its type is bfloat16"),
        (TensorProto.FLOAT, [1, 4, 8, 8], "x, float [1, 4, 8, 8]", "it has 4 channels"),
        (TensorProto.UINT8, [1, 8, 8, 4], "x, uint8 [1, 8, 8, 4]", "it has 4 channels, last"),
        (TensorProto.FLOAT, [1, 12], "x, float [1, 12]", "it has 2 axes"),
    ],
)
def test_what_is_not_taken_is_named(kind: int, shape: list[int | str], told: str, reason: str) -> None:
    value = helper.make_tensor_value_info("x", kind, shape)
    model = helper.make_model(helper.make_graph([], "test", [value], []))
    with pytest.raises(ModelError, match="the graph takes ") as caught:
        check_input(model)
    assert told in str(caught.value)
    assert any(cause.startswith(reason) for cause in caught.value.causes)


def test_a_second_input_is_named() -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 8, 8]) for name in ("x", "z")]
    with pytest.raises(ModelError, match=r"x, float \[1, 3, 8, 8\]; z, float") as caught:
        image_size(helper.make_model(helper.make_graph([], "test", values, [])))
    assert caught.value.causes == ("it has 2 inputs",)
