"""The built-in rules on small graphs, and the plan as an artifact."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError

from edgeq.errors import ArtifactError
from edgeq.plan.precision import Decision, Precision, PrecisionPlan, Scope
from edgeq.plan.rules import plan_classifier, plan_float


def node(op: str, inputs: Sequence[str], name: str) -> onnx.NodeProto:
    return helper.make_node(op, list(inputs), [name], name=name)


def network(*nodes: onnx.NodeProto, output: str) -> onnx.ModelProto:
    """A graph that is only planned, never run: shapes do not matter, a 3x3 convolution's weight is `w`."""
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 8, 8])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", 3])],
        [
            numpy_helper.from_array(np.ones((4, 4, 3, 3), np.float32), "w"),
            numpy_helper.from_array(np.ones((4, 3), np.float32), "matrix"),
            numpy_helper.from_array(np.ones(4, np.float32), "vector"),
            numpy_helper.from_array(np.zeros(8, np.int64), "pads"),
            numpy_helper.from_array(np.array(0.0, np.float32), "nothing"),
            numpy_helper.from_array(np.array(1.0, np.float32), "one"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


HEAD = (
    node("GlobalAveragePool", ["last"], "pool"),
    node("Flatten", ["pool"], "flat"),
    node("Gemm", ["flat", "matrix"], "head"),
)


def rules_of(*nodes: onnx.NodeProto) -> dict[str, str]:
    plan = plan_classifier(network(*nodes, *HEAD, output="head"))
    return {decision.layer: decision.rule for decision in plan.decisions}


def test_every_layer_has_one_decision_with_a_reason() -> None:
    plan = plan_classifier(network(node("Conv", ["x", "w"], "c"), node("Relu", ["c"], "last"), *HEAD, output="head"))
    assert [d.layer for d in plan.decisions] == ["c", "last", "pool", "flat", "head"]
    assert all(d.reason for d in plan.decisions)


def test_the_head_is_fp32_and_what_pools_for_it_fp16() -> None:
    rules = rules_of(node("Conv", ["x", "w"], "c"), node("Relu", ["c"], "last"))
    assert rules == {
        "c": "int8-weighted",
        "last": "int8-activation",
        "pool": "fp16-otherwise",
        "flat": "fp16-otherwise",
        "head": "fp32-head",
    }


def test_a_residual_addition_is_int8() -> None:
    rules = rules_of(
        node("Conv", ["x", "w"], "a"),
        node("Relu", ["a"], "b"),
        node("Conv", ["b", "w"], "c"),
        node("Add", ["c", "b"], "d"),
        node("Relu", ["d"], "last"),
    )
    assert rules["d"] == "int8-add"
    assert rules["last"] == "int8-activation"


def test_adding_a_constant_is_not_residual() -> None:
    rules = rules_of(node("Conv", ["x", "w"], "a"), node("Add", ["a", "vector"], "b"), node("Conv", ["b", "w"], "last"))
    assert rules["b"] == "fp16-otherwise"


def test_an_activation_upon_another_is_not_fused() -> None:
    """As pooling by a generalized mean begins, which keeps what a Relu gave above zero: no range is known between."""
    rules = rules_of(
        node("Conv", ["x", "w"], "a"),
        node("Relu", ["a"], "b"),
        node("Clip", ["b"], "c"),
        node("Conv", ["c", "w"], "last"),
    )
    assert (rules["a"], rules["b"], rules["c"]) == ("int8-weighted", "int8-activation", "fp16-otherwise")
    assert rules["last"] == "int8-weighted"


def test_an_activation_whose_input_is_read_elsewhere_is_not_fused() -> None:
    rules = rules_of(
        node("Conv", ["x", "w"], "a"),
        node("Relu", ["a"], "b"),
        node("Conv", ["b", "w"], "c"),
        node("Add", ["c", "a"], "last"),
    )
    assert rules["b"] == "fp16-otherwise"


@pytest.mark.parametrize("op", ["MaxPool", "Transpose", "Flatten"])
def test_a_carrier_between_int8_layers_is_int8(op: str) -> None:
    rules = rules_of(node("Conv", ["x", "w"], "a"), node(op, ["a"], "b"), node("Conv", ["b", "w"], "last"))
    assert rules["b"] == "int8-carrier"


def test_a_carrier_of_floating_point_values_is_fp16() -> None:
    rules = rules_of(node("Sigmoid", ["x"], "a"), node("MaxPool", ["a"], "b"), node("Conv", ["b", "w"], "last"))
    assert rules["b"] == "fp16-otherwise"


@pytest.mark.parametrize(
    ("fill", "rule"), [("", "int8-carrier"), ("nothing", "int8-carrier"), ("one", "fp16-otherwise")]
)
def test_padding_with_another_number_than_zero_is_fp16(fill: str, rule: str) -> None:
    pad = node("Pad", ["a", "pads", fill] if fill else ["a", "pads"], "b")
    rules = rules_of(node("Conv", ["x", "w"], "a"), pad, node("Conv", ["b", "w"], "last"))
    assert rules["b"] == rule


def test_joining_a_constant_is_fp16() -> None:
    joined = node("Concat", ["a", "vector"], "b")
    assert rules_of(node("Conv", ["x", "w"], "a"), joined, node("Conv", ["b", "w"], "last"))["b"] == "fp16-otherwise"


def test_a_pool_inside_the_network_is_int8() -> None:
    rules = rules_of(node("Conv", ["x", "w"], "a"), node("AveragePool", ["a"], "b"), node("Conv", ["b", "w"], "last"))
    assert rules["b"] == "int8-pool"


def test_a_product_of_two_activations_is_fp16() -> None:
    rules = rules_of(node("Conv", ["x", "w"], "a"), node("MatMul", ["a", "a"], "b"), node("Conv", ["b", "w"], "last"))
    assert rules["b"] == "fp16-otherwise"


def test_what_has_no_integer_kernel_is_fp16_and_its_neighbours_are_not() -> None:
    rules = rules_of(node("Conv", ["x", "w"], "a"), node("Sigmoid", ["a"], "b"), node("Conv", ["b", "w"], "last"))
    assert (rules["a"], rules["b"], rules["last"]) == ("int8-weighted", "fp16-smooth", "int8-weighted")


def test_an_unfolded_batchnorm_is_fp32() -> None:
    batchnorm = node("BatchNormalization", ["a", "vector", "vector", "vector", "vector"], "last")
    assert rules_of(node("Conv", ["x", "w"], "a"), batchnorm)["last"] == "fp32-batchnorm"


def plan() -> PrecisionPlan:
    return plan_classifier(network(node("Conv", ["x", "w"], "last"), *HEAD, output="head"), weights="per-tensor")


def test_a_plan_read_back_equals_itself(tmp_path: Path) -> None:
    plan().save(tmp_path / "plan.yaml")
    assert PrecisionPlan.load(tmp_path / "plan.yaml") == plan()


def test_two_decisions_for_one_layer_are_refused() -> None:
    decision = Decision(layer="a", op="Conv", precision=Precision.INT8, rule="r", reason="s")
    with pytest.raises(ValidationError, match="more than one decision for a"):
        PrecisionPlan(decisions=(decision, decision))


@pytest.mark.parametrize(
    "text", ["", "[1, 2]", "version: edgeq.plan/9\ndecisions: []", "a: [", "\x00", "decisions: [{}]"]
)
def test_what_is_no_plan_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "plan.yaml").write_text(text)
    with pytest.raises(ArtifactError, match="is not a precision plan"):
        PrecisionPlan.load(tmp_path / "plan.yaml")


def test_a_missing_plan_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError):
        PrecisionPlan.load(tmp_path / "plan.yaml")


