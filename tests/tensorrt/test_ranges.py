"""Ranges of what no calibration cache names, in TensorRT's network as its parser makes it, releases 10.3 and 10.16.

The builder is simulated: it gives no engine where a layer obeys INT8 and a float tensor of it has no range.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from blocks import transformer
from classifier_bundle import classifier_bundle
from onnx import TensorProto, helper, numpy_helper
from tensorrt_bindings import VERSIONS, run_bindings
from test_builder import GOLDEN, Case, Results, build_all, calls_of, case, classifier_inputs, described

from edgeq.engine_store.planned import plan_build
from edgeq.plan.precision import Precision
from edgeq.plan.rules import plan_classifier
from edgeq.quantize.tensorrt_precisions import tensorrt_precisions
from edgeq.tensorrt.bundled_cache import bundled_cache
from edgeq.tensorrt.precisions import LayerPrecision
from edgeq.tensorrt.settings import BuildSettings, build_settings

GEMM = LayerPrecision(name="fc", op="Gemm", precision="int8", outputs=("int8",))
BENT = LayerPrecision(name="relu", op="Relu", precision="int8", outputs=("float32",))
CONV1D = LayerPrecision(name="conv", op="Conv", precision="int8", outputs=("int8",))


def weak(*layers: LayerPrecision, outputs: tuple[str, ...] = ("logits",), **changed: Any) -> BuildSettings:
    return build_settings(classifier_inputs(layers, outputs), "implicit", "a test", tensorrt="10.3.0", **changed)


def constant(name: str, *extremes: float) -> Case:
    return {"name": name, "type": "CONSTANT", "inputs": [], "outputs": [f"{name}_output"], "weights": extremes}


def gemm(*scaling: Case, weights: Case | None = None, outputs: tuple[str, ...] = ("relu",)) -> Case:
    """A Gemm with its bias and the ReLU behind it; `scaling` stands between product and bias."""
    made = scaling[-1]["outputs"][0] if scaling else "product"
    return {
        "layers": [
            weights or constant("w", -0.75, 0.5),
            {"name": "fc", "type": "MATRIX_MULTIPLY", "inputs": ["pixel_values", "w_output"], "outputs": ["product"]},
            *scaling,
            constant("b", -0.125, 0.25),
            {"name": "row", "type": "SHUFFLE", "inputs": ["b_output"], "outputs": ["row_output"]},
            {"name": "add", "type": "ELEMENTWISE", "op": "SUM", "inputs": [made, "row_output"], "outputs": ["sum"]},
            {"name": "relu", "type": "ACTIVATION", "inputs": ["sum"], "outputs": ["relu"]},
        ],
        "outputs": dict.fromkeys(outputs, "float32"),
        "named": ["pixel_values", "sum", "relu"],
    }


def clipped() -> Case:
    """A Clip whose bounds are tensors: two layers, of which the first has the node's name."""
    between = {"type": "ELEMENTWISE", "name": "conv", "op": "MAX", "inputs": ["pixel_values", "low_output"]}
    return {
        "layers": [
            constant("low", 0.0, 0.0),
            {**between, "outputs": ["above"]},
            constant("high", 6.0, 6.0),
            {
                "name": "min",
                "type": "ELEMENTWISE",
                "op": "MIN",
                "inputs": ["above", "high_output"],
                "outputs": ["clip"],
            },
        ],
        "outputs": {"logits": "float32"},
    }


def doubled() -> Case:
    """The Gemm with beta 2: its bias is multiplied by the parser's own layer."""
    made = gemm()
    scaled = {"name": "beta_b", "type": "ELEMENTWISE", "op": "PROD", "inputs": ["beta_output", "b_output"]}
    row = {"name": "row", "type": "SHUFFLE", "inputs": ["scaled"], "outputs": ["row_output"]}
    layers = [layer for layer in made["layers"] if layer["name"] != "row"]
    place = next(index for index, layer in enumerate(layers) if layer["name"] == "add")
    layers[place:place] = [constant("beta", 2.0, 2.0), {**scaled, "outputs": ["scaled"]}, row]
    return {**made, "layers": layers}


HALVED = {"name": "scaled", "type": "ELEMENTWISE", "op": "PROD", "inputs": ["alpha_output", "product"]}
SQUEEZED: Case = {
    "layers": [
        {"name": "up", "type": "SHUFFLE", "inputs": ["pixel_values"], "outputs": ["wide"]},
        {"name": "conv", "inputs": ["wide"], "outputs": ["flat"]},
        {"name": "down", "type": "SHUFFLE", "inputs": ["flat"], "outputs": ["features"]},
    ],
    "outputs": {"logits": "float32"},
}


