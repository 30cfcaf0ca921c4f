"""Lowering tiny graphs whose Q/DQ form can be written down by hand, and running the result."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from lowering import drawn_weight, node, scales
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeq.engine.onnxruntime import OnnxRuntimeEngine, executed_operators
from edgeq.errors import CalibrationError, QuantizeError
from edgeq.plan.precision import Decision, Precision
from edgeq.plan.rules import plan_classifier
from edgeq.quantize.int8.qdq import (
    StoredWeights,
    calibrated_tensors,
    lower,
    many_lowerings,
    placement_of,
    scales_to_give,
    take_scales,
)
from edgeq.quantize.int8.registry import USUAL, lowering_for
from edgeq.quantize.int8.verify import verify_lowering

RNG = np.random.default_rng(7)
weight = partial(drawn_weight, RNG)


def graph(
    nodes: Sequence[onnx.NodeProto], weights: dict[str, NDArray[Any]], shape: Sequence[int], classes: int
) -> onnx.ModelProto:
    made = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def head(source: str, channels: int) -> tuple[list[onnx.NodeProto], dict[str, NDArray[Any]]]:
    nodes = [
        node("GlobalAveragePool", [source], "pooled"),
        node("Flatten", ["pooled"], "flat"),
        node("Gemm", ["flat", "head.weight"], "logits", transB=1),
    ]
    return nodes, {"head.weight": weight(3, channels)}


@cache
def residual_network() -> onnx.ModelProto:
    """conv1 -> relu -> conv2 -+-> relu -> head, with a skip from the first relu."""
    tail, weights = head("out", 16)
    nodes = [
        node("Conv", ["x", "w1", "b1"], "conv1", pads=[1, 1, 1, 1]),
        node("Relu", ["conv1"], "relu1"),
        node("Conv", ["relu1", "w2", "b2"], "conv2", pads=[1, 1, 1, 1]),
        node("Add", ["conv2", "relu1"], "sum"),
        node("Relu", ["sum"], "out"),
        *tail,
    ]
    weights |= {"w1": weight(16, 3, 3, 3), "b1": weight(16), "w2": weight(16, 16, 3, 3), "b2": weight(16)}
    return graph(nodes, weights, (3, 8, 8), 3)


RESIDUAL_RANGES = {"x": (-1.0, 3.0), "relu1": (0.0, 5.1), "conv2": (-4.0, 6.2), "out": (0.0, 10.2)}


def constants(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def lowered(backend: str, *, shared_add: bool = True) -> onnx.ModelProto:
    model = residual_network()
    return lower(model, plan_classifier(model, shared_add=shared_add), scales(RESIDUAL_RANGES), lowering_for(backend))


def test_calibrated_tensors_are_inputs_and_outputs_of_int8_layers() -> None:
    model = residual_network()
    assert calibrated_tensors(model, plan_classifier(model)) == ("x", "relu1", "conv2", "out")


def test_golden_nodes_for_onnxruntime() -> None:
    kinds = [n.op_type for n in lowered("onnxruntime").graph.node]
    # x, relu1, conv2, out have pairs; two weights and two biases have a DequantizeLinear; both Relu are what saturation
    # at zero does anyway.
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "QuantizeLinear": 4,
        "DequantizeLinear": 8,
        "Conv": 2,
        "Add": 1,
        "GlobalAveragePool": 1,
        "Flatten": 1,
        "Gemm": 1,
    }


def test_golden_nodes_for_tensorrt() -> None:
    model = lowered("tensorrt")
    kinds = [n.op_type for n in model.graph.node]
    # Pairs on x, relu1 and out, whose pixels are averaged as integers: conv2 is added in the accumulator.
    assert {kind: kinds.count(kind) for kind in set(kinds)} == {
        "QuantizeLinear": 3,
        "DequantizeLinear": 5,
        "Conv": 2,
        "Relu": 2,
        "Add": 1,
        "GlobalAveragePool": 1,
        "Flatten": 1,
        "Gemm": 1,
    }
    add = next(n for n in model.graph.node if n.op_type == "Add")
    assert list(add.input) == ["conv2", "relu1.dq"]


def test_golden_scales_for_onnxruntime() -> None:
    held = constants(lowered("onnxruntime", shared_add=False))
    for name, scale, zero in (("x", 4 / 255, 64), ("relu1", 0.02, 0), ("conv2", 0.04, 100), ("out", 0.04, 0)):
        assert held[f"{name}.scale"] == np.float32(scale), name
        assert held[f"{name}.zero"] == np.uint8(zero), name
        assert held[f"{name}.zero"].dtype == np.uint8, name


def test_golden_scales_for_tensorrt() -> None:
    held = constants(lowered("tensorrt"))
    assert held["x.scale"] == np.float16(3 / 127)
    assert held["relu1.scale"] == np.float16(5.1 / 127)
    assert held["x.zero"].dtype == np.int8
    assert held["x.zero"] == 0


def test_a_tensorrt_graph_given_other_scales_computes_as_the_one_lowered_with_them() -> None:
    model, others = (
        residual_network(),
        scales({name: (low / 2, high / 3) for name, (low, high) in RESIDUAL_RANGES.items()}),
    )
    plan = plan_classifier(model)
    placement, image = (
        placement_of(model, plan, lowering_for("tensorrt")),
        RNG.normal(size=(1, 3, 8, 8)).astype(np.float32),
    )

    def answer(graph: onnx.ModelProto, **given: NDArray[np.float32]) -> NDArray[np.float32]:
        engine = OnnxRuntimeEngine(graph.SerializeToString(), integers=False)
        logits: NDArray[np.float32] = engine.run({"x": image, **given})["logits"]
        return logits

    open_to_scales = lowered("tensorrt")
    take_scales(open_to_scales, placement)
    given = scales_to_give(placement, others)
    assert given["x.scale"] == np.float16(1 / 127)
    np.testing.assert_array_equal(
        answer(open_to_scales, **given), answer(lower(model, plan, others, lowering_for("tensorrt"))), strict=True
    )
    assert (answer(open_to_scales, **given) != answer(lowered("tensorrt"))).any()


@pytest.mark.parametrize("narrow", [1.0, 1e-12], ids=["the same weights", "weights that a bias makes coarser"])
def test_a_lowering_that_finds_its_weights_is_the_one_that_makes_them(narrow: float) -> None:
    model = residual_network()
    plan, stored = plan_classifier(model), StoredWeights()
    ranges = scales({name: (narrow * low, narrow * high) for name, (low, high) in RESIDUAL_RANGES.items()})
    lower(model, plan, scales(RESIDUAL_RANGES), USUAL, stored=stored)
    assert {tensor for tensor, *_ in stored} == {"w1", "w2"}
    again = lower(model, plan, ranges, USUAL, stored=stored)
    assert again == lower(model, plan, ranges, USUAL)


def test_both_sides_of_an_addition_share_the_larger_scale() -> None:
    held = constants(lowered("onnxruntime"))
    assert held["relu1.scale"] == held["conv2.scale"] == np.float32(10.2 / 255)
    assert [int(held["relu1.zero"]), int(held["conv2.zero"])] == [0, 100]
    assert held["out.scale"] == np.float32(10.2 / 255)


def test_weights_are_stored_as_int8_and_biases_as_int32() -> None:
    source, model = constants(residual_network()), lowered("onnxruntime")
    held = constants(model)
    assert held["conv2.weight.q"].dtype == np.int8
    amax = np.abs(source["w2"]).max(axis=(1, 2, 3))
    np.testing.assert_allclose(held["conv2.weight.scale"], amax / 127, rtol=1e-6)
    assert held["conv2.bias.q"].dtype == np.int32
    stored = held["conv2.bias.q"] * held["conv2.bias.scale"].astype(np.float64)
    np.testing.assert_allclose(stored, source["b2"], atol=float(held["conv2.bias.scale"].max()))
    assert "w2" not in held


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt"])
def test_per_tensor_weights_have_one_scale_and_nothing_is_printed(
    backend: str, capfd: pytest.CaptureFixture[str]
) -> None:
    model = residual_network()
    plan = plan_classifier(model, weights="per-tensor")
    held = constants(lower(model, plan, scales(RESIDUAL_RANGES), lowering_for(backend)))
    assert held["conv2.weight.scale"].shape == ()
    assert capfd.readouterr().out == ""


def test_tensorrt_biases_stay_fp32() -> None:
    assert constants(lowered("tensorrt"))["b2"].dtype == np.float32


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt"])
def test_the_head_stays_fp32(backend: str) -> None:
    model = lowered(backend)
    gemm = next(n for n in model.graph.node if n.op_type == "Gemm")
    assert constants(model)[gemm.input[1]].dtype == np.float32


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt"])
def test_the_int8_graph_computes_nearly_the_same(backend: str) -> None:
    model = residual_network()
    images = RNG.uniform(-2, 2, size=(16, 3, 8, 8)).astype(np.float32)
    wide = OnnxRuntimeEngine(model.SerializeToString())
    ranges = {"x": (-2.0, 2.0), "relu1": (0.0, 8.0), "conv2": (-8.0, 8.0), "out": (0.0, 12.0)}
    quantized = lower(model, plan_classifier(model), scales(ranges), lowering_for(backend))
    expected = wide.run({"x": images})["logits"]
    error = OnnxRuntimeEngine(quantized.SerializeToString()).run({"x": images})["logits"] - expected
    # A step is 1/127 of the widest tensor's range; a wrong scale or zero point would be off by tens of percent.
    assert np.abs(error).max() < 0.05 * np.abs(expected).max()
    assert np.abs(error).max() > 0.0


def test_fused_and_plain_execution_agree() -> None:
    model = lowered("onnxruntime")
    images = RNG.uniform(-2, 2, size=(4, 3, 8, 8)).astype(np.float32)
    fused = OnnxRuntimeEngine(model.SerializeToString()).run({"x": images})["logits"]
    plain = OnnxRuntimeEngine(model.SerializeToString(), optimize=False).run({"x": images})["logits"]
    # A value on the border between two steps may round either way: one step of `out`, averaged by pooling.
    np.testing.assert_allclose(fused, plain, atol=10.2 / 255)


def test_depthwise_weights_have_a_scale_for_each_channel() -> None:
    tail, weights = head("relu", 6)
    weights |= {"w": weight(6, 1, 3, 3) * np.geomspace(0.01, 100, 6, dtype=np.float32).reshape(6, 1, 1, 1)}
    nodes = [node("Conv", ["x", "w"], "conv", group=6, pads=[1, 1, 1, 1]), node("Relu", ["conv"], "relu"), *tail]
    model = graph(nodes, weights, (6, 8, 8), 3)
    made = lower(model, plan_classifier(model), scales({"x": (-1, 1), "relu": (0, 3)}), USUAL)
    held = constants(made)
    assert held["conv.weight.scale"].shape == (6,)
    assert np.abs(held["conv.weight.q"]).max(axis=(1, 2, 3)).tolist() == [127] * 6


@cache
def shortcut_network() -> onnx.ModelProto:
    """conv -> relu -> slice -> pad -> add with a strided conv: the option-A shortcut of CIFAR ResNets."""
    tail, weights = head("out", 32)
    nodes = [
        node("Conv", ["x", "w1"], "conv1", pads=[1, 1, 1, 1]),
        node("Relu", ["conv1"], "relu1"),
        node("Slice", ["relu1", "starts", "ends", "axes", "steps"], "sliced"),
        node("Pad", ["sliced", "pads"], "padded"),
        node("Conv", ["relu1", "w2"], "conv2", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Add", ["conv2", "padded"], "sum"),
        node("Relu", ["sum"], "out"),
        *tail,
    ]
    weights |= {"w1": weight(16, 4, 3, 3), "w2": weight(32, 16, 3, 3)}
    weights |= {name: np.array([value, value], np.int64) for name, value in (("starts", 0), ("ends", 8), ("steps", 2))}
    weights |= {"axes": np.array([2, 3], np.int64), "pads": np.array([0, 8, 0, 0, 0, 8, 0, 0], np.int64)}
    return graph(nodes, weights, (4, 8, 8), 3)


SHORTCUT_RANGES = {"x": (-2.0, 2.0), "relu1": (0.0, 8.0), "conv2": (-8.0, 8.0), "out": (0.0, 12.0)}


def test_what_only_moves_values_moves_integers_in_onnxruntime() -> None:
    model = shortcut_network()
    ranges = scales(SHORTCUT_RANGES | {"sliced": (0.0, 5.0), "padded": (0.0, 5.0)})
    made = lower(model, plan_classifier(model), ranges, USUAL)
    producer = {output: n for n in made.graph.node for output in n.output}
    moved = [n for n in made.graph.node if n.op_type in ("Slice", "Pad")]
    assert len(moved) == 2
    assert all(producer[n.input[0]].op_type in ("QuantizeLinear", "Slice") for n in moved)
    images = RNG.uniform(-2, 2, size=(4, 4, 8, 8)).astype(np.float32)
    expected = OnnxRuntimeEngine(model.SerializeToString()).run({"x": images})["logits"]
    found = OnnxRuntimeEngine(made.SerializeToString()).run({"x": images})["logits"]
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt"])
def test_tensors_behind_a_carrier_lie_on_one_grid(backend: str) -> None:
    model = shortcut_network()
    ranges = scales(SHORTCUT_RANGES | {"sliced": (0.0, 5.0), "padded": (0.0, 5.0)})
    held = constants(lower(model, plan_classifier(model, shared_add=False), ranges, lowering_for(backend)))
    grids = {float(value) for name, value in held.items() if name in ("relu1.scale", "sliced.scale", "padded.scale")}
    assert grids == {float(np.float32(8.0 / 255)) if backend == "onnxruntime" else float(np.float16(8.0 / 127))}


def joined_network() -> onnx.ModelProto:
    """conv -> relu and a second conv, joined: the relu's output shares a grid with a signed tensor."""
    tail, weights = head("last", 4)
    nodes = [
        node("Conv", ["x", "w1"], "conv1", pads=[1, 1, 1, 1]),
        node("Relu", ["conv1"], "relu1"),
        node("Conv", ["x", "w2"], "conv2", pads=[1, 1, 1, 1]),
        node("Concat", ["relu1", "conv2"], "both", axis=1),
        node("Conv", ["both", "w3"], "last", pads=[1, 1, 1, 1]),
        *tail,
    ]
    weights |= {"w1": weight(4, 4, 3, 3), "w2": weight(4, 4, 3, 3), "w3": weight(4, 8, 3, 3)}
    return graph(nodes, weights, (4, 8, 8), 3)


