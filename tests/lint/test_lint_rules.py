"""Each rule finds what breaks it and nothing else: one change to a graph that keeps to all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from lint_graphs import CHANNELS, found, made, network, node, pair, scale, weight
from numpy.typing import NDArray
from onnx import TensorProto, helper

from edgeq.lint.registry import RULES
from edgeq.model.graph.complete import complete

Broken = dict[str, list[str]]
Constants = dict[str, NDArray[Any]]


def changed(
    *others: onnx.NodeProto, without: tuple[str, ...] = (), constants: Constants | None = None, **settings: Any
) -> onnx.ModelProto:
    """The network with nodes in the place of those of their names, or before its last, and other constants."""
    nodes, held = network()
    new = {each.name: each for each in others}
    places = {each.name for each in nodes}
    kept = [new.get(each.name, each) for each in nodes if each.name not in without]
    added = [each for each in others if each.name not in places]
    return made([*kept[:-1], *added, kept[-1]], {**held, **(constants or {})}, **settings)


def _scaled(name: str, value: Any, zero: Any = 0, kind: Any = np.int8) -> Constants:
    return {f"{name}.scale": np.array(value, np.float16), f"{name}.zero": np.array(zero, kind)}


def _pieces(kind: int, *, reach: float | None = None) -> onnx.ModelProto:
    """A normalization of an image's channels, written out, in a type."""
    number = helper.tensor_dtype_to_np_dtype(kind)
    nodes = [node("Cast", ["x"], "begun", to=kind)]
    source = "begun"
    constants: Constants = {"two": np.array(2, number), "epsilon": np.array(1e-3, number)}
    if reach is not None:
        nodes += pair("begun")
        constants |= {"begun.scale": np.array(reach / 127, number), "begun.zero": np.array(0, np.int8)}
        source = "begun.dq"
    nodes += [
        node("Pow", [source, "two"], "squared"),
        node("ReduceMean", ["squared", "axes"], "variance"),
        node("Add", ["variance", "epsilon"], "safe"),
        node("Sqrt", ["safe"], "root"),
        node("Div", [source, "root"], "normal"),
        node("Cast", ["normal"], "y", to=TensorProto.FLOAT),
    ]
    return made(nodes, {**constants, "axes": np.array([1])})


def _float_network(constants: Constants, kind: Any = np.float32) -> onnx.ModelProto:
    """A linear layer and an addition, in one type."""
    nodes = [
        node("Cast", ["x"], "begun", to=helper.np_dtype_to_tensor_dtype(np.dtype(kind))),
        node("MatMul", ["begun", "weight"], "product"),
        node("Add", ["product", "added"], "sum"),
        node("Cast", ["sum"], "y", to=TensorProto.FLOAT),
    ]
    held = {"weight": np.full((8, 8), 0.5), "added": np.full(8, 0.25), **constants}
    return made(nodes, {name: value.astype(kind) for name, value in held.items()})


def _old() -> onnx.ModelProto:
    nodes, constants = network()
    return made(nodes, constants, opset=17)


def _alone() -> onnx.ModelProto:
    """The integers of a QuantizeLinear are an output."""
    nodes, constants = network()
    constants["pooled.scale"], constants["pooled.zero"] = scale()
    held = ["pooled.scale", "pooled.zero"]
    extra = node("QuantizeLinear", ["pooled", *held], "pooled.q")
    return made([*nodes, extra], constants, outputs=("y", "pooled.q"))


def _two_readers() -> onnx.ModelProto:
    """The same tensor through two pairs of other scales."""
    nodes, constants = network()
    held = ["other.scale", "other.zero"]
    constants["other.scale"], constants["other.zero"] = scale(2**-4)
    quantized = node("QuantizeLinear", ["relu", *held], "other.q")
    dequantized = node("DequantizeLinear", ["other.q", *held], "other.dq")
    place = next(index for index, each in enumerate(nodes) if each.name == "sum")
    nodes[place].input[1] = "other.dq"
    return made([*nodes[:place], quantized, dequantized, *nodes[place:]], constants)