def cases() -> dict[str, Case]:
    settings, both = weak(GEMM, BENT, outputs=("relu",)), weak(GEMM, BENT, outputs=("sum", "relu"))
    opaque = {"name": "odd", "type": "UNARY", "inputs": ["product"], "outputs": ["bent"]}
    known = {"pixel_values": 2.0, "sum": 3.0, "relu": 3.0}
    halved = (constant("alpha", 0.5, 0.5), {**HALVED, "outputs": ["half"]})
    return {
        "gemm": case(settings, gemm(), ranges=known),
        "gemm, on images": case(weak(GEMM, BENT, outputs=("relu",), calibration="images"), gemm(), ranges=None),
        "gemm, scaled": case(settings, gemm(*halved), ranges=known),
        "gemm, bias doubled": case(settings, doubled(), ranges=known),
        "clip": case(weak(CONV1D), clipped(), ranges={"pixel_values": 9.0, "clip": 6.0}),
        "gemm of zeros": case(settings, gemm(weights=constant("w", 0.0, 0.0)), ranges=known),
        "gemm, not finite": case(settings, gemm(weights=constant("w", 0.0, float("nan"))), ranges=known),
        "gemm, something between": case(settings, gemm(opaque), ranges=known),
        "gemm, given to the caller": case(both, gemm(outputs=("sum", "relu")), ranges={"pixel_values": 2.0}),
        "gemm in float32, given to the caller": case(
            weak(GEMM.model_copy(update={"outputs": ("float32",)}), outputs=("sum", "relu")),
            gemm(outputs=("sum", "relu")),
            ranges={"pixel_values": 2.0},
        ),
        "one dimension": case(weak(CONV1D), SQUEEZED, ranges={"pixel_values": 2.0, "features": 5.0}),
        "nothing known": case(settings, gemm(), ranges={"sum": 3.0, "relu": 3.0}),
        "without": case(settings, gemm(), ranges=known, without_ranges=True),
        "without, preferred": case(settings.preferring() or settings, gemm(), ranges=known, without_ranges=True),
    }


