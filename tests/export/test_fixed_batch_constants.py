"""Other places than reshapes where an exporter writes the number of images that it was given."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from export_graphs import Array, graph, random, run
from numpy.typing import NDArray
from onnx import helper

from edgeq.export.stage import fold_graph

IMAGE = (3, 8, 8)
BATCH = 4


def check(nodes: list[onnx.NodeProto], constants: dict[str, NDArray[Any]], *, opset: int = 17) -> None:
    """Three images at once give what each gives alone in each of the four places of the graph as it came."""
    model = graph(nodes, constants, (BATCH, *IMAGE), opset=opset)
    made, _ = fold_graph(model)
    pixels = random(9, 3, *IMAGE)
    alone = np.concatenate([run(model, np.repeat(one[None], BATCH, axis=0))["y"][:1] for one in pixels])
    np.testing.assert_allclose(run(made, pixels)["y"], alone, rtol=0, atol=1e-6)


def rows(seed: int, *shape: int) -> Array:
    """The same row for each image."""
    return np.repeat(random(seed, 1, *shape), BATCH, axis=0)


@pytest.mark.parametrize("opset", [11, 17])
def test_sizes_of_a_resize(opset: int) -> None:
    """As `interpolate(x, size=...)` is written: the sizes begin with the number of images."""
    resize = helper.make_node("Resize", ["x", "", "", "sizes"], ["y"], name="resize", mode="linear")
    if opset == 11:
        resize.input[1] = "roi"
        resize.input[2] = "scales"
    empty = {"roi": np.zeros(0, np.float32), "scales": np.zeros(0, np.float32)} if opset == 11 else {}
    check([resize], {"sizes": np.array([BATCH, 3, 16, 12]), **empty}, opset=opset)


def test_a_shape_that_is_expanded_to() -> None:
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=1),
        helper.make_node("Expand", ["m", "shape"], ["y"], name="expand"),
    ]
    check(nodes, {"shape": np.array([BATCH, 3, 8, 8])})


@pytest.mark.parametrize("operator", ["Add", "Mul", "Sub"])
def test_rows_beside_images(operator: str) -> None:
    check([helper.make_node(operator, ["x", "rows"], ["y"], name="both")], {"rows": rows(1, *IMAGE)})


def test_queries_that_were_repeated() -> None:
    """As a detector's learned queries: [images, queries, width] times [images, width, places]."""
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["r"], name="reshape"),
        helper.make_node("MatMul", ["queries", "r"], ["y"], name="scores"),
    ]
    check(nodes, {"shape": np.array([BATCH, 3, 64]), "queries": rows(2, 5, 3)})


def test_a_square_matrix_is_no_row_for_each_image() -> None:
    """Its first axis has as many rows as there are images, by chance, and they differ."""
    nodes = [helper.make_node("Mul", ["x", "weight"], ["y"], name="both")]
    made, _ = fold_graph(graph(nodes, {"weight": random(3, BATCH, *IMAGE)}, (BATCH, *IMAGE)))
    assert [list(tensor.dims) for tensor in made.graph.initializer] == [[BATCH, *IMAGE]]


def test_states_that_begin_at_zero() -> None:
    """An LSTM's state has a row for each image; none at all means zeros too."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[2], keepdims=0),
        helper.make_node("Transpose", ["m"], ["t"], perm=[2, 0, 1]),
        helper.make_node("LSTM", ["t", "w", "r", "b", "", "h", "c"], ["all"], name="lstm", hidden_size=2),
        helper.make_node("Squeeze", ["all", "one"], ["s"]),
        helper.make_node("Transpose", ["s"], ["y"], perm=[1, 0, 2]),
    ]
    weights = {"w": random(4, 1, 8, 3), "r": random(5, 1, 8, 2), "b": random(6, 1, 16), "one": np.array([1])}
    states = {name: np.zeros((1, BATCH, 2), np.float32) for name in "hc"}
    check(nodes, {**weights, **states})


def test_states_at_zero_that_are_spread_over_rows_of_images() -> None:
    """As torch writes an LSTM along the rows of a map: zeros for the rows of all images, expanded to as many."""
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["t", "rows"], ["r"]),
        helper.make_node("Transpose", ["r"], ["s"], perm=[1, 0, 2]),
        helper.make_node("Shape", ["s"], ["lengths"]),
        helper.make_node("Gather", ["lengths", "second"], ["count"], axis=0),
        helper.make_node("Concat", ["one", "count", "two"], ["wanted"], axis=0),
        helper.make_node("Expand", ["zeros", "wanted"], ["h"]),
        helper.make_node("LSTM", ["s", "w", "r4", "b", "", "h", "h"], ["all"], name="lstm", hidden_size=2),
        helper.make_node("Squeeze", ["all", "one"], ["squeezed"]),
        helper.make_node("Transpose", ["squeezed"], ["back"], perm=[1, 0, 2]),
        helper.make_node("Reshape", ["back", "map"], ["y"]),
    ]
    weights = {"w": random(4, 1, 8, 3), "r4": random(5, 1, 8, 2), "b": random(6, 1, 16)}
    numbers = {"rows": [-1, 8, 3], "second": [1], "one": [1], "two": [2], "map": [BATCH, 8, 8, 2]}
    constants = {name: np.array(values, np.int64) for name, values in numbers.items()}
    check(nodes, {**weights, **constants, "zeros": np.zeros((1, 8 * BATCH, 2), np.float32)})


@pytest.mark.parametrize("batch", [1, 2])
def test_a_reshape_that_takes_zero_for_no_length(batch: int) -> None:
    """torch's newer exporter sets `allowzero` on every Reshape, whether it has a zero or not."""
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["y"], name="reshape", allowzero=1)]
    model = graph(nodes, {"shape": np.array([batch, 192])}, (batch, *IMAGE), opset=18)
    made, _ = fold_graph(model)
    pixels = random(2, 3, *IMAGE)
    np.testing.assert_array_equal(run(made, pixels)["y"], pixels.reshape(3, 192))
