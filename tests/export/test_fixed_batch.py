"""Graphs that were exported for a fixed number of images, and take any number afterwards."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from export_graphs import Array, graph, operators, random, run
from numpy.typing import NDArray
from onnx import helper

from edgeq.errors import ExportError
from edgeq.export.stage import _prove_batch, fold_graph

IMAGE = (3, 8, 8)


def network(batch: int, shape: list[int], *, dynamic: bool = False) -> onnx.ModelProto:
    """Conv, Reshape to `shape`, Relu."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv"),
        helper.make_node("Reshape", ["c", "shape"], ["r"], name="reshape"),
        helper.make_node("Relu", ["r"], ["y"], name="relu"),
    ]
    constants: dict[str, NDArray[Any]] = {"w": random(1, 4, 3, 3, 3), "shape": np.array(shape, np.int64)}
    return graph(nodes, constants, ("batch" if dynamic else batch, *IMAGE), shapes={"y": ["n"] * len(shape)})


def alone(model: onnx.ModelProto, pixels: Array, batch: int) -> Array:
    """What the graph as it came gives for each image by itself, in each place of its batch."""
    return np.concatenate([run(model, np.repeat(one[None], batch, axis=0))["y"][:1] for one in pixels])


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("rest", [[144], [-1], [4, 36], [4, -1, 6]])
def test_a_reshape_that_holds_the_batch(batch: int, rest: list[int]) -> None:
    model = network(batch, [batch, *rest])
    made, _ = fold_graph(model)
    pixels = random(2, 3, *IMAGE)
    np.testing.assert_allclose(run(made, pixels)["y"], alone(model, pixels, batch), rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_reshape_that_splits_images_into_heads_and_joins_them(batch: int) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Reshape", ["c", "split"], ["s"]),
        helper.make_node("Softmax", ["s"], ["p"], axis=-1),
        helper.make_node("Reshape", ["p", "join"], ["y"]),
    ]
    shapes = {"split": np.array([batch * 2, 2, 36]), "join": np.array([batch, 4, 6, 6])}
    model = graph(nodes, {"w": random(1, 4, 3, 3, 3), **shapes}, (batch, *IMAGE))
    pixels = random(2, 3, *IMAGE)
    made, _ = fold_graph(model)
    np.testing.assert_allclose(run(made, pixels)["y"], alone(model, pixels, batch), rtol=0, atol=1e-6)


def test_a_graph_that_only_says_that_it_is_dynamic() -> None:
    model = network(1, [1, 144], dynamic=True)
    pixels = random(2, 3, *IMAGE)
    made, _ = fold_graph(model)
    np.testing.assert_allclose(run(made, pixels)["y"], alone(model, pixels, 1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("batch", [1, 2])
def test_a_class_token_that_was_repeated(batch: int) -> None:
    """As a vision transformer without dynamic axes: a constant with a row for each image beside the patches."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"]),
        helper.make_node("Reshape", ["c", "shape"], ["r"]),
        helper.make_node("Transpose", ["r"], ["t"], perm=[0, 2, 1]),
        helper.make_node("Concat", ["token", "t"], ["y"], axis=1),
    ]
    token = np.repeat(random(4, 1, 1, 4), batch, axis=0)
    constants: dict[str, NDArray[Any]] = {"w": random(1, 4, 3, 3, 3), "shape": np.array([batch, 4, 36]), "token": token}
    model = graph(nodes, constants, (batch, *IMAGE))
    made, _ = fold_graph(model)
    pixels = random(2, 3, *IMAGE)
    np.testing.assert_allclose(run(made, pixels)["y"], alone(model, pixels, batch), rtol=0, atol=1e-6)


def test_rows_that_differ_are_not_repeated() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Concat", ["r", "other"], ["y"], axis=1)]
    made, _ = fold_graph(graph(nodes, {"other": random(4, 2, *IMAGE)}, (2, *IMAGE)))
    assert operators(made) == ["Relu", "Concat"]


def test_a_dynamic_graph_keeps_its_reshapes() -> None:
    model = network(1, [-1, 144], dynamic=True)
    made, _ = fold_graph(model)
    shape = next(node for node in made.graph.node if node.op_type == "Reshape").input[1]
    assert next(onnx.numpy_helper.to_array(one) for one in made.graph.initializer if one.name == shape).tolist() == [
        *(-1, 144)
    ]


def test_a_graph_that_mixes_images_is_refused() -> None:
    def mixed(pixels: Array) -> tuple[Array, ...]:
        return (np.broadcast_to(pixels.mean(axis=(0, 2, 3)), (len(pixels), 3)),)

    with pytest.raises(ExportError, match="three images at once give other answers"):
        _prove_batch(mixed, random(0, 4, *IMAGE))


def test_a_graph_that_takes_one_image_is_refused() -> None:
    model = network(1, [1, 144])
    with pytest.raises(ExportError, match="does not run on a batch of three images") as caught:
        _prove_batch(lambda pixels: (run(model, pixels)["y"],), random(0, 2, *IMAGE))
    assert "exported with a fixed batch size" in caught.value.causes[0]