def _wide_network() -> onnx.ModelProto:
    """Nearly all of it in FP32, and one layer in FP16."""
    nodes = [
        node("Relu", ["x"], "first"),
        node("Exp", ["first"], "second"),
        node("ReduceMax", ["second", "axes"], "top"),
        node("Cast", ["top"], "half", to=TensorProto.FLOAT16),
        node("Relu", ["half"], "third"),
        node("Cast", ["third"], "y", to=TensorProto.FLOAT),
    ]
    return made(nodes, {"axes": np.array([1, 2, 3])})


CASES: dict[str, tuple[Callable[[], onnx.ModelProto], Broken]] = {
    "TRT001": (
        lambda: changed(node("MaxRoiPool", ["half", "rois"], "pools", pooled_shape=[1, 1]), outputs=("y", "pools")),
        {"TRT001": ["pools"]},
    ),
    "TRT002": (
        lambda: changed(node("QAttention", ["relu"], "attended", domain="com.microsoft"), outputs=("y", "attended")),
        {"TRT002": ["attended"]},
    ),
    "TRT003": (
        lambda: changed(
            node("Cast", ["x"], "short", to=TensorProto.INT16),
            outputs=("y", "short"),
        ),
        {"TRT003": ["short"]},
    ),
    "TRT004": (
        lambda: changed(node("Cast", ["x"], "double", to=TensorProto.DOUBLE), outputs=("y", "double")),
        {"TRT004": ["double"]},
    ),
    "TRT005": (
        lambda: changed(
            node("ReduceMax", ["x"], "top", keepdims=0),
            node("Cast", ["top"], "whole", to=TensorProto.INT64),
            node("Unsqueeze", ["x", "whole"], "longer"),
            outputs=("y", "longer"),
        ),
        {"TRT005": ["longer"]},
    ),
    "TRT007": (lambda: changed(opset=21), {"TRT007": ["graph"]}),
    "TRT008": (lambda: changed(shape=("batch", 3, 8, 8)), {"TRT008": ["x"]}),
    "TRT009": (lambda: changed(node("NonZero", ["x"], "places"), outputs=("y", "places")), {"TRT009": ["places"]}),
    "TRT010": (
        lambda: changed(
            helper.make_node("MaxPool", ["x"], ["top", "indices"], name="top", kernel_shape=[2, 2]),
            outputs=("y", "top", "indices"),
        ),
        {"TRT010": ["top"]},
    ),
    "TRT101": (lambda: changed(constants=_scaled("relu", 2**-5, 3)), {"TRT101": ["relu.q", "relu.dq"]}),
    "TRT102": (lambda: changed(constants=_scaled("sum", 2**-5, 0, np.uint8)), {"TRT102": ["sum.q", "sum.dq"]}),
    "TRT103": (
        lambda: changed(
            node("DequantizeLinear", ["whole.bias", "bias.scale"], "bias.dq"),
            node("Conv", ["relu.dq", "second.dq"], "again"),
            node("Add", ["normal", "bias.dq"], "biased"),
            node("Cast", ["biased"], "wide.too", to=TensorProto.FLOAT),
            constants={"whole.bias": np.zeros(CHANNELS, np.int32), "bias.scale": np.array(2**-8, np.float16)},
            outputs=("y", "wide.too"),
        ),
        {"TRT103": ["bias.dq"]},
    ),
    "TRT104": (
        lambda: changed(constants=_scaled("relu", -1.0)),
        {"TRT104": ["relu.q", "relu.dq"], "TRT110": ["relu.q", "relu.dq"]},
    ),
    "TRT105": (
        lambda: changed(
            node("ReduceMax", ["relu"], "top", keepdims=0),
            node("QuantizeLinear", ["pooled", "top", "relu.zero"], "pooled.q"),
            node("DequantizeLinear", ["pooled.q", "top", "relu.zero"], "pooled.dq"),
            outputs=("y", "pooled.dq"),
        ),
        {"TRT105": ["pooled.q", "pooled.dq"]},
    ),
    "TRT106": (
        lambda: changed(constants=_scaled("relu", [2**-5] * CHANNELS, [0] * CHANNELS)),
        {"TRT106": ["relu.q", "relu.dq"]},
    ),
    "TRT107": (lambda: changed(weight("second", axis=1)), {"TRT107": ["again"]}),
    "TRT108": (
        lambda: changed(constants={"first.scale": np.full(4, 2**-8, np.float16), "first.zero": np.zeros(4, np.int8)}),
        {"TRT108": ["first.dq"]},
    ),
    "TRT109": (
        lambda: changed(
            node("DequantizeLinear", ["second", "second.scale", "second.zero"], "second.dq", axis=1, block_size=8),
            constants={
                "second.scale": np.full((CHANNELS, 2, 1, 1), 2**-8, np.float16),
                "second.zero": np.zeros((CHANNELS, 2, 1, 1), np.int8),
            },
            opset=21,
        ),
        {"TRT109": ["second.dq"], "TRT107": ["again"], "TRT007": ["graph"]},
    ),
    "TRT110": (lambda: changed(constants=_scaled("sum", 2**-16)), {"TRT110": ["sum.q", "sum.dq"]}),
    "TRT111": (_alone, {"TRT111": ["pooled.q"]}),
    "TRT112": (
        lambda: changed(
            *pair("sum.dq"),
            node("GlobalAveragePool", ["sum.dq.dq"], "pooled.too"),
            node("GlobalAveragePool", ["relu"], "pooled"),
            constants=_scaled("sum.dq", 2**-5),
            outputs=("y", "pooled.too"),
        ),
        {"TRT112": ["sum.dq.q"]},
    ),
    "TRT113": (_two_readers, {"TRT113": ["relu"]}),
    "TRT201": (
        lambda: changed(node("Conv", ["relu", "second.dq"], "again")),
        {"TRT201": ["again"]},
    ),
    "TRT202": (
        lambda: changed(
            node("Conv", ["relu.dq", "plain"], "beside"),
            constants={"plain": np.full((CHANNELS, CHANNELS, 1, 1), 0.5, np.float16)},
            outputs=("y", "beside"),
        ),
        {"TRT202": ["beside"]},
    ),
    "TRT203": (
        lambda: changed(
            weight("few"),
            node("Conv", ["relu.dq", "few.dq"], "beside", group=4),
            constants={
                "few": np.ones((12, 4, 1, 1), np.int8),
                "few.scale": np.full(12, 2**-8, np.float16),
                "few.zero": np.zeros(12, np.int8),
            },
            outputs=("y", "beside"),
        ),
        {"TRT203": ["beside"]},
    ),
    "TRT204": (
        lambda: changed(node("Cast", ["conv"], "conv.wide", to=TensorProto.FLOAT), outputs=("y", "conv.wide")),
        {"TRT204": ["conv.wide"]},
    ),
    "TRT205": (
        lambda: changed(
            node("Sigmoid", ["relu"], "bent"), node("Add", ["bent", "sum.dq"], "beside"), outputs=("y", "beside")
        ),
        {"TRT205": ["beside"]},
    ),
    "TRT206": (lambda: changed(node("Add", ["again", "relu"], "sum")), {"TRT206": ["sum"]}),
    "TRT207": (
        lambda: changed(
            node("Conv", ["relu.dq", "second.dq"], "third"),
            *pair("third"),
            node("Relu", ["third.dq"], "late"),
            constants=_scaled("third", 2**-5),
            outputs=("y", "late"),
        ),
        {"TRT207": ["late"]},
    ),
    "TRT208": (
        lambda: changed(node("Softmax", ["sum.dq"], "soft"), outputs=("y", "soft")),
        {"TRT208": ["soft"]},
    ),
    "TRT301": (_wide_network, {"TRT301": ["graph"]}),
    "TRT302": (
        lambda: changed(
            node("Pow", ["normal", "two"], "power"), constants={"two": np.array(2, np.float32)}, outputs=("y", "power")
        ),
        {"TRT302": ["power"]},
    ),
    "TRT303": (lambda: _pieces(TensorProto.FLOAT16), {"TRT303": ["squared"]}),
    "TRT401": (lambda: _float_network({"added": np.full(8, -1e9)}), {"TRT401": ["added"]}),
    "TRT402": (lambda: _float_network({"weight": np.full((8, 8), 1e-9)}), {"TRT402": ["weight"]}),
    "TRT403": (lambda: _float_network({"added": np.full(8, -np.inf)}, np.float16), {"TRT403": ["added"]}),
    "TRT404": (
        lambda: _pieces(TensorProto.FLOAT16, reach=65535 * 2),
        {"TRT303": ["squared"], "TRT404": ["begun", "begun.dq"], "TRT405": ["squared"]},
    ),
    "TRT405": (lambda: _pieces(TensorProto.FLOAT16, reach=300), {"TRT303": ["squared"], "TRT405": ["squared"]}),
}
"""Of each rule a graph that breaks it, and everything that is found in it."""

