"""Rescaling at every point there is changes constants and nothing that the graph computes."""

from __future__ import annotations

from collections.abc import Mapping

import blocks
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgeq.errors import QuantizeError
from edgeq.quantize.equalize.channel_ranges import channel_ranges
from edgeq.quantize.equalize.points import EqualizationPoint, PointLeft, find_points
from edgeq.quantize.equalize.rescale import Rescale, consumer_weights, rescale

IMAGE = (blocks.SIDE, blocks.SIDE)
FORMS: Mapping[str, Mapping[str, bool]] = {
    "exported": {},
    "fused": {"fused": True},
    "written out": {"written_out": True},
    "relu": {"relu": True},
}


def linears(model: onnx.ModelProto) -> frozenset[str]:
    return frozenset(node.name for node in model.graph.node if node.op_type in ("MatMul", "Gemm"))


def places(model: onnx.ModelProto) -> tuple[tuple[EqualizationPoint, ...], tuple[PointLeft, ...]]:
    return find_points(model, IMAGE, linears(model))


def pixels(count: int = 3) -> NDArray[np.float32]:
    return np.random.default_rng(5).standard_normal((count, 3, *IMAGE)).astype(np.float32)


@pytest.mark.parametrize("form", FORMS)
def test_nothing_that_is_computed_changes(form: str) -> None:
    model, rng = blocks.transformer(**FORMS[form]), np.random.default_rng(0)
    points, _ = places(model)
    changes = [
        Rescale.at(point, 2.0 ** rng.uniform(-3, 3, point.channels), rng.standard_normal(point.channels))
        for point in points
    ]
    made = rescale(model, changes)
    before, after = blocks.run(model, pixels()), blocks.run(made, pixels())
    assert np.abs(before - after).max() < 1e-5 * np.ptp(before)
    assert [(node.name, node.op_type) for node in made.graph.node] == [(n.name, n.op_type) for n in model.graph.node]
    for point in points:
        first = next(node for node in made.graph.node if node.name == point.divided[0].node)
        name = first.input[point.divided[0].index]
        assert not np.allclose(blocks.constant(made, name), blocks.constant(model, name)), point.name


def test_the_sites_are_those_where_it_is_exact() -> None:
    points, left = places(blocks.transformer(layers=1))
    assert {point.name: point.kind for point in points} == {
        "0.before": "normalization",
        "0.v": "linear",
        "0.after": "normalization",
    }
    assert [point.name for point in points if point.shifted] == ["0.before", "0.after"]
    reasons = {place.name: place.reason for place in left}
    assert reasons["last"] == "ReduceMean pooled reads it"
    assert "reads it" in reasons["0.up"]  # GELU


def test_a_written_out_normalization_is_found_by_what_it_does() -> None:
    points, _ = places(blocks.transformer(layers=1, written_out=True))
    assert [point.name for point in points] == ["0.before.scaled", "0.v", "0.after.scaled"]
    assert all(point.shifted for point in points if point.kind == "normalization")


def test_with_a_relu_the_first_of_two_linear_layers_is_a_point() -> None:
    points, _ = places(blocks.transformer(layers=1, relu=True))
    assert [consumer.node for point in points for consumer in point.consumers if point.name == "0.up"] == ["0.down"]


def test_sites_are_wanted_only_before_the_layers_named() -> None:
    points, _ = find_points(blocks.transformer(layers=1), IMAGE, frozenset({"0.up"}))
    assert [point.name for point in points] == ["0.after"]


def test_without_a_bias_behind_it_a_site_is_scaled_and_not_shifted() -> None:
    model = blocks.transformer(layers=1)
    nodes = {node.name: node for node in model.graph.node}
    nodes["0.bent"].input[1] = "half"
    for node in model.graph.node:  # the query's bias becomes a product
        if node.name == "0.q.out":
            node.op_type = "Mul"
    shifted = {point.name: bool(point.shifted) for point in places(model)[0]}
    assert shifted["0.before"] is False
    assert shifted["0.after"] is True


