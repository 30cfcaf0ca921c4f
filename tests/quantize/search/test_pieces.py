"""Where a graph can be cut, and that its pieces compute what it computes."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import pytest
from chains import attention_block, model_of, pooled_chain
from networks import SIDE, tiny_network
from numpy.typing import NDArray
from onnx import TensorProto, helper
from text_towers import CONTEXT, answers, captions, clip_tower, siglip_tower

from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.quantize.search.pieces import Cutter


def run(model: onnx.ModelProto, values: NDArray[np.float32]) -> NDArray[np.float32]:
    engine = OnnxRuntimeEngine(model.SerializeToString())
    result: NDArray[np.float32] = engine.run({engine.inputs[0]: values})[engine.outputs[0]]
    return result


def images(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def cuts(model: onnx.ModelProto) -> list[str]:
    return [cut.tensor for cut in Cutter(model).cuts]


def never_cut() -> onnx.ModelProto:
    """(x + 1) * x: the input is read to the end."""
    nodes = [
        helper.make_node("Add", ["x", "one"], ["more"], name="more"),
        helper.make_node("Mul", ["more", "x"], ["y"], name="product"),
    ]
    return model_of(nodes, {"one": np.ones(1, np.float32)}, ["n", 2], ["n", 2])


def test_no_cut_lies_inside_a_residual_block() -> None:
    before, behind = ["pixel_values", "stem", "stem_bn", "stem_relu"], ["residual", "residual_relu", "pooled", "flat"]
    assert cuts(tiny_network()) == [*before, *behind, "logits"]


def test_no_cut_lies_inside_attention_or_beside_it() -> None:
    assert cuts(attention_block()) == ["x", "middle", "y"]


def test_a_graph_without_cuts_is_one_piece() -> None:
    model = never_cut()
    assert cuts(model) == ["x", "y"]
    whole = Cutter(model).extract("x", "y")
    np.testing.assert_array_equal(run(whole, images(3, 2)), run(model, images(3, 2)))


def test_a_tensor_of_integers_is_no_cut() -> None:
    nodes = [
        helper.make_node("ArgMax", ["x"], ["place"], name="place", axis=1),
        helper.make_node("Cast", ["place"], ["y"], name="number", to=TensorProto.FLOAT),
    ]
    assert cuts(model_of(nodes, {}, ["n", 5], ["n", 1])) == ["x", "y"]


@pytest.mark.parametrize("tower", [clip_tower, siglip_tower])
def test_a_text_tower_is_cut_between_its_layers(tower: Callable[[], onnx.ModelProto]) -> None:
    """Though its mask is read in each, and the place of a text's end behind all; pieces that need them get the ids."""
    model, ids = tower(), captions(1, length=CONTEXT)["0000"]
    cutter = Cutter(model)
    tensors = [cut.tensor for cut in cutter.cuts]
    assert {f"/text_model/encoder/layers.{layer}/Add_1_output_0" for layer in (0, 1)} <= set(tensors)
    values: NDArray[Any] = ids
    for source, target in pairwise(tensors):
        engine = OnnxRuntimeEngine(cutter.extract(source, target).SerializeToString(), threads=1)
        first, *others = engine.inputs
        assert (first, others) in ((source, []), (source, ["input_ids"]))
        values = engine.run({first: values, **dict.fromkeys(others, ids)})[engine.outputs[0]]
    np.testing.assert_allclose(values, answers(model, {"one": ids}), rtol=1e-4, atol=1e-5)


def test_a_shape_of_what_was_multiplied_is_in_the_way() -> None:
    """To know it again, the product would have to be made again."""
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["a"], name="a"),
        helper.make_node("Shape", ["a"], ["size"], name="size"),
        helper.make_node("Relu", ["a"], ["b"], name="b"),
        helper.make_node("Reshape", ["b", "size"], ["y"], name="y"),
    ]
    model = model_of(nodes, {"weight": np.ones((2, 2), np.float32)}, ["n", 2], ["n", 2])
    assert cuts(model) == ["x", "a", "y"]


def test_what_is_computed_from_constants_is_not_in_the_way() -> None:
    nodes = [
        helper.make_node("Add", ["half", "half"], ["one"], name="one"),
        helper.make_node("Relu", ["x"], ["a"], name="relu"),
        helper.make_node("Mul", ["a", "one"], ["y"], name="times"),
    ]
    model = model_of(nodes, {"half": np.full(1, 0.5, np.float32)}, ["n", 2], ["n", 2])
    assert cuts(model) == ["x", "a", "y"]
    piece = Cutter(model).extract("a", "y")
    np.testing.assert_array_equal(run(piece, images(3, 2)), images(3, 2))


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (tiny_network(), (5, 3, SIDE, SIDE)),
        (pooled_chain(), (5, 3, SIDE, SIDE)),
        (attention_block(), (5, 4, 6)),
    ],
    ids=["residual", "chain", "attention"],
)
def test_the_pieces_chained_are_the_graph(model: onnx.ModelProto, shape: tuple[int, ...]) -> None:
    values = images(*shape)
    expected = run(model, values)
    cutter = Cutter(model)
    for source, target in pairwise(cutter.cuts):
        piece = cutter.extract(source.tensor, target.tensor)
        onnx.checker.check_model(piece, full_check=True)
        values = run(piece, values)
    np.testing.assert_allclose(values, expected, rtol=1e-4, atol=1e-5)


def test_a_piece_holds_its_own_constants_alone() -> None:
    piece = Cutter(pooled_chain()).extract("c", "e")
    assert [node.name for node in piece.graph.node] == ["two", "two_relu"]
    assert [constant.name for constant in piece.graph.initializer] == ["two.weight"]


def test_cutting_leaves_the_model_as_it_is() -> None:
    model = tiny_network()
    before = model.SerializeToString(deterministic=True)
    Cutter(model).extract("stem_relu", "residual")
    assert model.SerializeToString(deterministic=True) == before
