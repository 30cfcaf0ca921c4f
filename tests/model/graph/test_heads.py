"""Heads behind shapes, decoding and several outputs, on graphs that are never run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgeq.model.graph.head import head_nodes
from edgeq.plan.precision import Precision
from edgeq.plan.rules import plan_classifier

KERNEL, POINT = (8, 8, 3, 3), (8, 8, 1, 1)


def graph(
    nodes: Sequence[tuple[str, list[str], str]], outputs: Sequence[str], **weights: tuple[int, ...]
) -> onnx.ModelProto:
    """Nodes (op, inputs, output) on `x`; each node is called as its output, and `part` splits in two."""
    made = helper.make_graph(
        [
            helper.make_node(op, given, [name, f"{name}2"] if op == "Split" else [name], name=name)
            for op, given, name in nodes
        ],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8, 8, 8])],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


BODY = [("Conv", ["x", "k"], "stem"), ("Relu", ["stem"], "body")]
BRANCHES = [
    *BODY,
    ("Conv", ["body", "k"], "near"),
    ("Conv", ["body", "p"], "far"),
    ("Reshape", ["near", "rows"], "near_rows"),
    ("Transpose", ["far"], "far_rows"),
    ("Concat", ["near_rows", "far_rows"], "all"),
]


def test_every_branch_of_a_detector_is_a_head() -> None:
    decoded = [
        *BRANCHES,
        ("Split", ["all"], "part"),
        ("Sigmoid", ["part"], "scores"),
        ("Sub", ["anchors", "part2"], "corner"),
        ("Mul", ["corner", "anchors"], "boxes"),
        ("Concat", ["boxes", "scores"], "y"),
    ]
    model = graph(decoded, ["y"], k=KERNEL, p=POINT, rows=(3,), anchors=(1,))
    assert head_nodes(model) == ("near", "far")
    precisions = {decision.layer: decision.precision for decision in plan_classifier(model).decisions}
    assert precisions["stem"] is Precision.INT8
    behind = {"near", "far", "near_rows", "far_rows", "all", "part", "scores", "corner", "boxes", "y"}
    assert {precisions[name] for name in behind} == {Precision.FP32}, "coordinates and scores never share a scale"


def test_each_output_has_a_head_of_its_own() -> None:
    nodes = [*BODY, ("Conv", ["body", "p"], "scores"), ("Conv", ["body", "k"], "boxes")]
    model = graph(nodes, ["scores", "boxes"], k=KERNEL, p=POINT)
    assert head_nodes(model) == ("scores", "boxes")
    assert head_nodes(model, ["boxes"]) == ("boxes",)


def test_the_bins_of_boxes_are_the_head_and_not_their_mean_alone() -> None:
    """YOLOv8: a convolution with the numbers 0 to 15 as its weights gives the mean of a softmax over bins."""
    nodes = [*BODY, ("Conv", ["body", "p"], "bins"), ("Reshape", ["bins", "rows"], "each")]
    nodes += [("Softmax", ["each"], "share"), ("Transpose", ["share"], "turned"), ("Conv", ["turned", "m"], "mean")]
    assert head_nodes(graph(nodes, ["mean"], k=KERNEL, p=POINT, rows=(3,), m=(1, 8, 1, 1))) == ("bins", "mean")


def test_masks_are_given_by_the_last_convolution() -> None:
    nodes = [*BODY, ("ConvTranspose", ["body", "k"], "up"), ("Conv", ["up", "k"], "mask"), ("Resize", ["mask"], "y")]
    assert head_nodes(graph(nodes, ["y"], k=KERNEL)) == ("mask",)


def test_a_sum_of_residuals_has_no_head() -> None:
    nodes = [*BODY, ("Conv", ["body", "k"], "branch"), ("Add", ["branch", "body"], "sum"), ("Relu", ["sum"], "y")]
    assert head_nodes(graph(nodes, ["y"], k=KERNEL)) == ()
    behind = [*nodes, ("GlobalAveragePool", ["y"], "pooled"), ("Gemm", ["pooled", "w"], "classes")]
    assert head_nodes(graph(behind, ["classes"], k=KERNEL, w=(8, 8))) == ("classes",)


def test_small_corrections_that_are_summed_are_heads() -> None:
    """RT-DETR: the boxes of each decoder layer are those of the layer before it and a correction."""
    nodes = [*BODY, ("Conv", ["body", "s"], "first"), ("Conv", ["first", "b"], "widened")]
    nodes += [
        ("Add", ["widened", "body"], "next"),
        ("Conv", ["next", "s"], "second"),
        ("Add", ["first", "second"], "y"),
    ]
    model = graph(nodes, ["y"], k=(8, 64, 5, 5), s=(1, 8, 1, 1), b=(8, 1, 1, 1))
    assert head_nodes(model) == ("first", "second")


def test_shapes_that_are_computed_lead_to_no_layer() -> None:
    nodes = [*BODY, ("Conv", ["body", "k"], "other"), ("Shape", ["other"], "size"), ("Conv", ["body", "p"], "map")]
    assert head_nodes(graph([*nodes, ("Reshape", ["map", "size"], "y")], ["y"], k=KERNEL, p=POINT)) == ("map",)