def test_an_activation_that_its_grid_does_not_repeat_keeps_the_integer_kernel(tmp_path: Path) -> None:
    model = joined_network()
    plan = plan_classifier(model)
    names = ("relu1", "conv2", "both")
    ranges = scales({"x": (-2.0, 2.0), "last": (-8.0, 8.0)} | dict.fromkeys(names, (-6.0, 6.0)))
    made = lower(model, plan, ranges, USUAL)
    onnx.save(made, tmp_path / "m.onnx")
    assert executed_operators(tmp_path / "m.onnx")["QLinearConv"] == 3
    images = RNG.uniform(-2, 2, size=(4, 4, 8, 8)).astype(np.float32)
    expected = OnnxRuntimeEngine(model.SerializeToString()).run({"x": images})["logits"]
    found = OnnxRuntimeEngine(made.SerializeToString()).run({"x": images})["logits"]
    assert np.abs(found - expected).max() < 0.05 * np.abs(expected).max()


def test_lowering_does_not_change_the_graph_it_is_given() -> None:
    before = residual_network().SerializeToString()
    lowered("onnxruntime")
    assert residual_network().SerializeToString() == before


def test_a_tensor_without_a_scale_is_an_error() -> None:
    model = residual_network()
    few = scales({name: r for name, r in RESIDUAL_RANGES.items() if name != "conv2"})
    with pytest.raises(CalibrationError, match="tensor conv2 has no minmax range"):
        lower(model, plan_classifier(model), few, USUAL)


def test_a_graph_that_differs_from_its_plan_is_an_error() -> None:
    model = residual_network()
    plan = plan_classifier(model)
    everything = tuple(d.model_copy(update={"precision": Precision.INT8}) for d in plan.decisions)
    with pytest.raises(QuantizeError, match="differs from its plan"):
        verify_lowering(lowered("onnxruntime"), plan.model_copy(update={"decisions": everything}), USUAL)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
def test_a_quantized_layer_that_was_planned_in_floating_point_is_found(precision: Precision) -> None:
    plan = plan_classifier(residual_network())
    moved = tuple(
        Decision(layer=d.layer, op=d.op, precision=precision, rule="test", reason="test") if d.layer == "conv2" else d
        for d in plan.decisions
    )
    with pytest.raises(QuantizeError) as caught:
        verify_lowering(lowered("onnxruntime"), plan.model_copy(update={"decisions": moved}), USUAL)
    assert caught.value.causes == (f"conv2: planned {precision.value}, its weight is quantized",)


def test_many_lowerings_leave_what_was_set_aside_before() -> None:
    """As inside another one; `tests/conftest.py` has set the imports aside."""
    before = gc.get_freeze_count()
    assert before
    with many_lowerings():
        pass
    assert gc.get_freeze_count() >= before