ELSEWHERE = {
    "TRT006": "test_an_opset_that_has_no_such_pairs",
    "TRT011": "tests/lint/test_lint_load.py",
    "TRT304": "test_pieces_in_fp32_are_a_note_where_types_were_chosen",
    "TRT305": "tests/quantize/int8/test_tensorrt_rules.py",
}


def test_the_network_keeps_to_every_rule() -> None:
    nodes, constants = network()
    model = made(nodes, constants)
    complete(model, Path("model.onnx"))
    onnx.checker.check_model(model, full_check=True)
    assert found(model) == {}


@pytest.mark.parametrize("number", CASES)
def test_what_breaks_a_rule_is_found_by_its_number(number: str) -> None:
    make, broken = CASES[number]
    assert found(make()) == broken
    assert number in broken


def test_every_rule_is_broken_here() -> None:
    assert {rule.number for rule in RULES} == CASES.keys() | ELSEWHERE.keys()


def test_numbers_and_names_are_each_a_rules_own() -> None:
    assert [rule.number for rule in RULES] == sorted({rule.number for rule in RULES})
    assert len({rule.name for rule in RULES}) == len(RULES)


def test_an_opset_that_has_no_such_pairs() -> None:
    """FP16 scales before 19, which also contradict ONNX's types; scales of channels before 13; an opset of old."""
    half = found(_old())
    assert "half.q" in half["TRT006"]
    nodes, constants = network()
    single = {name: value.astype(np.float32) if name.endswith(".scale") else value for name, value in constants.items()}
    old = found(made([each for each in nodes if each.name != "normal"], single, opset=12))
    assert {"first.dq", "second.dq"} <= {*old["TRT006"]}
    assert "graph" in found(made([node("Relu", ["x"], "y")], {}, opset=8))["TRT006"]


def test_pieces_in_fp32_are_a_note_where_types_were_chosen() -> None:
    model = _pieces(TensorProto.FLOAT)
    assert found(model) == {"TRT303": ["squared"]}, "built in FP16 they would overflow"
    half = node("Cast", ["x"], "half", to=TensorProto.FLOAT16)
    model.graph.node.extend([half, node("Relu", ["half"], "beside")])
    model.graph.output.add(name="beside")
    assert "TRT303" not in found(model)
    assert found(model)["TRT304"] == ["squared"]


def test_the_page_has_every_rule() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "lint.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| TRT")]
    assert rows == [f"| {r.number} | {r.name} | {r.level} | {r.says} | {r.source} |" for r in RULES]


def test_a_bias_that_is_added_by_itself_is_the_layers() -> None:
    """As exporters write a MatMul's: the sum behind it has the layer for its side."""
    biased = changed(
        node("Add", ["again", "vector"], "biased"), constants={"vector": np.full((CHANNELS, 1, 1), 0.5, np.float16)}
    )
    nodes = {each.name: each for each in biased.graph.node}
    nodes["sum"].input[0] = "biased"
    assert found(biased) == {}
    nodes["biased"].op_type = "Mul"
    assert found(biased) == {"TRT205": ["sum"]}