def attention(*, conv: dict[str, Any] | None = None) -> onnx.ModelProto:
    """Patches, one attention with four projections, two feed-forward layers, a linear layer of its own, a head."""
    patches = helper.make_node("Conv", ["x", "w"], ["patches"], name="patches", **(conv or {}))
    return network(
        patches,
        *(node("MatMul", ["patches", "matrix"], name) for name in ("query", "key", "value")),
        node("MatMul", ["query", "key"], "scores"),
        node("Softmax", ["scores"], "shares"),
        node("MatMul", ["shares", "value"], "mixed"),
        node("MatMul", ["mixed", "matrix"], "output"),
        node("Add", ["output", "patches"], "middle"),
        node("MatMul", ["middle", "matrix"], "up"),
        node("Gelu", ["up"], "bent"),
        node("MatMul", ["bent", "matrix"], "down"),
        node("LayerNormalization", ["down", "vector", "vector"], "normed"),
        node("MatMul", ["normed", "matrix"], "merged"),
        node("LayerNormalization", ["merged", "vector", "vector"], "last"),
        *HEAD,
        output="head",
    )


LINEARS = ("query", "key", "value", "output", "up", "down", "merged")


@pytest.mark.parametrize(
    ("scope", "int8"),
    [
        ("ffn", {"up", "down"}),
        ("ffn-vo", {"up", "down", "value", "output"}),
        ("linears", set(LINEARS)),
    ],
)
def test_the_scope_says_which_linear_layers_of_a_transformer_are_int8(scope: Scope, int8: set[str]) -> None:
    planned = plan_classifier(attention(), transformer=scope)
    found = {decision.layer: decision.precision for decision in planned.decisions}
    assert {name for name in LINEARS if found[name] is Precision.INT8} == int8
    assert {found[name] for name in LINEARS} <= {Precision.INT8, Precision.FP16}
    assert {found[name] for name in ("scores", "shares", "mixed", "bent", "normed")} == {Precision.FP16}
    assert planned.transformer == scope


