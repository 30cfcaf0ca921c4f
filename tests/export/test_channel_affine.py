"""BatchNorm and biases as exporters take them apart: folded, counted, and what is none of them left alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from export_graphs import Array, assert_same, batchnorm, graph, operators, parameters, random
from numpy.typing import NDArray
from onnx import helper

from edgeq.export.fold import fold_batchnorm

IMAGE = ("batch", 4, 8, 8)
PIXELS = random(0, 2, 4, 8, 8)
SCALE, SHIFT = random(1, 6), random(2, 6)


def conv(output: str = "c", op: str = "Conv") -> onnx.NodeProto:
    return helper.make_node(op, ["x", "w"], [output], name="conv")


def by_channel(values: Array) -> Array:
    return values.reshape(6, 1, 1)


def fold(nodes: list[onnx.NodeProto], constants: dict[str, NDArray[Any]], *, op: str = "Conv") -> list[str]:
    """The operators that are left of a graph which still computes the same."""
    weight = random(3, 6, 4, 3, 3) if op == "Conv" else random(3, 4, 6, 3, 3)
    model = graph([conv(op=op), *nodes], {"w": weight, **constants}, IMAGE)
    made, report = fold_batchnorm(model)
    assert_same(model, made, PIXELS, 1e-5)
    assert len(report.channel_affine) + len(report.folded) == len(model.graph.node) - len(made.graph.node)
    return operators(made)


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_mul_and_add(op: str) -> None:
    """As tf2onnx writes it."""
    nodes = [helper.make_node("Mul", ["c", "s"], ["m"]), helper.make_node("Add", ["t", "m"], ["y"])]
    assert fold(nodes, {"s": by_channel(SCALE)[None], "t": by_channel(SHIFT)}, op=op) == [op]


def test_sub_div_mul_add() -> None:
    nodes = [
        helper.make_node("Sub", ["c", "mean"], ["a"]),
        helper.make_node("Div", ["a", "deviation"], ["b"]),
        helper.make_node("Mul", ["gamma", "b"], ["d"]),
        helper.make_node("Add", ["d", "beta"], ["y"]),
    ]
    constants: dict[str, Array] = {
        "mean": random(4, 6),
        "deviation": np.exp(random(5, 6)),
        "gamma": SCALE,
        "beta": SHIFT,
    }
    assert fold(nodes, {name: by_channel(value) for name, value in constants.items()}) == ["Conv"]


def test_a_bias_before_a_batchnorm() -> None:
    """As Paddle and Keras write it."""
    nodes = [helper.make_node("Add", ["c", "t"], ["b"]), batchnorm("bn", "b", "y")]
    assert fold(nodes, {"t": by_channel(SHIFT), **parameters("bn", 6)}) == ["Conv"]


@pytest.mark.parametrize("shape", [(), (1,), (1, 1, 1, 1)])
def test_one_number_for_all_channels(shape: tuple[int, ...]) -> None:
    nodes = [helper.make_node("Mul", ["c", "half"], ["m"]), helper.make_node("Sub", ["one", "m"], ["y"])]
    constants = {"half": np.full(shape, 0.5, np.float32), "one": np.ones(shape, np.float32)}
    assert fold(nodes, constants) == ["Conv"]


@pytest.mark.parametrize(
    ("nodes", "constants"),
    [
        ([helper.make_node("Add", ["c", "t"], ["y"])], {"t": random(1, 6)}),  # along the width: 6 of them
        ([helper.make_node("Add", ["c", "t"], ["y"])], {"t": random(1, 6, 6, 6)}),
        ([helper.make_node("Div", ["t", "c"], ["y"])], {"t": by_channel(SCALE)}),
        ([helper.make_node("Mul", ["c", "c"], ["y"])], {}),
        (
            [helper.make_node("Relu", ["c"], ["r"]), helper.make_node("Mul", ["r", "t"], ["y"])],
            {"t": by_channel(SCALE)},
        ),
        (
            [helper.make_node("Mul", ["c", "t"], ["m"]), helper.make_node("Add", ["m", "c"], ["y"])],
            {"t": by_channel(SCALE)},
        ),
    ],
    ids=["by column", "by place", "divided by", "with itself", "behind an activation", "read twice"],
)
def test_what_is_left_alone(nodes: list[onnx.NodeProto], constants: dict[str, NDArray[Any]]) -> None:
    assert fold(nodes, constants) == ["Conv", *(node.op_type for node in nodes)]


def test_hard_swish_stays_what_it_is() -> None:
    nodes = [
        helper.make_node("Add", ["c", "three"], ["a"]),
        helper.make_node("Clip", ["a", "zero", "six"], ["b"]),
        helper.make_node("Mul", ["c", "b"], ["d"]),
        helper.make_node("Div", ["d", "six"], ["y"]),
    ]
    constants = {"three": np.float32(3), "zero": np.float32(0), "six": np.float32(6)}
    assert fold(nodes, {name: np.array(value) for name, value in constants.items()}) == [
        "Conv",
        *("Add", "Clip", "Mul", "Div"),
    ]


def test_the_bias_of_a_matmul_stays_its_add() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("Add", ["m", "t"], ["y"])]
    model = graph(nodes, {"w": random(1, 5, 6), "t": SHIFT}, ("batch", 5))
    assert operators(fold_batchnorm(model)[0]) == ["MatMul", "Add"]


def test_behind_a_linear_layer_with_a_bias() -> None:
    nodes = [
        helper.make_node("Gemm", ["x", "w", "t"], ["g"]),
        helper.make_node("Mul", ["g", "s"], ["m"]),
        helper.make_node("Add", ["m", "t"], ["y"]),
    ]
    model = graph(nodes, {"w": random(1, 5, 6), "t": SHIFT, "s": SCALE}, ("batch", 5))
    made, report = fold_batchnorm(model)
    assert operators(made) == ["Gemm"]
    assert_same(model, made, random(3, 7, 5))
    assert (report.before, report.after, [one.rule for one in report.channel_affine]) == (0, 0, ["after Gemm"] * 2)
