"""BatchNorm folding: each rule against ONNX Runtime, and each refusal by its reason."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from export_graphs import Array, assert_same, batchnorm, graph, operators, parameters, random, run
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from edgeq.errors import ExportError
from edgeq.export.fold import KEPT_BY_PLAN, Fold, FoldReport, KeptBatchNorm, fold_batchnorm, require_folded

IMAGE: tuple[int | str, ...] = ("batch", 4, 7, 6)
PIXELS = random(9, 2, 4, 7, 6)
ROWS: tuple[int | str, ...] = ("batch", 4)
VECTORS = random(9, 5, 4)


def conv(weight: str, output: str = "c", data: str = "x", name: str = "conv", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node("Conv", [data, *weight.split()], [output], name=name, **attributes)


def fold_all(model: onnx.ModelProto, x: Array, *rules: str) -> onnx.ModelProto:
    """Fold, and check that nothing is left, that these rules were used, and that it computes the same."""
    source = model.SerializeToString()
    made, report = fold_batchnorm(model)
    assert model.SerializeToString() == source
    assert [fold.rule for fold in report.folded] == list(rules)
    assert (report.before, report.after, report.kept) == (len(rules), 0, ())
    assert "BatchNormalization" not in operators(made)
    onnx.checker.check_model(made)
    assert_same(model, made, x)
    return made


def refuse(model: onnx.ModelProto, *reasons: str) -> FoldReport:
    """Fold, and check that the one BatchNorm `bn` stays, for these reasons, and that the graph is as it was."""
    made, report = fold_batchnorm(model)
    assert (report.before, report.after, report.folded) == (1, 1, ())
    assert report.kept[0].batchnorm == "bn"
    for reason in reasons:
        assert reason in report.kept[0].reason
    assert list(made.graph.node) == list(model.graph.node)
    return report


@pytest.mark.parametrize(
    ("weight", "bias", "attributes"),
    [
        ((6, 4, 3, 3), False, {"pads": [1, 1, 1, 1]}),
        ((6, 4, 3, 2), True, {"strides": [2, 1], "dilations": [1, 2]}),
        ((6, 2, 3, 3), True, {"group": 2, "auto_pad": "SAME_UPPER"}),
        ((8, 1, 3, 3), False, {"group": 4}),
    ],
    ids=["padded", "strided", "grouped", "depthwise"],
)
def test_after_conv(weight: tuple[int, ...], bias: bool, attributes: dict[str, Any]) -> None:
    constants = {"w": random(1, *weight), **parameters("bn", weight[0])}
    if bias:
        constants["b"] = random(2, weight[0])
    nodes = [conv("w b" if bias else "w", **attributes), batchnorm("bn", "c", "y", epsilon=1e-3)]
    made = fold_all(graph(nodes, constants, IMAGE), PIXELS, "after Conv")
    assert operators(made) == ["Conv"]


def test_after_conv_names_what_it_did_and_keeps_names() -> None:
    nodes = [conv("conv.weight"), batchnorm("bn", "c", "y")]
    model = graph(nodes, {"conv.weight": random(1, 6, 4, 3, 3), **parameters("bn", 6)}, IMAGE)
    made, report = fold_batchnorm(model)
    assert report.folded == (Fold("bn", "conv", "after Conv"),)
    assert [tensor.name for tensor in made.graph.initializer] == ["conv.weight", "conv.bias"]
    assert [list(node.output) for node in made.graph.node] == [["y"]]


@pytest.mark.parametrize(("group", "bias"), [(1, True), (2, False), (4, True)])
def test_after_transposed_conv(group: int, bias: bool) -> None:
    constants = {"w": random(1, 4, 3, 3, 3), **parameters("bn", 3 * group)}
    inputs = ["x", "w", "b"] if bias else ["x", "w"]
    if bias:
        constants["b"] = random(2, 3 * group)
    shape: dict[str, Any] = {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}
    up = helper.make_node("ConvTranspose", inputs, ["c"], name="up", group=group, **shape)
    fold_all(graph([up, batchnorm("bn", "c", "y")], constants, IMAGE), PIXELS, "after ConvTranspose")


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("bias", [None, (6,), (1, 6), (1,), (5, 6), ()], ids=str)
def test_after_gemm(transposed: int, bias: tuple[int, ...] | None) -> None:
    constants = {"w": random(1, 6, 4) if transposed else random(1, 4, 6), **parameters("bn", 6)}
    if bias is not None:
        constants["b"] = np.asarray(random(2, *bias), dtype=np.float32)
    inputs = ["x", "w"] if bias is None else ["x", "w", "b"]
    gemm = helper.make_node("Gemm", inputs, ["g"], name="fc", transB=transposed, alpha=0.5, beta=-1.5)
    fold_all(graph([gemm, batchnorm("bn", "g", "y")], constants, ROWS), VECTORS, "after Gemm")


def test_after_gemm_with_transposed_input() -> None:
    gemm = helper.make_node("Gemm", ["x", "w"], ["g"], name="fc", transA=1)
    model = graph([gemm, batchnorm("bn", "g", "y")], {"w": random(1, 5, 6), **parameters("bn", 6)}, (5, "batch"))
    fold_all(model, VECTORS, "after Gemm")


def test_after_matmul_becomes_gemm() -> None:
    matmul = helper.make_node("MatMul", ["x", "w"], ["m"], name="fc")
    model = graph([matmul, batchnorm("bn", "m", "y")], {"w": random(1, 4, 6), **parameters("bn", 6)}, ROWS)
    made = fold_all(model, VECTORS, "after MatMul")
    assert operators(made) == ["Gemm"]


@pytest.mark.parametrize("order", [["m", "b"], ["b", "m"]])
@pytest.mark.parametrize("bias", [(6,), (1, 6), (1,)], ids=str)
def test_after_matmul_and_add(order: list[str], bias: tuple[int, ...]) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="fc"),
        helper.make_node("Add", order, ["a"], name="bias"),
        batchnorm("bn", "a", "y"),
    ]
    model = graph(nodes, {"w": random(1, 4, 6), "b": random(2, *bias), **parameters("bn", 6)}, ROWS)
    made = fold_all(model, VECTORS, "after MatMul")
    assert operators(made) == ["MatMul", "Add"]


def test_matmul_over_tokens_is_refused_because_axis_1_is_not_its_output() -> None:
    matmul = helper.make_node("MatMul", ["x", "w"], ["m"], name="fc")
    model = graph([matmul, batchnorm("bn", "m", "y")], {"w": random(1, 4, 6), **parameters("bn", 6)}, ("batch", 6, 4))
    refuse(model, "MatMul fc is not known to multiply rows by one matrix")


def test_shapes_that_the_file_claims_do_not_make_it_rows() -> None:
    nodes = [helper.make_node("Abs", ["x"], ["a"]), helper.make_node("MatMul", ["a", "w"], ["m"], name="fc")]
    constants = {"w": random(1, 4, 6), **parameters("bn", 6)}
    model = graph([*nodes, batchnorm("bn", "m", "y")], constants, ("batch", 6, 4))
    model.graph.value_info.append(helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, ["batch", 4]))
    refuse(model, "MatMul fc is not known to multiply rows by one matrix")


def test_matmul_that_is_also_read_without_its_bias_is_refused() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="fc"),
        helper.make_node("Add", ["m", "b"], ["a"], name="bias"),
        batchnorm("bn", "a", "y"),
        helper.make_node("Relu", ["m"], ["z"], name="relu"),
    ]
    constants = {"w": random(1, 4, 6), "b": random(2, 6), **parameters("bn", 6)}
    refuse(graph(nodes, constants, ROWS, outputs=("y", "z")), "Add bias stands before it")


def test_add_that_makes_a_stack_of_matrices_is_refused() -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="fc"),
        helper.make_node("Add", ["m", "b"], ["a"], name="bias"),
        batchnorm("bn", "a", "y"),
    ]
    model = graph(nodes, {"w": random(1, 4, 6), "b": random(2, 2, 6, 6), **parameters("bn", 6)}, (6, 4))
    refuse(model, "Add bias adds more than a bias")


@pytest.mark.parametrize("group", [1, 2, 4])
def test_before_conv_without_padding(group: int) -> None:
    nodes = [batchnorm("bn", "x", "n"), conv("w b", "y", "n", group=group, auto_pad="VALID")]
    constants = {"w": random(1, 8, 4 // group, 3, 3), "b": random(2, 8), **parameters("bn", 4)}
    fold_all(graph(nodes, constants, IMAGE), PIXELS, "before Conv")


@pytest.mark.parametrize("padding", [{"pads": [0, 0, 0, 1]}, {"auto_pad": "SAME_LOWER"}], ids=str)
def test_before_conv_with_padding_is_refused(padding: dict[str, Any]) -> None:
    nodes = [batchnorm("bn", "x", "n"), conv("w", "y", "n", **padding)]
    model = graph(nodes, {"w": random(1, 8, 4, 3, 3), **parameters("bn", 4)}, IMAGE)
    refuse(model, "no layer comes before it", "Conv conv after it pads with zeros, and its shift would leak")


def test_before_conv_with_padding_folds_when_there_is_no_shift() -> None:
    nodes = [batchnorm("bn", "x", "n"), conv("w", "y", "n", pads=[1, 1, 1, 1])]
    still = parameters("bn", 4, beta=np.zeros(4, dtype=np.float32))
    still["bn.mean"] = np.zeros(4, dtype=np.float32)
    fold_all(graph(nodes, {"w": random(1, 8, 4, 3, 3), **still}, IMAGE), PIXELS, "before Conv")


@pytest.mark.parametrize("transposed", [0, 1])
def test_before_gemm(transposed: int) -> None:
    constants = {"w": random(1, 6, 4) if transposed else random(1, 4, 6), "b": random(2, 6), **parameters("bn", 4)}
    gemm = helper.make_node("Gemm", ["n", "w", "b"], ["y"], name="fc", transB=transposed, alpha=2.0, beta=0.5)
    fold_all(graph([batchnorm("bn", "x", "n"), gemm], constants, ROWS), VECTORS, "before Gemm")


def test_before_gemm_that_transposes_is_refused() -> None:
    gemm = helper.make_node("Gemm", ["n", "w"], ["y"], name="fc", transA=1)
    model = graph([batchnorm("bn", "x", "n"), gemm], {"w": random(1, 5, 6), **parameters("bn", 4)}, (5, 4))
    refuse(model, "Gemm fc transposes its input")


@pytest.mark.parametrize("with_add", [False, True])
def test_before_matmul(with_add: bool) -> None:
    nodes = [batchnorm("bn", "x", "n"), helper.make_node("MatMul", ["n", "w"], ["m" if with_add else "y"], name="fc")]
    constants = {"w": random(1, 4, 6), **parameters("bn", 4)}
    if with_add:
        nodes.append(helper.make_node("Add", ["b", "m"], ["y"], name="bias"))
        constants["b"] = random(2, 6)
    made = fold_all(graph(nodes, constants, ROWS), VECTORS, "before MatMul")
    assert operators(made) == (["MatMul", "Add"] if with_add else ["Gemm"])


def test_before_gemm_through_pool_and_flatten() -> None:
    nodes = [
        batchnorm("bn", "x", "n"),
        helper.make_node("GlobalAveragePool", ["n"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "w"], ["y"], name="fc"),
    ]
    fold_all(graph(nodes, {"w": random(1, 4, 6), **parameters("bn", 4)}, IMAGE), PIXELS, "before Gemm")


def test_before_gemm_through_flatten_repeats_each_channel() -> None:
    nodes = [
        batchnorm("bn", "x", "n"),
        helper.make_node("Flatten", ["n"], ["f"], name="flat"),
        helper.make_node("Gemm", ["f", "w"], ["y"], name="fc"),
    ]
    model = graph(nodes, {"w": random(1, 4 * 7 * 6, 6), **parameters("bn", 4)}, IMAGE)
    fold_all(model, PIXELS, "before Gemm")


def test_before_gemm_through_flatten_that_mixes_images_is_refused() -> None:
    nodes = [
        batchnorm("bn", "x", "n"),
        helper.make_node("Flatten", ["n"], ["f"], name="flat", axis=2),
        helper.make_node("Gemm", ["f", "w"], ["y"], name="fc"),
    ]
    model = graph(nodes, {"w": random(1, 8, 6), **parameters("bn", 4)}, ("batch", 4, 4, 2))
    refuse(model, "Flatten flat stands after it")


def test_before_transposed_conv_is_refused() -> None:
    up = helper.make_node("ConvTranspose", ["n", "w"], ["y"], name="up", strides=[2, 2])
    model = graph([batchnorm("bn", "x", "n"), up], {"w": random(1, 4, 3, 2, 2), **parameters("bn", 4)}, IMAGE)
    refuse(model, "its shift does not reach each output of ConvTranspose up alike")


def test_as_the_bias_of_a_gemm_is_refused() -> None:
    nodes = [
        batchnorm("bn", "x", "n"),
        helper.make_node("Abs", ["x"], ["a"], name="abs"),
        helper.make_node("Gemm", ["a", "w", "n"], ["y"], name="fc"),
    ]
    refuse(graph(nodes, {"w": random(1, 4, 4), **parameters("bn", 4)}, ROWS), "Gemm fc stands after it")


def test_between_relu_and_conv_goes_into_the_next_one() -> None:
    nodes = [
        conv("w1", pads=[1, 1, 1, 1], name="one"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        batchnorm("bn", "r", "n"),
        conv("w2", "y", "n", name="two"),
    ]
    constants = {"w1": random(1, 6, 4, 3, 3), "w2": random(2, 5, 6, 3, 3), **parameters("bn", 6)}
    fold_all(graph(nodes, constants, IMAGE), PIXELS, "before Conv")


def test_nonlinearity_between_is_named() -> None:
    nodes = [conv("w"), helper.make_node("Relu", ["c"], ["r"], name="relu"), batchnorm("bn", "r", "y")]
    model = graph(nodes, {"w": random(1, 6, 4, 3, 3), **parameters("bn", 6)}, IMAGE)
    refuse(model, "Relu relu stands before it", "y is an output of the graph")


def test_two_after_one_conv() -> None:
    nodes = [conv("w"), batchnorm("first", "c", "n"), batchnorm("second", "n", "y")]
    constants = {"w": random(1, 6, 4, 3, 3), **parameters("first", 6, 1), **parameters("second", 6, 2)}
    fold_all(graph(nodes, constants, IMAGE), PIXELS, "after Conv", "after Conv")


def test_two_before_one_conv_need_a_second_round() -> None:
    nodes = [batchnorm("first", "x", "a"), batchnorm("second", "a", "n"), conv("w", "y", "n")]
    constants = {"w": random(1, 6, 4, 3, 3), **parameters("first", 4, 1), **parameters("second", 4, 2)}
    made = fold_all(graph(nodes, constants, IMAGE), PIXELS, "before Conv", "before Conv")
    assert operators(made) == ["Conv"]


def test_before_and_after_one_conv() -> None:
    nodes = [batchnorm("before", "x", "n"), conv("w", "c", "n"), batchnorm("after", "c", "y")]
    constants = {"w": random(1, 6, 4, 3, 3), **parameters("before", 4, 1), **parameters("after", 6, 2)}
    fold_all(graph(nodes, constants, IMAGE), PIXELS, "before Conv", "after Conv")


def test_output_of_the_conv_used_twice_is_refused() -> None:
    nodes = [conv("w"), batchnorm("bn", "c", "n"), helper.make_node("Add", ["c", "n"], ["y"], name="sum")]
    model = graph(nodes, {"w": random(1, 6, 4, 3, 3), **parameters("bn", 6)}, IMAGE)
    refuse(model, "c is read by Add sum, BatchNormalization bn")


def test_output_of_the_conv_that_leaves_the_graph_is_refused() -> None:
    nodes = [conv("w"), batchnorm("bn", "c", "y")]
    model = graph(nodes, {"w": random(1, 6, 4, 3, 3), **parameters("bn", 6)}, IMAGE, outputs=("y", "c"))
    refuse(model, "c is an output of the graph")


def test_shared_weight_is_cloned() -> None:
    nodes = [
        conv("w b", "c1", name="one"),
        batchnorm("bn1", "c1", "y1"),
        conv("w b", "c2", name="two"),
        batchnorm("bn2", "c2", "y2"),
        conv("w b", "y3", name="three"),
    ]
    constants = {"w": random(1, 6, 4, 3, 3), "b": random(2, 6), **parameters("bn1", 6, 1), **parameters("bn2", 6, 2)}
    model = graph(nodes, constants, IMAGE, outputs=("y1", "y2", "y3"))
    made = fold_all(model, PIXELS, "after Conv", "after Conv")
    assert len({node.input[1] for node in made.graph.node}) == 3


def test_weight_that_leaves_the_graph_is_cloned() -> None:
    shapes: dict[str, tuple[int | str, ...]] = {"y": ("batch", 6, 5, 4), "w": (6, 4, 3, 3)}
    nodes = [conv("w"), batchnorm("bn", "c", "y")]
    model = graph(nodes, {"w": random(1, 6, 4, 3, 3), **parameters("bn", 6)}, IMAGE, outputs=("y", "w"), shapes=shapes)
    fold_all(model, PIXELS, "after Conv")


def test_weight_that_is_an_initializer_and_a_listed_input() -> None:
    nodes = [conv("w"), batchnorm("bn", "c", "y")]
    constants = {"w": random(1, 6, 4, 3, 3), **parameters("bn", 6)}
    listed = [helper.make_tensor_value_info(name, 1, value.shape) for name, value in constants.items()]
    model = graph(nodes, constants, IMAGE, inputs=listed)
    model.ir_version = 3
    made = fold_all(model, PIXELS, "after Conv")
    assert [value.name for value in made.graph.input] == ["x"]


def test_weight_from_a_constant_node() -> None:
    weight = numpy_helper.from_array(random(1, 6, 4, 3, 3), "w")
    nodes = [helper.make_node("Constant", [], ["w"], value=weight), conv("w"), batchnorm("bn", "c", "y")]
    made = fold_all(graph(nodes, parameters("bn", 6), IMAGE), PIXELS, "after Conv")
    assert operators(made) == ["Conv"]


def test_computed_weight_is_refused() -> None:
    nodes = [helper.make_node("Abs", ["v"], ["w"]), conv("w"), batchnorm("bn", "c", "y")]
    model = graph(nodes, {"v": random(1, 6, 4, 3, 3), **parameters("bn", 6)}, IMAGE)
    refuse(model, "the weight of Conv conv is not constant")


def test_computed_bias_is_refused() -> None:
    nodes = [helper.make_node("Abs", ["v"], ["b"]), conv("w b"), batchnorm("bn", "c", "y")]
    model = graph(nodes, {"w": random(1, 6, 4, 3, 3), "v": random(2, 6), **parameters("bn", 6)}, IMAGE)
    refuse(model, "the bias of Conv conv is not constant")


def test_computed_parameters_are_refused() -> None:
    nodes = [helper.make_node("Abs", ["v"], ["bn.var"]), conv("w"), batchnorm("bn", "c", "y")]
    constants = {"w": random(1, 6, 4, 3, 3), "v": random(2, 6), **parameters("bn", 6)}
    del constants["bn.var"]
    refuse(graph(nodes, constants, IMAGE), "its variance is not constant")


def test_folded_weight_beyond_its_type_is_refused() -> None:
    huge = {**parameters("bn", 6), "bn.gamma": np.full(6, 1e38, dtype=np.float32)}
    nodes = [conv("w"), batchnorm("bn", "c", "y")]
    model = graph(nodes, {"w": 1e3 * random(1, 6, 4, 3, 3), **huge}, IMAGE)
    refuse(model, "do not fit in float32")


def test_channels_that_do_not_agree_are_refused() -> None:
    nodes = [conv("w"), batchnorm("bn", "c", "y")]
    model = graph(nodes, {"w": random(1, 6, 4, 3, 3), **parameters("bn", 5)}, IMAGE)
    refuse(model, "Conv conv makes 6 channels, and it normalizes 5")


def test_training_mode_is_refused() -> None:
    training = batchnorm("bn", "c", "y", training_mode=1)
    training.output.extend(["mean", "var"])
    refuse(graph([conv("w"), training], {"w": random(1, 6, 4, 3, 3), **parameters("bn", 6)}, IMAGE), "training_mode=1")


def test_statistics_outputs_of_old_opsets_are_training() -> None:
    training = batchnorm("bn", "c", "y")
    training.output.extend(["mean", "var"])
    model = graph([conv("w"), training], {"w": random(1, 6, 4, 3, 3), **parameters("bn", 6)}, IMAGE, opset=9)
    refuse(model, "statistics outputs")


def test_each_position_by_itself_is_refused() -> None:
    nodes = [conv("w"), batchnorm("bn", "c", "y", spatial=0)]
    model = graph(nodes, {"w": random(1, 6, 4, 3, 3), **parameters("bn", 6)}, IMAGE, opset=8)
    refuse(model, "spatial=0")


def test_opset_6_is_refused() -> None:
    nodes = [conv("w"), batchnorm("bn", "c", "y", is_test=1)]
    model = graph(nodes, {"w": random(1, 6, 4, 3, 3), **parameters("bn", 6)}, IMAGE, opset=6)
    refuse(model, "opset 6 is too old")


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 14, 15, 18])
def test_every_opset(opset: int) -> None:
    nodes = [conv("w", pads=[1, 1, 1, 1]), batchnorm("bn", "c", "y")]
    model = graph(nodes, {"w": random(1, 6, 4, 3, 3), **parameters("bn", 6)}, IMAGE, opset=opset)
    fold_all(model, PIXELS, "after Conv")


def test_inside_a_branch_is_counted_and_kept() -> None:
    inner = helper.make_graph(
        [batchnorm("inside", "x", "t")], "then", [], [helper.make_tensor_value_info("t", 1, None)]
    )
    other = helper.make_graph(
        [helper.make_node("Abs", ["x"], ["e"])], "else", [], [helper.make_tensor_value_info("e", 1, None)]
    )
    choice = helper.make_node("If", ["flag"], ["y"], name="if", then_branch=inner, else_branch=other)
    model = graph([choice], {"flag": np.array(True), **parameters("inside", 4)}, IMAGE)
    made, report = fold_batchnorm(model)
    assert report == FoldReport(1, 1, (), (KeptBatchNorm("inside", "it is inside a subgraph"),))
    assert_same(model, made, PIXELS)
    with pytest.raises(ExportError, match="1 of 1"):
        require_folded(report)
    require_folded(fold_batchnorm(model, keep=["inside"])[1])


def test_conv_read_inside_a_branch_is_refused() -> None:
    def branch(op: str) -> onnx.GraphProto:
        node = helper.make_node(op, ["c"], [op])
        return helper.make_graph([node], op, [], [helper.make_tensor_value_info(op, 1, None)])

    nodes = [
        conv("w"),
        batchnorm("bn", "c", "y"),
        helper.make_node("If", ["flag"], ["z"], name="if", then_branch=branch("Abs"), else_branch=branch("Neg")),
    ]
    constants = {"w": random(1, 6, 4, 3, 3), "flag": np.array(True), **parameters("bn", 6)}
    refuse(graph(nodes, constants, IMAGE, outputs=("y", "z")), "If if")


def test_kept_by_the_plan() -> None:
    nodes = [conv("w1"), batchnorm("first", "c", "n"), conv("w2", "d", "n", "two"), batchnorm("second", "d", "y")]
    constants = {"w1": random(1, 6, 4, 3, 3), "w2": random(1, 6, 6, 3, 3)}
    model = graph(nodes, {**constants, **parameters("first", 6, 1), **parameters("second", 6, 2)}, IMAGE)
    made, report = fold_batchnorm(model, keep=["first"])
    assert report.kept == (KeptBatchNorm("first", KEPT_BY_PLAN),)
    assert (report.before, report.after, len(report.folded)) == (2, 1, 1)
    assert operators(made) == ["Conv", "BatchNormalization", "Conv"]
    assert_same(model, made, PIXELS)
    require_folded(report)


def test_keeping_an_unknown_name_is_an_error() -> None:
    model = graph([conv("w"), batchnorm("bn", "c", "y")], {"w": random(1, 6, 4, 3, 3), **parameters("bn", 6)}, IMAGE)
    with pytest.raises(ExportError, match="the plan keeps bn1, conv, which") as caught:
        fold_batchnorm(model, keep=["bn1", "bn", "conv"])
    assert caught.value.expected == "names out of bn"


def test_require_folded_lists_each_reason() -> None:
    nodes = [conv("w"), helper.make_node("Relu", ["c"], ["r"], name="relu"), batchnorm("bn", "r", "y")]
    report = refuse(graph(nodes, {"w": random(1, 6, 4, 3, 3), **parameters("bn", 6)}, IMAGE))
    with pytest.raises(ExportError, match="1 of 1 BatchNorm nodes cannot be folded") as caught:
        require_folded(report)
    assert caught.value.causes == ("bn: Relu relu stands before it; y is an output of the graph",)
    assert caught.value.next_step.endswith("--keep-batchnorm bn")


@pytest.mark.parametrize("role", ["gamma", "beta", "mean", "var"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_damaged_parameters_are_an_error(role: str, value: float) -> None:
    constants = {"w": random(1, 6, 4, 3, 3), **parameters("bn", 6)}
    constants[f"bn.{role}"][3] = value
    with pytest.raises(ExportError, match=r"BatchNorm bn has a .* that is NaN or infinite"):
        fold_batchnorm(graph([conv("w"), batchnorm("bn", "c", "y")], constants, IMAGE), keep=["bn"])


@pytest.mark.parametrize("variance", [-0.25, -1.0])
def test_variance_of_minus_epsilon_or_less_is_an_error(variance: float) -> None:
    constants = {"w": random(1, 6, 4, 3, 3), **parameters("bn", 6)}
    constants["bn.var"][4] = variance
    with pytest.raises(ExportError, match=r"BatchNorm bn divides by the root of .* in channel 4"):
        fold_batchnorm(graph([conv("w"), batchnorm("bn", "c", "y", epsilon=0.25)], constants, IMAGE))


def test_parameters_of_different_lengths_are_an_error() -> None:
    constants = {"w": random(1, 6, 4, 3, 3), **parameters("bn", 6), "bn.mean": random(3, 1)}
    with pytest.raises(ExportError, match=r"shapes \[6\], \[6\], \[1\], \[6\]"):
        fold_batchnorm(graph([conv("w"), batchnorm("bn", "c", "y")], constants, IMAGE))


def test_parameters_that_are_no_vectors_are_an_error() -> None:
    tables = {name: value.reshape(6, 1) for name, value in parameters("bn", 6).items()}
    with pytest.raises(ExportError, match=r"shapes \[6, 1\]"):
        fold_batchnorm(graph([conv("w"), batchnorm("bn", "c", "y")], {"w": random(1, 6, 4, 3, 3), **tables}, IMAGE))


def test_two_of_one_name_are_an_error() -> None:
    nodes = [conv("w"), batchnorm("bn", "c", "n"), batchnorm("bn", "n", "y")]
    with pytest.raises(ExportError, match="several BatchNorm nodes are called bn"):
        fold_batchnorm(graph(nodes, {"w": random(1, 6, 4, 3, 3), **parameters("bn", 6)}, IMAGE))


def test_weights_that_were_not_loaded_are_an_error() -> None:
    model = graph([conv("w"), batchnorm("bn", "c", "y")], {"w": random(1, 6, 4, 3, 3), **parameters("bn", 6)}, IMAGE)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    with pytest.raises(ExportError, match="the values of w were not loaded"):
        fold_batchnorm(model)


def test_float16_weights_stay_float16() -> None:
    half = {name: value.astype(np.float16) for name, value in parameters("bn", 6).items()}
    nodes = [
        helper.make_node("Cast", ["x"], ["h"], to=onnx.TensorProto.FLOAT16),
        conv("w", data="h"),
        batchnorm("bn", "c", "n"),
        helper.make_node("Cast", ["n"], ["y"], to=onnx.TensorProto.FLOAT),
    ]
    model = graph(nodes, {"w": random(1, 6, 4, 3, 3).astype(np.float16), **half}, IMAGE)
    made, report = fold_batchnorm(model)
    assert report.after == 0
    assert {tensor.data_type for tensor in made.graph.initializer} == {onnx.TensorProto.FLOAT16}
    # float16 rounds to 5e-4; some dozens of products are summed.
    assert_same(model, made, PIXELS, tolerance=5e-3)


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[onnx.ModelProto, Array]:
    """Conv or ConvTranspose, then BatchNorm, over groups, kernels, strides, pads and dilations."""
    group, out, into = draw(st.integers(1, 3)), draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kernel = [draw(st.integers(1, 3)), draw(st.integers(1, 3))]
    transposed, bias = draw(st.booleans()), draw(st.booleans())
    seed = draw(st.integers(0, 2**16))
    shape = (group * into, out, *kernel) if transposed else (group * out, into, *kernel)
    constants = {"w": random(seed, *shape), "b": random(seed + 1, group * out), **parameters("bn", group * out, seed)}
    # A gain near zero leaves nothing to compare.
    constants["bn.gamma"] = np.where(constants["bn.gamma"] < 0, -1, 1).astype(np.float32) + constants["bn.gamma"]
    attributes: dict[str, Any] = {
        "strides": [draw(st.integers(1, 2)), 1],
        "pads": [draw(st.integers(0, kernel[0] - 1)), 0, 0, draw(st.integers(0, kernel[1] - 1))],
        "dilations": [1, draw(st.integers(1, 2))],
        "group": group,
    }
    inputs = ["x", "w", "b"] if bias else ["x", "w"]
    layer = helper.make_node("ConvTranspose" if transposed else "Conv", inputs, ["c"], name="conv", **attributes)
    if not bias:
        del constants["b"]
    model = graph([layer, batchnorm("bn", "c", "y")], constants, ("batch", group * into, 6, 7))
    return model, random(seed + 2, 2, group * into, 6, 7)


@settings(max_examples=60, deadline=None)
@given(convolutions())
def test_any_convolution(case: tuple[onnx.ModelProto, Array]) -> None:
    model, x = case
    made, report = fold_batchnorm(model)
    assert (report.before, report.after) == (1, 0)
    assert_same(model, made, x, tolerance=1e-5)


def test_the_result_is_what_the_formula_says() -> None:
    """One channel by hand: 3 * ((2x + 1) - 5) / sqrt(4) + 7 = 3x + 1."""
    constants = {"w": np.full((1, 1, 1, 1), 2, dtype=np.float32), "b": np.array([1], dtype=np.float32)}
    for role, value in (("gamma", 3), ("beta", 7), ("mean", 5), ("var", 4)):
        constants[f"bn.{role}"] = np.array([value], dtype=np.float32)
    model = graph([conv("w b"), batchnorm("bn", "c", "y", epsilon=0.0)], constants, ("batch", 1, 1, 1))
    made, _ = fold_batchnorm(model)
    assert [numpy_helper.to_array(tensor).item() for tensor in made.graph.initializer] == [3.0, 1.0]
    assert run(made, np.full((1, 1, 1, 1), 10, dtype=np.float32))["y"].item() == 31.0