def test_all_linear_layers_are_the_default() -> None:
    assert plan_classifier(attention()) == plan_classifier(attention(), transformer="linears")


def test_without_attention_the_scope_changes_nothing() -> None:
    layers = (node("MatMul", ["x", "matrix"], "hidden"), node("Relu", ["hidden"], "last"))
    plans = [plan_classifier(network(*layers, *HEAD, output="head"), transformer=scope) for scope in get_args(Scope)]
    assert len({plan.decisions for plan in plans}) == 1
    assert plans[0].decisions[0].precision is Precision.INT8


@pytest.mark.parametrize(
    ("strides", "rule"), [([3, 3], "fp16-patches"), ([2, 2], "int8-weighted"), ([1, 1], "int8-weighted")]
)
def test_a_transformers_patches_are_embedded_in_floating_point(strides: list[int], rule: str) -> None:
    planned = plan_classifier(attention(conv={"kernel_shape": [3, 3], "strides": strides}))
    assert {decision.layer: decision.rule for decision in planned.decisions}["patches"] == rule


def test_the_same_convolution_without_attention_is_int8() -> None:
    conv = helper.make_node("Conv", ["x", "w"], ["last"], name="last", kernel_shape=[3, 3], strides=[3, 3])
    assert rules_of(conv)["last"] == "int8-weighted"


@pytest.mark.parametrize(
    ("op", "domain", "known"),
    [
        ("Softmax", "", True),
        ("Gelu", "com.microsoft", True),
        ("Einsum", "", False),
        ("BiasGelu", "com.microsoft", False),
        ("Conv", "com.example", False),
    ],
)
def test_an_operator_that_no_rule_knows_is_fp32_by_a_rule_that_says_so(op: str, domain: str, known: bool) -> None:
    odd = helper.make_node(op, ["a", "w"][: 1 if known else 2], ["b"], name="b", domain=domain)
    rules = rules_of(node("Conv", ["x", "w"], "a"), odd, node("Conv", ["b", "w"], "last"))
    assert (rules["b"] == "fp32-unknown") is not known
    assert (rules["a"], rules["last"]) == ("int8-weighted", "int8-weighted")


def test_the_sum_of_two_products_is_floating_point_which_their_kernels_write() -> None:
    rules = rules_of(
        node("MatMul", ["x", "matrix"], "a"),
        node("Reshape", ["a", "pads"], "b"),
        node("MatMul", ["x", "matrix"], "c"),
        node("Add", ["b", "c"], "last"),
    )
    assert (rules["a"], rules["c"], rules["last"]) == ("int8-weighted", "int8-weighted", "fp16-otherwise")
    assert rules["b"] == "fp16-otherwise", "it would store integers for an addition that takes none"


def test_what_stays_in_floating_point_is_fp16_but_for_unknown_operators() -> None:
    model = network(node("Conv", ["x", "w"], "a"), node("Einsum", ["a"], "last"), *HEAD, output="head")
    planned = plan_float(model, because="INT8 was slower")
    assert {d.layer: d.precision.value for d in planned.decisions} == {
        **dict.fromkeys(("a", "pool", "flat", "head"), "fp16"),
        "last": "fp32",
    }
    assert {d.reason for d in planned.decisions if d.layer != "last"} == {"INT8 was slower"}


def test_what_decodes_the_heads_numbers_is_fp32_and_what_stands_beside_it_is_fp16() -> None:
    """Boxes in pixels; a layer that the head reads, and one behind it that leads on, are none of that."""
    rules = rules_of(
        node("Conv", ["x", "w"], "a"),
        node("Sigmoid", ["a"], "last"),
    )
    assert (rules["last"], rules["pool"]) == ("fp16-smooth", "fp16-otherwise")
    decoding = (node("Mul", ["head", "one"], "boxes"), node("Softmax", ["boxes"], "shares"))
    model = network(node("Conv", ["x", "w"], "last"), *HEAD, *decoding, output="shares")
    found = {decision.layer: decision.rule for decision in plan_classifier(model).decisions}
    assert {found["boxes"], found["shares"]} == {"fp32-decoding"}
    assert found["flat"] == "fp16-otherwise"
