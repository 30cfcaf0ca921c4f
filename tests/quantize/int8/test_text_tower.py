"""Text encoders in INT8: captions through the same calibration, equalization and lowering as images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import text_towers
from onnx import numpy_helper

from edgeq.calibrate.samples import CaptionSamples
from edgeq.calibrate.scales import Scales
from edgeq.engine.onnxruntime import executed_operators
from edgeq.model.graph.tensors import constant_tensors
from edgeq.pipeline.stages import Options, calibrate_graph
from edgeq.plan.precision import ChannelEqualization, Precision, PrecisionPlan
from edgeq.plan.rules import plan_classifier
from edgeq.quality.logits import judge_answers
from edgeq.quantize.equalize.record import EqualizationRecord
from edgeq.quantize.equalize.stage import equalize_graph
from edgeq.quantize.int8.qdq import calibrated_tensors
from edgeq.quantize.int8.registry import LOWERINGS
from edgeq.quantize.int8.select import resolve, trials
from edgeq.quantize.int8.stage import quantize

TOKENIZER = "1" * 64
ALWAYS = [lowering for lowering in LOWERINGS if lowering.always]
LINEARS = 2 * 6
"""Query, key, value, output and two feed-forward layers, in each of two blocks."""


def made(
    directory: Path,
    model: onnx.ModelProto,
    *,
    method: str = "auto",
    equalize: ChannelEqualization = "none",
    length: int | None = None,
) -> tuple[PrecisionPlan, Scales, EqualizationRecord | None]:
    """Equalize, calibrate on captions and lower for each backend; the graphs lie in the directory."""
    samples = CaptionSamples(text_towers.captions(80, length=length), TOKENIZER)
    graph = directory / "model.fp32.onnx"
    onnx.save(model, graph)
    proof = list(samples.ids.values())[:4]
    equalized, plan, record = equalize_graph(graph, plan_classifier(model), samples, proof, equalize, threads=1)
    onnx.save(equalized, graph)
    options, tensors = Options(method=method, threads=1), calibrated_tensors(equalized, plan)
    scales, skipped = calibrate_graph(graph, plan, tensors, samples, options, lambda *_: None)
    assert not skipped
    plan = resolve(plan, scales, graph)
    quantize(graph, plan, scales, None, directory)
    return plan, scales, record


def errors(directory: Path, model: onnx.ModelProto, *, length: int | None = None) -> list[float]:
    """The error of each backend's embeddings on captions that nothing has seen, as a part of their length."""
    unseen = text_towers.captions(60, seed=9, length=length)
    right = text_towers.answers(model, unseen)
    graphs = [onnx.load(directory / lowering.file) for lowering in ALWAYS]
    return [judge_answers(right, text_towers.answers(each, unseen), None).figures().logit_error for each in graphs]


@pytest.mark.parametrize("attention", ["eager", "sdpa", None])
def test_linear_layers_are_int8_and_tables_and_the_projection_are_not(attention: str | None) -> None:
    model = text_towers.clip_tower(attention=attention) if attention else text_towers.siglip_tower()
    decisions = {decision.layer: decision for decision in plan_classifier(model).decisions}
    int8 = [decision for decision in decisions.values() if decision.precision is Precision.INT8]
    assert len(int8) == LINEARS
    assert {decision.op for decision in int8} == {"MatMul"}
    assert {decision.kind for decision in int8} == {"attention query/key", "attention value/output", "feed-forward"}
    head = [decision for decision in decisions.values() if decision.component == "head"]
    assert [(decision.rule, decision.precision) for decision in head] == [("fp32-head", Precision.FP32)]
    assert decisions["/text_model/embeddings/token_embedding/Gather"].precision is Precision.FP16
    assert "fp32-unknown" not in {decision.rule for decision in decisions.values()}


@pytest.mark.parametrize("length", [None, text_towers.CONTEXT])
def test_captions_choose_a_method_for_each_backend(tmp_path: Path, length: int | None) -> None:
    model = text_towers.siglip_tower() if length else text_towers.clip_tower()
    _, scales, _ = made(tmp_path, model, length=length)
    assert scales.held_back == 20
    assert len(scales.trials) == trials(None)
    assert set(scales.chosen) == {lowering.name for lowering in ALWAYS}
    assert "input_ids" not in scales.tensors
    assert max(errors(tmp_path, model, length=length)) < 0.05  # measured: 0.014 to 0.025


def test_all_linear_layers_multiply_integers(tmp_path: Path) -> None:
    made(tmp_path, text_towers.clip_tower(), method="mse")
    operators = executed_operators(tmp_path / ALWAYS[0].file)
    found = sum(operators[kernel] for kernel in ("MatMulIntegerToFloat", "QLinearMatMul", "QGemm"))
    assert found == LINEARS


def test_the_mask_has_no_scale_and_stays_as_it_is(tmp_path: Path) -> None:
    model = text_towers.clip_tower()
    _, scales, _ = made(tmp_path, model, method="minmax")
    lowest = float(np.finfo(np.float32).min)
    assert all(tensor.minimum > -1e3 for tensor in scales.tensors.values())
    for lowering in ALWAYS:
        lowered = onnx.load(tmp_path / lowering.file)
        constants = [numpy_helper.to_array(tensor) for tensor in constant_tensors(lowered.graph).values()]
        assert min(float(values.min()) for values in constants if values.dtype == np.float32) == lowest
    assert np.isfinite(errors(tmp_path, model)).all()


def test_equalization_brings_outliers_back(tmp_path: Path) -> None:
    model = text_towers.clip_tower(outliers=40.0)
    for name in ("plain", "equal"):
        (tmp_path / name).mkdir()
    _, _, nothing = made(tmp_path / "plain", model)
    plan, _, record = made(tmp_path / "equal", model, equalize="auto")
    assert nothing is None
    assert record is not None
    assert record.fold == plan.channel_equalization != "none"
    assert record.parity is not None
    assert record.parity.relative < 1e-5
    assert [point.kind for point in record.points].count("normalization") == 4
    before, after = errors(tmp_path / "plain", model), errors(tmp_path / "equal", model)
    for plain, equal in zip(before, after, strict=True):
        assert plain > 5 * equal  # measured: 0.23 and 0.02
        assert equal < 0.05


def test_outliers_compute_the_same_in_floating_point() -> None:
    ids = text_towers.captions(10)
    plain, outliers = (text_towers.answers(text_towers.clip_tower(outliers=by), ids) for by in (1.0, 40.0))
    np.testing.assert_allclose(outliers, plain, rtol=0, atol=1e-5 * float(np.abs(plain).max()))


def test_ranges_are_searched_on_captions_of_different_lengths(tmp_path: Path) -> None:
    model = text_towers.clip_tower()
    _, scales, _ = made(tmp_path, model, method="search")
    assert "searched" in {trial.method for trial in scales.trials}
    assert max(errors(tmp_path, model)) < 0.05
