"""Vision graphs in FP16 on photographs: what stays FP32 and why, and what would have happened without that."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from vision_graphs import edit_weights, photographs, pixels, write_eyes

from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import ArtifactError, PlanError, QuantizeError
from edgeq.export.vision import VISION_FP16, VISION_FP32, VisionReport, export_vision
from edgeq.model.graph.onnx_file import load_onnx
from edgeq.plan.precision import Precision, PrecisionPlan, Rule
from edgeq.plan.rules import plan_vision
from edgeq.quantize.fp16.convert import to_fp16
from edgeq.quantize.fp16.fp16_simulation import simulate_fp16
from edgeq.quantize.fp16.vision import VISION_PLAN, quantize_vision

MLP = "/vision/encoder/layers.0/mlp"


pytestmark = pytest.mark.usefixtures("one_torch_thread")


def quantize(model: Path, directory: Path, *rules: Rule) -> VisionReport:
    directory.mkdir(exist_ok=True)
    export_vision(model, directory, photographs(), threads=1)
    return quantize_vision(model, directory, photographs(), rules=rules, threads=1)


def in_plain_fp16(model: Path, directory: Path) -> bool:
    """Whether the features are finite when every layer is FP16."""
    graph = load_onnx(directory / VISION_FP32)
    half = simulate_fp16(to_fp16(graph, plan_vision(graph)))
    given = np.concatenate([pixels(model, photograph) for photograph in photographs()])
    features = OnnxRuntimeEngine(half.SerializeToString(), threads=1).run({"pixel_values": given})["image_features"]
    return bool(np.isfinite(features).all())


def test_half_the_bytes_and_the_same_features(seeing_llava: Path, tmp_path: Path) -> None:
    report = quantize(seeing_llava, tmp_path)
    assert report.fp16 is not None
    assert report.fp16.fp32_layers == {}
    graph = onnx.load(tmp_path / VISION_FP16)
    kinds = {tensor.data_type for tensor in graph.graph.initializer if len(tensor.dims) == 2}
    assert kinds == {TensorProto.FLOAT16}
    assert report.fp16.files.bytes < 0.65 * report.fp32.bytes  # of a tiny network, whose node names count
    # Rounding to 11 bits is seen, and is small: 2**-11 a layer, some thirty layers.
    assert 1e-9 < 1 - report.fp16.parity.worst_cosine < 30 * 2.0**-20
    assert in_plain_fp16(seeing_llava, tmp_path)
    plan = PrecisionPlan.load(tmp_path / VISION_PLAN)
    assert {decision.precision for decision in plan.decisions} == {Precision.FP16}
    assert VisionReport.load(tmp_path) == report
    (tmp_path / VISION_FP32).unlink()  # as in a bundle
    assert VisionReport.load(tmp_path) == report


def test_an_mlp_that_overflows_is_kept_in_fp32(tmp_path: Path) -> None:
    """The first layer's result is 2**18 times as large, the second layer takes that back: no weight leaves FP16."""
    model = write_eyes(tmp_path / "model")
    edit_weights(model, **{"layer_norm2__weight": 2.0**9, "layers__0__mlp__fc1__weight": 2.0**9})
    edit_weights(model, **{"layers__0__mlp__fc2__weight": 2.0**-10})
    report = quantize(model, tmp_path / "made")
    assert not in_plain_fp16(model, tmp_path / "made")
    assert report.fp16 is not None
    assert 1 - report.fp16.parity.worst_cosine < 1e-4
    kept = report.fp16.fp32_layers
    assert f"{MLP}/fc1/MatMul" in kept
    assert f"{MLP}/activation_fn/Mul_1" in kept
    assert all(name.startswith(MLP) for name in kept)
    assert "on a photograph, FP16 ends at 65504" in kept[f"{MLP}/fc1/MatMul"]
    assert _said(kept[f"{MLP}/fc1/MatMul"]) > 65504
    (rule,) = (rule for rule in PrecisionPlan.load(tmp_path / "made" / VISION_PLAN).rules if "fc1/MatMul" in rule.name)
    assert (rule.precision, rule.reason) == (Precision.FP32, kept[f"{MLP}/fc1/MatMul"])


