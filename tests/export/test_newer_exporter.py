"""What torch's newer exporter writes: parts of a shape, types by likeness, bare constants, sequences, Col2Im."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from export_graphs import assert_same, graph, operators, random, run
from onnx import AttributeProto, TensorProto, helper

from edgeq.export.simplify import simplify


@pytest.mark.parametrize(("start", "end"), [(0, 1), (1, 3), (-2, 4), (1, None)])
def test_a_part_of_a_shape(start: int, end: int | None) -> None:
    """onnx-graphsurgeon takes it for the whole shape."""
    part: dict[str, Any] = {"start": start} if end is None else {"start": start, "end": end}
    nodes = [
        helper.make_node("Shape", ["x"], ["part"], name="part", **part),
        helper.make_node("Cast", ["part"], ["y"], to=TensorProto.FLOAT),
    ]
    made = simplify(graph(nodes, {}, (2, 3, 5, 7)))
    np.testing.assert_array_equal(run(made, random(0, 2, 3, 5, 7))["y"], [2, 3, 5, 7][start:end])


def test_a_part_of_a_shape_with_free_axes() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["part"], name="part", start=0, end=1),
        helper.make_node("Concat", ["part", "rest"], ["shape"], axis=0),
        helper.make_node("Reshape", ["x", "shape"], ["y"]),
    ]
    model = graph(nodes, {"rest": np.array([15])}, ("batch", 3, 5))
    made = simplify(model)
    assert_same(model, made, random(0, 2, 3, 5))


def test_a_zero_of_the_type_of_the_image() -> None:
    """The bias of a convolution without one: CastLike(0, x), expanded. It is a constant."""
    nodes = [
        helper.make_node("CastLike", ["zero", "x"], ["z"], name="like"),
        helper.make_node("Expand", ["z", "shape"], ["bias"], name="expand"),
        helper.make_node("Conv", ["x", "w", "bias"], ["y"], name="conv"),
    ]
    constants = {"zero": np.array(0), "shape": np.array([4]), "w": random(1, 4, 3, 3, 3)}
    model = graph(nodes, constants, ("batch", 3, 5, 5), opset=18)
    made = simplify(model)
    assert operators(made) == ["Conv"]
    assert_same(model, made, random(2, 2, 3, 5, 5))


def test_bare_numbers() -> None:
    """`value_float` is float32, and no numbers at all are whole numbers: a scalar's shape."""
    nodes = [
        helper.make_node("Constant", [], ["half"], name="half", value_float=0.5),
        helper.make_node("Constant", [], ["shape"], name="none"),
        helper.make_node("Expand", ["half", "shape"], ["scalar"], name="expand"),
        helper.make_node("Mul", ["x", "scalar"], ["y"], name="mul"),
    ]
    nodes[1].attribute.append(helper.make_attribute("value_ints", [], attr_type=AttributeProto.INTS))
    model = graph(nodes, {}, ("batch", 3))
    made = simplify(model)
    assert operators(made) == ["Mul"]
    assert_same(model, made, random(3, 2, 3))


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("split", [np.array([1, 2, 1]), np.array(2)])
def test_a_sequence_that_is_read_place_by_place(split: np.ndarray, opset: int) -> None:
    """As `torch.split` and `torch.chunk` are written."""
    nodes = [
        helper.make_node("SplitToSequence", ["x", "split"], ["parts"], name="split", axis=1),
        helper.make_node("SequenceAt", ["parts", "first"], ["a"], name="first"),
        helper.make_node("SequenceAt", ["parts", "second"], ["b"], name="second"),
        helper.make_node("Concat", ["b", "a"], ["y"], axis=1, name="turned"),
    ]
    model = graph(nodes, {"split": split, "first": np.array(0), "second": np.array(1)}, ("batch", 4), opset=opset)
    made = simplify(model)
    assert operators(made) == ["Split", "Concat"]
    assert_same(model, made, random(4, 2, 4))


def test_a_sequence_read_at_a_computed_place_stays() -> None:
    nodes = [
        helper.make_node("SplitToSequence", ["x", "split"], ["parts"], name="split", axis=1),
        helper.make_node("SequenceLength", ["parts"], ["length"]),
        helper.make_node("Sub", ["length", "one"], ["last"]),
        helper.make_node("SequenceAt", ["parts", "last"], ["y"]),
    ]
    model = graph(nodes, {"split": np.array([1, 3]), "one": np.array(1)}, ("batch", 4), shapes={"y": ["batch", "n"]})
    assert "SplitToSequence" in operators(simplify(model))


def folded(strides: list[int]) -> tuple[list[str], bool]:
    """The operators of a Col2Im of 2 x 2 blocks into 4 x 6, simplified, and whether it computes the same."""
    fold = helper.make_node("Col2Im", ["x", "image", "block"], ["y"], name="fold", strides=strides)
    count = np.prod([(size - 2) // step + 1 for size, step in zip((4, 6), strides, strict=True)])
    model = graph([fold], {"image": np.array([4, 6]), "block": np.array([2, 2])}, ("batch", 12, int(count)), opset=18)
    made = simplify(model)
    pixels = random(5, 2, 12, int(count))
    return operators(made), np.array_equal(run(model, pixels)["y"], run(made, pixels)["y"])


def test_blocks_side_by_side_are_put_together_by_moving_them() -> None:
    assert folded([2, 2]) == (["Reshape", "Transpose", "Reshape"], True)


def test_blocks_that_overlap_are_added_up() -> None:
    assert folded([1, 2]) == (["Col2Im"], True)
