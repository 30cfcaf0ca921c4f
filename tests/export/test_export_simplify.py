"""Simplification: what goes, what must stay, and that the rest computes the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from export_graphs import assert_same, graph, operators, random, run
from onnx import TensorProto, helper

from edgeq.errors import ExportError
from edgeq.export.simplify import simplify

IMAGE: tuple[int | str, ...] = ("batch", 2, 4, 4)
PIXELS = random(3, 3, 2, 4, 4)


def node(op: str, inputs: str, outputs: str, **attributes: object) -> onnx.NodeProto:
    """A node named after its first output; `_` stands for an input left out."""
    names = ["" if name == "_" else name for name in inputs.split()]
    made = outputs.split()
    return helper.make_node(op, names, made, name=f"make_{made[0]}", **attributes)  # type: ignore[arg-type]


def integers(*values: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array(values, dtype=np.int64)


def test_computed_constants_become_initializers() -> None:
    nodes = [node("Add", "a a", "b"), node("Cast", "b", "c", to=TensorProto.FLOAT), node("Mul", "x c", "y")]
    model = graph(nodes, {"a": np.arange(4)}, IMAGE)
    source = model.SerializeToString()
    made = simplify(model)
    assert operators(made) == ["Mul"]
    assert [tensor.name for tensor in made.graph.initializer] == ["c"]
    assert model.SerializeToString() == source
    assert_same(model, made, PIXELS)


def test_shape_of_fixed_axes_is_folded_and_the_batch_is_not() -> None:
    nodes = [
        node("Shape", "x", "s"),
        node("Gather", "s one", "channels"),
        node("Gather", "s zero", "images"),
        node("Concat", "images channels rest", "shape", axis=0),
        node("Reshape", "x shape", "y"),
    ]
    model = graph(nodes, {"zero": integers(0), "one": integers(1), "rest": integers(16)}, IMAGE)
    made = simplify(model)
    assert operators(made) == ["Reshape"]
    assert made.graph.input[0] == model.graph.input[0]
    for images in (1, 5):
        assert_same(model, made, random(images, images, 2, 4, 4))


def test_reshape_to_two_unknown_axes_is_left() -> None:
    nodes = [node("Shape", "x", "shape"), node("Abs", "x", "a"), node("Reshape", "a shape", "y")]
    model = graph(nodes, {}, ("batch", "height"))
    made = simplify(model)
    assert sorted(operators(made)) == ["Abs", "Reshape", "Shape"]
    assert_same(model, made, random(1, 3, 5))


@pytest.mark.parametrize(
    "idle",
    [
        node("Identity", "a", "b"),
        node("Dropout", "a", "b"),
        node("Dropout", "a ratio no", "b"),
        node("Dropout", "a ratio _", "b mask"),
        node("Cast", "a", "b", to=TensorProto.FLOAT),
        node("Pad", "a nothing", "b"),
        node("Transpose", "a", "b", perm=[0, 1, 2, 3]),
        node("Concat", "a", "b", axis=1),
        node("Sum", "a", "b"),
    ],
    ids=lambda item: f"{item.op_type}-{len(item.input)}",
)
def test_no_ops_go(idle: onnx.NodeProto) -> None:
    constants = {"ratio": np.array(0.5, dtype=np.float32), "no": np.array(False), "nothing": integers(*[0] * 8)}
    model = graph([node("Abs", "x", "a"), idle, node("Sqrt", "b", "y")], constants, IMAGE)
    made = simplify(model)
    assert operators(made) == ["Abs", "Sqrt"]
    assert_same(model, made, PIXELS)


@pytest.mark.parametrize(
    "busy",
    [
        node("Cast", "a", "b", to=TensorProto.FLOAT16),
        node("Pad", "a border", "b"),
        node("Transpose", "a", "b", perm=[0, 1, 3, 2]),
        node("Transpose", "a", "b"),
        node("Concat", "a a", "b", axis=1),
        node("Sum", "a a", "b"),
    ],
    ids=lambda item: f"{item.op_type}-{len(item.input)}",
)
def test_what_does_something_stays(busy: onnx.NodeProto) -> None:
    nodes = [node("Abs", "x", "a"), busy, node("Sqrt", "b", "c"), node("Cast", "c", "y", to=TensorProto.FLOAT)]
    model = graph(nodes, {"border": integers(0, 0, 0, 0, 0, 0, 1, 0)}, IMAGE)
    made = simplify(model)
    assert busy.name in [item.name for item in made.graph.node]
    assert_same(model, made, PIXELS)


def test_dropout_in_training_stays() -> None:
    constants = {"ratio": np.array(0.5, dtype=np.float32), "yes": np.array(True)}
    model = graph([node("Abs", "x", "a"), node("Dropout", "a ratio yes", "y")], constants, IMAGE)
    assert operators(simplify(model)) == ["Abs", "Dropout"]


def test_dropout_whose_mask_is_read_stays() -> None:
    nodes = [node("Abs", "x", "a"), node("Dropout", "a", "y mask"), node("Where", "mask a x", "z")]
    model = graph(nodes, {}, IMAGE, outputs=("y", "z"))
    made = simplify(model)
    assert operators(made) == ["Abs", "Dropout", "Where"]
    assert_same(model, made, PIXELS)


def test_identity_of_another_domain_is_not_known() -> None:
    other = helper.make_node("Identity", ["x"], ["a"], name="other", domain="of")
    model = graph([other, node("Abs", "a", "y")], {}, IMAGE, shapes={"y": IMAGE})
    model.opset_import.append(helper.make_opsetid("of", 1))
    assert operators(simplify(model)) == ["Identity", "Abs"]


def test_what_one_round_uncovers_the_next_one_uses() -> None:
    """Inference does not follow Neg: only once it is a constant is the size of `r` known."""
    nodes = [
        node("Neg", "negated", "shape"),
        node("Reshape", "x shape", "r"),
        node("Shape", "r", "s"),
        node("Gather", "s one", "width"),
        node("Concat", "width rest", "last", axis=0),
        node("Reshape", "r last", "y"),
    ]
    model = graph(nodes, {"negated": integers(1, -16), "one": integers(1), "rest": integers(-1)}, IMAGE)
    made = simplify(model)
    assert operators(made) == ["Reshape", "Reshape"]
    assert_same(model, made, PIXELS)


def test_no_op_before_an_output_leaves_the_output_its_name() -> None:
    nodes = [node("Abs", "x", "a"), node("Sqrt", "a", "z"), node("Identity", "a", "y")]
    model = graph(nodes, {}, IMAGE, outputs=("y", "z"))
    made = simplify(model)
    assert operators(made) == ["Abs", "Sqrt"]
    assert [value.name for value in made.graph.output] == ["y", "z"]
    assert_same(model, made, PIXELS)


def test_no_op_from_input_to_output_stays() -> None:
    model = graph([node("Identity", "x", "y")], {}, IMAGE)
    made = simplify(model)
    assert operators(made) == ["Identity"]
    assert_same(model, made, PIXELS)


def test_no_op_between_two_outputs_stays() -> None:
    model = graph([node("Abs", "x", "a"), node("Identity", "a", "y")], {}, IMAGE, outputs=("a", "y"))
    made = simplify(model)
    assert operators(made) == ["Abs", "Identity"]
    assert_same(model, made, PIXELS)


def test_a_chain_of_no_ops_goes() -> None:
    nodes = [node("Abs", "x", "a"), node("Identity", "a", "b"), node("Dropout", "b", "c"), node("Identity", "c", "y")]
    model = graph(nodes, {}, IMAGE)
    made = simplify(model)
    assert operators(made) == ["Abs"]
    assert_same(model, made, PIXELS)


def test_no_op_that_a_branch_reads_goes() -> None:
    def branch(op: str) -> onnx.GraphProto:
        return helper.make_graph([node(op, "b", op)], op, [], [helper.make_tensor_value_info(op, 1, None)])

    choice = helper.make_node("If", ["any"], ["y"], name="if", then_branch=branch("Sqrt"), else_branch=branch("Neg"))
    nodes = [node("Abs", "x", "a"), node("Identity", "a", "b"), node("ReduceMax", "x", "m", keepdims=0)]
    nodes += [node("Cast", "m", "any", to=TensorProto.BOOL), choice]
    model = graph(nodes, {}, IMAGE, shapes={"y": IMAGE})
    made = simplify(model)
    assert operators(made) == ["Abs", "ReduceMax", "Cast", "If"]
    assert_same(model, made, PIXELS)


def test_dead_code_goes() -> None:
    model = graph([node("Abs", "x", "y"), node("Mul", "x w", "unread")], {"w": random(1, 4)}, IMAGE)
    made = simplify(model)
    assert operators(made) == ["Abs"]
    assert not made.graph.initializer


def test_unnamed_nodes_get_the_name_of_their_output() -> None:
    model = graph([helper.make_node("Abs", ["x"], ["a"]), node("Sqrt", "a", "y")], {}, IMAGE)
    assert [item.name for item in simplify(model).graph.node] == ["a", "make_y"]


def test_local_functions_are_inlined() -> None:
    body = helper.make_function(
        "local", "Twice", ["p"], ["q"], [helper.make_node("Add", ["p", "p"], ["q"])], [helper.make_opsetid("", 17)]
    )
    model = graph([helper.make_node("Twice", ["x"], ["y"], domain="local")], {}, IMAGE, shapes={"y": IMAGE})
    model.opset_import.append(helper.make_opsetid("local", 1))
    model.functions.append(body)
    made = simplify(model)
    assert operators(made) == ["Add"]
    np.testing.assert_array_equal(run(made, PIXELS)["y"], 2 * PIXELS)


@pytest.mark.parametrize(("given", "wanted"), [(3, 4), (8, 8), (10, 10), (13, 10)])
def test_ir_version_is_one_that_runtimes_read(given: int, wanted: int) -> None:
    model = graph([node("Abs", "x", "y")], {}, IMAGE)
    model.ir_version = given
    assert simplify(model).ir_version == wanted


def test_opset_and_metadata_are_kept() -> None:
    model = graph([node("Abs", "x", "y")], {}, IMAGE, opset=13)
    model.metadata_props.add(key="source", value="somewhere")
    made = simplify(model)
    assert made.opset_import == model.opset_import
    assert made.metadata_props == model.metadata_props


def test_shapes_that_the_file_claims_are_not_believed() -> None:
    """Believed, the lie would fix the batch at 7."""
    nodes = [node("Abs", "x", "a"), node("Shape", "a", "s"), node("Reshape", "x s", "y")]
    model = graph(nodes, {}, ("batch", 3))
    model.graph.value_info.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, [7, 3]))
    assert_same(model, simplify(model), random(1, 2, 3))


def test_output_shapes_that_the_file_claims_are_not_believed() -> None:
    """Believed, the lie would reshape to [16, -1]; the true width is the largest axis of the input."""
    nodes = [
        node("Shape", "x", "s"),
        node("ReduceMax", "s", "width"),
        node("Concat", "rest width", "shape", axis=0),
        node("Reshape", "x shape", "y"),
    ]
    model = graph(nodes, {"rest": integers(-1)}, IMAGE, shapes={"y": (16, "rows")})
    made = simplify(model)
    assert run(made, PIXELS)["y"].shape == (24, 4)
    assert made.graph.output == model.graph.output


def test_a_cycle_is_an_error() -> None:
    nodes = [node("Add", "x b", "a"), node("Abs", "a", "b"), node("Sqrt", "a", "y")]
    with pytest.raises(ExportError, match="the graph is not well formed") as caught:
        simplify(graph(nodes, {}, IMAGE, shapes={"y": IMAGE}))
    assert "Cycle" in caught.value.causes[0]


def test_a_node_that_onnx_runtime_cannot_compute_does_not_stop_the_others() -> None:
    nodes = [
        node("Add", "a a", "b"),
        helper.make_node("Unheard", ["a"], ["u"], name="unheard", domain="of"),
        node("Mul", "x b", "m"),
        node("Add", "m u", "y"),
    ]
    model = graph(nodes, {"a": random(1, 4)}, IMAGE, shapes={"y": IMAGE})
    model.opset_import.append(helper.make_opsetid("of", 1))
    made = simplify(model)
    assert operators(made) == ["Unheard", "Mul", "Add"]
    assert "b" in [tensor.name for tensor in made.graph.initializer]


def test_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    nodes = [node("Unsqueeze", "a axes", "b"), node("Mul", "x b", "y")]
    simplify(graph(nodes, {"a": random(1, 4), "axes": integers(0)}, IMAGE))
    assert capfd.readouterr() == ("", "")


WEIGHTS = {"w": random(4, 3, 2, 3, 3), "u": random(5, 2, 2, 1, 1)}


def padded(pads: list[int], *convolutions: onnx.NodeProto, **attributes: object) -> onnx.ModelProto:
    constants: dict[str, np.ndarray[Any, Any]] = {"pads": integers(*pads), "rows": integers(-2)}
    constants |= {"zero": np.zeros((), np.float32), "one": np.ones((), np.float32)}
    return graph([node("Pad", "x pads", "p", **attributes), *convolutions], {**WEIGHTS, **constants}, IMAGE)


@pytest.mark.parametrize("own", [{}, {"pads": [1, 0, 0, 2]}])
def test_padding_goes_into_a_convolution(own: dict[str, list[int]]) -> None:
    model = padded([0, 0, 0, 1, 0, 0, 2, 1], node("Conv", "p w", "y", strides=[2, 1], **own))
    made = simplify(model)
    assert operators(made) == ["Conv"]
    assert_same(model, made, PIXELS)


def test_padding_of_named_axes_goes_into_a_convolution() -> None:
    """Rows by a negative number, one before and two behind."""
    convolution = node("Conv", "p w", "y")
    model = padded([1, 2], convolution)
    model.graph.node[0].input.extend(["zero", "rows"])
    model.opset_import[0].version = 18
    made = simplify(model)
    assert operators(made) == ["Conv"]
    assert_same(model, made, PIXELS)


def test_padding_goes_into_all_convolutions_that_read_it() -> None:
    model = padded(
        [0, 0, 1, 1, 0, 0, 1, 1],
        node("Conv", "p w", "a"),
        node("Conv", "p w", "b", pads=[1] * 4),
        node("Abs", "b", "y"),
    )
    model.graph.output.append(helper.make_tensor_value_info("a", TensorProto.FLOAT, None))
    made = simplify(model)
    assert sorted(operators(made)) == ["Abs", "Conv", "Conv"]
    assert_same(model, made, PIXELS)


@pytest.mark.parametrize(
    ("pads", "readers", "attributes", "fill"),
    [
        ([0, 0, 1, 1, 0, 0, 1, 1], [node("Conv", "p w", "y")], {"mode": "reflect"}, ""),
        ([0, 0, 1, 1, 0, 0, 1, 1], [node("Conv", "p w", "y")], {}, "one"),
        ([0, 0, -1, 0, 0, 0, 0, 0], [node("Conv", "p w", "y")], {}, ""),
        ([1, 0, 1, 1, 0, 0, 1, 1], [node("Conv", "p w", "y")], {}, ""),
        ([0, 0, 1, 1, 0, 0, 1, 1], [node("Conv", "p w", "y", auto_pad="SAME_UPPER")], {}, ""),
        ([0, 0, 1, 1, 0, 0, 1, 1], [node("AveragePool", "p", "y", kernel_shape=[2, 2])], {}, ""),
        ([0, 0, 1, 1, 0, 0, 1, 1], [node("Conv", "p u", "a"), node("Add", "a p", "y")], {}, ""),
    ],
    ids=["mirrored", "of ones", "cut off", "an image more", "own rule", "no convolution", "read by others, too"],
)
def test_padding_that_is_no_convolutions(
    pads: list[int], readers: list[onnx.NodeProto], attributes: dict[str, object], fill: str
) -> None:
    model = padded(pads, *readers, **attributes)
    model.graph.node[0].input.extend([fill] if fill else [])
    made = simplify(model)
    assert "Pad" in operators(made)
    assert_same(model, made, PIXELS)