def _said(reason: str) -> float:
    """The number in "its values reach 1.2e+05 on a photograph"."""
    return float(reason.partition("reach ")[2].partition(" ")[0])


def test_the_squares_of_a_layernorm_are_looked_at(tmp_path: Path) -> None:
    """The residual stream 500 times as large: FP16 holds its numbers, not their squares."""
    model = write_eyes(tmp_path / "model")
    scale = 500.0
    edit_weights(model, pre_layrnorm__weight=scale)
    report = quantize(model, tmp_path / "made")
    assert report.fp16 is not None
    assert set(report.fp16.fp32_layers) == {
        f"/vision/encoder/layers.0/layer_norm{number}/LayerNormalization" for number in (1, 2)
    }
    for reason in report.fp16.fp32_layers.values():
        assert reason.startswith("it squares values that reach")
        assert scale < _said(reason) < 65504


def test_a_weight_that_fp16_does_not_hold_keeps_its_layer(tmp_path: Path) -> None:
    model = write_eyes(tmp_path / "model")
    edit_weights(model, **{"layers__0__mlp__fc1__weight": 2.0**25, "layers__0__layer_norm2__weight": 2.0**-25})
    edit_weights(model, **{"layers__0__layer_norm2__bias": 2.0**-25})
    report = quantize(model, tmp_path / "made")
    assert report.fp16 is not None
    assert "FP16 ends at 65504" in report.fp16.fp32_layers[f"{MLP}/fc1/MatMul"]
    norm = report.fp16.fp32_layers["/vision/encoder/layers.0/layer_norm2/LayerNormalization"]
    assert "most of which vanish in FP16" in norm
    assert 1 - report.fp16.parity.worst_cosine < 1e-4


def test_a_rule_of_ones_own(seeing_llava: Path, tmp_path: Path) -> None:
    rule = Rule(name="mine", precision=Precision.FP32, reason="to compare", component="connector")
    report = quantize(seeing_llava, tmp_path, rule)
    assert report.fp16 is not None
    assert set(report.fp16.fp32_layers.values()) == {"to compare"}
    assert all(name.startswith("/connector/") for name in report.fp16.fp32_layers)


def test_what_overflows_is_fp32_whatever_a_rule_says(tmp_path: Path) -> None:
    model = write_eyes(tmp_path / "model")
    edit_weights(model, pre_layrnorm__weight=500.0)
    rule = Rule(name="mine", precision=Precision.FP16, reason="all of it", component="vision")
    quantize(model, tmp_path / "made", rule)
    plan = PrecisionPlan.load(tmp_path / "made" / VISION_PLAN)
    (norm,) = (decision for decision in plan.decisions if "layers.0/layer_norm1" in decision.layer)
    assert (norm.precision, norm.overruled) == (Precision.FP32, ("mine", "fp16-vision"))


def test_rules_that_cannot_be(seeing_llava: Path, tmp_path: Path) -> None:
    export_vision(seeing_llava, tmp_path, photographs(), threads=1)
    int8 = Rule(name="mine", precision=Precision.INT8, reason="smaller", layer="/connector/linear_1/MatMul")
    with pytest.raises(QuantizeError, match="planned INT8, the first is /connector/linear_1/MatMul"):
        quantize_vision(seeing_llava, tmp_path, photographs(), rules=[int8], threads=1)
    nowhere = Rule(name="mine", precision=Precision.FP32, reason="r", layer="/nowhere")
    with pytest.raises(PlanError, match="matches no layer"):
        quantize_vision(seeing_llava, tmp_path, photographs(), rules=[nowhere], threads=1)
    assert not (tmp_path / VISION_FP16).exists()


def test_the_graph_must_be_the_one_that_was_proved(seeing_llava: Path, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="has no vision graph"):
        quantize_vision(seeing_llava, tmp_path, photographs(), threads=1)
    export_vision(seeing_llava, tmp_path, photographs(), threads=1)
    shutil.copyfile(seeing_llava / "config.json", tmp_path / VISION_FP32)
    with pytest.raises(ArtifactError, match="is not the graph"):
        quantize_vision(seeing_llava, tmp_path, photographs(), threads=1)