@pytest.fixture(scope="module", params=VERSIONS)
def results(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Results:
    return build_all(request.param, cases(), tmp_path_factory.mktemp("ranges"))


AS_ITS_OWN = """
import json, tensorrt
layer = tensorrt.ILayer.__new__(tensorrt.ILayer)
layer.__class__ = tensorrt.IConstantLayer
print(json.dumps([type(layer).__name__, hasattr(layer.__class__, "weights")]))
"""


@pytest.mark.parametrize("version", VERSIONS)
def test_the_bindings_let_a_layer_be_of_its_own_class(version: str) -> None:
    """They give every layer as an ILayer, which has neither weights nor an operation; the simulation does the same."""
    assert run_bindings(version, AS_ITS_OWN) == ["IConstantLayer", True]


def ranges(result: dict[str, Any]) -> dict[str, str]:
    """Tensor -> what it was set to."""
    lines = [line.partition("].set_dynamic_range") for line in result["calls"] if "set_dynamic_range" in line]
    return {name.removeprefix("tensor["): given for name, _, given in lines}


def test_a_layer_that_obeys_int8_without_a_range_gives_no_engine(results: Results) -> None:
    """The simulation is as strict as TensorRT: it is what the other tests lean on."""
    found = results["without"]
    assert found["error"] == "UnbuiltError"
    assert "no scale of ['w_output', 'product']" in found["causes"][0]
    assert results["without, preferred"]["error"] is None  # there such a layer takes another kernel


def test_weights_bias_and_the_product_before_it(results: Results) -> None:
    found = results["gemm"]
    assert found["error"] is None
    # The sum is within 3, and the bias within 0.25: the product is within 3.25.
    assert ranges(found) == {
        "w_output": "(-0.75, 0.75)",
        "product": "(-3.25, 3.25)",
        "row_output": "(-0.25, 0.25)",
        "b_output": "(-0.25, 0.25)",
    }


def test_on_images_constants_alone_are_set(results: Results) -> None:
    found = results["gemm, on images"]
    assert found["error"] is None
    assert set(ranges(found)) == {"w_output", "row_output", "b_output"}


def test_before_it_is_scaled_the_product_is_larger(results: Results) -> None:
    assert results["gemm, scaled"]["error"] is None
    assert ranges(results["gemm, scaled"])["product"] == "(-6.5, 6.5)"  # 3.25 after it was halved


def test_a_bias_that_is_scaled_is_larger(results: Results) -> None:
    assert results["gemm, bias doubled"]["error"] is None
    found = ranges(results["gemm, bias doubled"])
    assert (found["row_output"], found["product"]) == ("(-0.5, 0.5)", "(-3.5, 3.5)")  # twice 0.25, and 3 beside it


def test_before_a_bound_the_range_behind_it_loses_nothing(results: Results) -> None:
    assert results["clip"]["error"] is None
    assert ranges(results["clip"])["above"] == "(-6, 6)"


def test_weights_of_zeros_have_a_range_all_the_same(results: Results) -> None:
    assert results["gemm of zeros"]["error"] is None
    assert ranges(results["gemm of zeros"])["w_output"] == "(-1, 1)"


def test_a_one_dimensional_convolution_stands_between_shuffles(results: Results) -> None:
    found = results["one dimension"]
    assert found["error"] is None
    assert ranges(found) == {"wide": "(-2, 2)", "flat": "(-5, 5)"}


@pytest.mark.parametrize(
    ("name", "missing"),
    [
        ("gemm, not finite", ["w_output"]),
        ("gemm, something between", ["product"]),
        ("nothing known", ["pixel_values"]),
    ],
)
def test_what_follows_from_nothing_is_refused_before_the_build(results: Results, name: str, missing: list[str]) -> None:
    found = results[name]
    assert (found["error"], found["causes"]) == ("EngineError", missing)
    assert "1 tensors of INT8 layers have no range" in found["what"]
    assert "the Q/DQ graph needs no ranges" in found["what"]
    assert not any("build_serialized_network" in line for line in found["calls"])


def test_what_the_caller_gets_needs_no_range(results: Results) -> None:
    found = results["gemm, given to the caller"]
    assert "sum" not in ranges(found)
    assert found["causes"] == ["product"]  # nothing says how large it is


def test_a_product_in_floating_point_has_a_bound(results: Results) -> None:
    """It is not rounded: the range is there because a layer without one has no INT8 kernel."""
    found = results["gemm in float32, given to the caller"]
    assert found["error"] is None
    assert ranges(found)["product"] == "(-2.5, 2.5)"  # 2 times 0.75 + 0.5


def tokens() -> onnx.ModelProto:
    """Gemm, ReLU, and a linear layer as MatMul, before a head."""
    random = np.random.default_rng(0)
    sizes = {"w1": (12, 16), "b1": (16,), "w2": (16, 16), "wh": (16, 3), "bh": (3,)}
    weights = {name: random.normal(0, 0.5, size).astype(np.float32) for name, size in sizes.items()}
    rows: list[tuple[str, list[str], str]] = [
        ("Gemm", ["pixel_values", "w1", "b1"], "fc1"),
        ("Relu", ["fc1"], "relu1"),
        ("MatMul", ["relu1", "w2"], "fc2"),
        ("Gemm", ["fc2", "wh", "bh"], "logits"),
    ]
    graph = helper.make_graph(
        [helper.make_node(op, inputs, [output], name=output) for op, inputs, output in rows],
        "tokens",
        [helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["n", 12])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def planned(model: onnx.ModelProto) -> tuple[BuildSettings, Case]:
    layers = tensorrt_precisions(plan_classifier(model), model)
    return weak(*layers, runtime_bytes=1_000_000_000), described(model, layers)


@pytest.mark.parametrize("version", VERSIONS)
def test_linear_layers_as_they_are_planned(version: str, tmp_path: Path) -> None:
    settings, network = planned(tokens())
    attention, wide = planned(transformer())
    found = build_all(version, {"linear": case(settings, network), "attention": case(attention, wide)}, tmp_path)
    assert calls_of(found["linear"]) == (GOLDEN / "linear-int8-implicit.txt").read_text()
    assert found["attention"]["error"] is None
    multiplied = set(_weights_of_int8(transformer()))
    assert multiplied, "the plan has INT8 MatMuls"
    assert set(ranges(found["attention"])) == {
        name for weight in multiplied for name in (f"{weight}_output", f"ONNXTRT_Broadcast_{weight[:-2]}_output")
    }


def _weights_of_int8(model: onnx.ModelProto) -> Iterator[str]:
    int8 = plan_classifier(model).layers(Precision.INT8)
    yield from (node.input[1] for node in model.graph.node if node.op_type == "MatMul" and node.name in int8)


def test_a_bundles_own_cache_has_what_its_layers_need(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    bundle = classifier_bundle(tmp_path_factory)
    settings = plan_build(bundle, tensorrt="10.3.0", quantization="implicit")
    network, known = described(onnx.load(bundle / settings.graph), settings.layers), bundled_cache(bundle, (10, 3, 0))
    found = build_all("10.3.0", {"it": case(settings, network, ranges=known.magnitudes())}, tmp_path)["it"]
    assert found["error"] is None
    assert {layer.precision for layer in settings.layers} >= {"int8", "float32"}