def test_what_is_constant_at_one_batch_size_only_is_left_alone() -> None:
    model = blocks.transformer(layers=1)
    nodes = {node.name: node for node in model.graph.node}
    graph = blocks.Graph(np.random.default_rng(0))
    graph.put("first", [0])
    graph.put("sixteen", [blocks.WIDTH])
    shape = graph.add("Shape", ["pixels"], "shape")  # the bias repeated once for each image, to the first of these
    batch = graph.add("Gather", [shape, "first"], "batch")
    wide = graph.add("Expand", ["0.v.b", graph.add("Concat", [batch, "sixteen"], "wanted", axis=0)], "wide")
    row = graph.add("Slice", [wide, "first", graph.put("second", [1]), "first"], "row")
    nodes["0.v.out"].input[0] = row
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in graph.constants.items())
    for node in reversed(graph.nodes):
        model.graph.node.insert(0, node)
    points, left = places(model)
    assert "0.v" not in [point.name for point in points]
    assert {place.name: place.reason for place in left}[
        "0.v"
    ] == "input 0 of 0.v.out is constant only at one batch size"


def test_graphs_inside_nodes_are_left_alone() -> None:
    model = blocks.transformer(layers=1)
    inner = helper.make_graph(
        [helper.make_node("Identity", ["0.before"], ["inside"])],
        "inner",
        [],
        [helper.make_tensor_value_info("inside", onnx.TensorProto.FLOAT, None)],
    )
    truth = numpy_helper.from_array(np.array(True), "truth")
    model.graph.initializer.append(truth)
    branch = helper.make_node("If", ["chosen"], ["branched"], name="branch", then_branch=inner, else_branch=inner)
    model.graph.input.append(helper.make_tensor_value_info("chosen", onnx.TensorProto.BOOL, []))
    model.graph.node.append(branch)
    model.graph.output.append(helper.make_tensor_value_info("branched", onnx.TensorProto.FLOAT, None))
    points, left = places(model)
    assert points == ()
    assert {place.reason for place in left} == {"there are graphs inside nodes"}


def test_a_constant_that_two_layers_share_changes_for_one_of_them() -> None:
    model = blocks.transformer(layers=2)
    nodes = {node.name: node for node in model.graph.node}
    nodes["1.before"].input[1] = "0.before.w"
    point = next(point for point in places(model)[0] if point.name == "0.before")
    made = rescale(model, [Rescale.at(point, np.full(point.channels, 4.0))])
    np.testing.assert_allclose(blocks.run(made, pixels()), blocks.run(model, pixels()), atol=1e-5)
    assert (blocks.constant(made, "0.before.w") == blocks.constant(model, "0.before.w")).all()


def test_a_constant_that_leaves_its_type_is_an_error() -> None:
    model = blocks.transformer(layers=1)
    point = places(model)[0][0]
    with pytest.raises(QuantizeError, match="do not fit in float32"):
        rescale(model, [Rescale.at(point, np.full(point.channels, 1e-40))])


def test_ranges_are_those_of_what_is_read_and_follow_a_change() -> None:
    model = blocks.transformer(layers=1)
    points, _ = places(model)
    before = channel_ranges(model, points, [pixels()], threads=1)
    rng = np.random.default_rng(2)
    point = points[0]
    change = Rescale.at(point, 2.0 ** rng.uniform(-2, 2, point.channels), rng.standard_normal(point.channels))
    after = channel_ranges(rescale(model, [change]), points, [pixels()[:1], pixels()[1:]], threads=1)
    told = change.applied(before[point.name])
    np.testing.assert_allclose(told.low, after[point.name].low, atol=1e-4)
    np.testing.assert_allclose(told.high, after[point.name].high, atol=1e-4)
    assert (after["0.v"].high > after["0.v"].low).all()


def test_weights_are_those_of_the_layers_that_will_be_quantized() -> None:
    model = blocks.transformer(layers=1)
    point = places(model)[0][0]
    largest = {name: np.abs(blocks.constant(model, f"0.{name}.w")).max(axis=1) for name in "qkv"}
    np.testing.assert_allclose(consumer_weights(model, point, frozenset({"0.v"})), largest["v"])
    both = np.maximum(largest["q"], largest["v"])
    np.testing.assert_allclose(consumer_weights(model, point, frozenset({"0.q", "0.v"})), both)
    assert not consumer_weights(model, point, frozenset()).any()
