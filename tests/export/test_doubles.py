"""Graphs with float64 inside, as an exporter writes Python's numbers."""

from __future__ import annotations

import numpy as np
import onnx
from export_graphs import graph, random, run
from onnx import TensorProto, helper

from edgeq.export.rewrites.doubles import single_precision
from edgeq.export.stage import fold_graph


def boxes() -> onnx.ModelProto:
    """x times strides that are doubles, given as doubles."""
    nodes = [
        helper.make_node("Cast", ["x"], ["wide"], to=TensorProto.DOUBLE),
        helper.make_node("Mul", ["wide", "strides"], ["y"], name="pixels"),
    ]
    made = graph(nodes, {"strides": np.array([8.0, 16.0, 32.0])}, ("batch", 3))
    made.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    return made


def test_an_answer_in_doubles_becomes_float32() -> None:
    model = boxes()
    made, _ = fold_graph(model)
    pixels = random(0, 2, 3)
    given, right = run(made, pixels)["y"], run(model, pixels)["y"]
    assert [str(values.dtype) for values in (given, right)] == ["float32", "float64"]
    np.testing.assert_allclose(given, right, rtol=1e-6)
    assert [node.op_type for node in made.graph.node] == ["Mul"]


def test_a_graph_without_doubles_is_not_copied() -> None:
    model = graph([helper.make_node("Relu", ["x"], ["y"])], {}, ("batch", 3))
    assert single_precision(model) is model
