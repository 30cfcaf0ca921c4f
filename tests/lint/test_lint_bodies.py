"""What is inside of an If, a Loop or a Scan is held to the rules as what stands outside."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from lint_graphs import found, made, network, node
from onnx import TensorProto, helper, numpy_helper
from test_lint_rules import CASES

from edgeq.errors import ModelError
from edgeq.lint.run import lint_file

WHOLE_FILE = ("TRT008", "TRT301")
"""Said of a whole file, or of its inputs."""


def branch(model: onnx.ModelProto, *, stored: bool) -> onnx.ModelProto:
    """The model's nodes in a branch of an If, whose other branch gives zeros.

    Args:
        model: with one input, `x`.
        stored: whether the branch stores the constants, or reads those around it.
    """
    graph = model.graph
    inside = helper.make_graph(graph.node, "then", [], graph.output, graph.initializer if stored else [])
    zeros = [helper.make_node("Constant", [], [value.name], value_float=0.0) for value in graph.output]
    other = helper.make_graph(zeros, "else", [], graph.output)
    both = helper.make_node(
        "If", ["which"], [f"if.{value.name}" for value in graph.output], "If", then_branch=inside, else_branch=other
    )
    around = helper.make_graph(
        [both],
        "test",
        graph.input,
        [onnx.ValueInfoProto(name=name) for name in both.output],
        [*([] if stored else graph.initializer), numpy_helper.from_array(np.array(True), "which")],
    )
    return helper.make_model(around, opset_imports=model.opset_import, ir_version=model.ir_version)


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("number", [number for number in CASES if number not in WHOLE_FILE])
def test_what_breaks_a_rule_breaks_it_in_a_branch(number: str, stored: bool) -> None:
    make, broken = CASES[number]
    inside = {
        rule: [where if where == "graph" else f"If.then_branch/{where}" for where in places]
        for rule, places in broken.items()
    }
    assert found(branch(make(), stored=stored)) == inside


@pytest.mark.parametrize("stored", [True, False])
def test_a_network_that_keeps_to_every_rule_does_so_in_a_branch(stored: bool) -> None:
    assert found(branch(made(*network()), stored=stored)) == {}


def looped(*nodes: onnx.NodeProto, kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """Nodes that make `next` of `state` (and `x`), three times."""
    values = [
        helper.make_tensor_value_info("turn", TensorProto.INT64, []),
        helper.make_tensor_value_info("going", TensorProto.BOOL, []),
        onnx.ValueInfoProto(name="state"),
    ]
    ends = [onnx.ValueInfoProto(name=name) for name in ("still", "next")]
    body = helper.make_graph([node("Identity", ["going"], "still"), *nodes], "body", values, ends)
    loop = helper.make_node("Loop", ["three", "", "x"], ["y"], "Loop", body=body)
    return made([loop], {"three": np.array(3)}, kind=kind)


def test_a_loop_whose_operator_the_parser_lacks() -> None:
    assert found(looped(node("Bernoulli", ["state"], "drawn"), node("Add", ["drawn", "x"], "next"))) == {
        "TRT001": ["Loop.body/drawn"]
    }


def test_types_reach_what_a_loop_carries() -> None:
    wide = looped(node("Mul", ["state", "x"], "next"), kind=TensorProto.DOUBLE)
    assert found(wide)["TRT004"] == ["Loop", "Loop.body/next"]


def test_a_branch_in_a_loop() -> None:
    inner = [
        helper.make_graph([node(name, ["state"], "given")], name, [], [onnx.ValueInfoProto(name="given")])
        for name in ("Relu", "Bernoulli")
    ]
    both = helper.make_node("If", ["going"], ["next"], "Inner", then_branch=inner[0], else_branch=inner[1])
    assert found(looped(both)) == {"TRT001": ["Loop.body/Inner.else_branch/given"]}


def test_what_is_computed_from_a_shape_is_no_number_of_the_image(tmp_path: Path) -> None:
    """A size in float64 around a branch: what the branch makes of it is no activation."""
    inside = helper.make_graph(
        [node("Mul", ["size", "size"], "square"), node("Cast", ["square"], "given", to=TensorProto.FLOAT)],
        "then",
        [],
        [onnx.ValueInfoProto(name="given")],
    )
    nodes = [
        node("Shape", ["x"], "shape"),
        node("Cast", ["shape"], "size", to=TensorProto.DOUBLE),
        helper.make_node("If", ["which"], ["four"], "If", then_branch=inside, else_branch=inside),
        node("Reshape", ["four", "one"], "plain"),
        node("Mul", ["x", "plain"], "y"),
    ]
    model = made(nodes, {"which": np.array(True), "one": np.array([1, 4, 1, 1])}, shape=(1, 4, 8, 8))
    assert "TRT004" not in found(model)
    onnx.save(model, tmp_path / "model.onnx")
    assert lint_file(tmp_path / "model.onnx").nodes == 9


def _circle() -> onnx.ModelProto:
    return looped(node("Relu", ["b"], "a"), node("Relu", ["a"], "b"), node("Add", ["a", "state"], "next"))


def _pair_without_scale() -> onnx.ModelProto:
    return looped(node("QuantizeLinear", ["state"], "q"), node("DequantizeLinear", ["q"], "next"))


@pytest.mark.parametrize("make", [_circle, _pair_without_scale])
def test_what_is_no_whole_graph_inside_is_refused(make: object, tmp_path: Path) -> None:
    assert callable(make)
    onnx.save(make(), tmp_path / "model.onnx")
    with pytest.raises(ModelError, match=r"model\.onnx"):
        lint_file(tmp_path / "model.onnx")
