"""Corrections of weights and biases, from the calibration images to both backends' graphs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blocks
import numpy as np
import onnx
import pictures
import pytest
from networks import export_tiny
from numpy.typing import NDArray
from onnx import numpy_helper

from edgeq.calibrate.corrections import LayerCorrection
from edgeq.calibrate.observe import with_outputs
from edgeq.calibrate.samples import ImageSamples
from edgeq.calibrate.scales import Scales
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import ArtifactError, PlanError, QuantizeError
from edgeq.model.images.image_set import ImageSet
from edgeq.pipeline.stages import Options, calibrate_graph, planned_tensors
from edgeq.plan.precision import Precision, PrecisionPlan, Rule
from edgeq.plan.rules import plan_classifier
from edgeq.quantize.int8.pixels import pixel_input
from edgeq.quantize.int8.qdq import lower
from edgeq.quantize.int8.registry import USUAL
from edgeq.quantize.int8.select import resolve
from edgeq.quantize.int8.tensorrt import LOWERING as TENSORRT
from edgeq.quantize.rounding import stage
from edgeq.quantize.rounding.layers import find_layers
from edgeq.quantize.rounding.stage import Wanted, correct_weights, some_to_learn_from

LOWERINGS = (USUAL, TENSORRT)
BOTH: dict[str, Any] = {"weight_rounding": "adaround", "bias_correction": True}


class Calibrate:
    """The tiny network and 48 pictures."""

    def __init__(self, directory: Path) -> None:
        images = ImageSet.open(pictures.draw_pictures(directory / "pictures", each=16))
        self.graph, self.source = export_tiny(directory, images)
        self.model, self.samples = onnx.load(self.graph), ImageSamples(images, self.source.preprocess)
        self.plan = plan_classifier(self.model)
        self.tensors = planned_tensors(self.graph, self.plan)

    def __call__(self, plan: PrecisionPlan | None = None, **options: Any) -> Scales:
        settled = Options(threads=1, method=options.pop("method", "minmax"), **options).settled()
        scales, skipped = calibrate_graph(
            self.graph, plan or self.plan, self.tensors, self.samples, settled, lambda *_: None
        )
        assert skipped == ()
        return scales

    def lowered(self, scales: Scales, lowering: Any, plan: PrecisionPlan | None = None) -> onnx.ModelProto:
        pixels = pixel_input(self.source.preprocess)
        return lower(self.model, plan or self.plan, scales, lowering, pixels=pixels)


@pytest.fixture(scope="module")
def calibrated(tmp_path_factory: pytest.TempPathFactory) -> Calibrate:
    return Calibrate(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def corrected(calibrated: Calibrate) -> Scales:
    return calibrated(**BOTH)


def constant(model: onnx.ModelProto, name: str) -> NDArray[Any]:
    return numpy_helper.to_array(next(value for value in model.graph.initializer if value.name == name))


def test_both_graphs_get_the_same_integers_in_range(calibrated: Calibrate, corrected: Scales) -> None:
    nearest = calibrated.lowered(calibrated(), USUAL)
    changed = 0
    for layer in ("depthwise", "pointwise"):
        unsigned, signed = (constant(calibrated.lowered(corrected, each), f"{layer}.weight.q") for each in LOWERINGS)
        assert (unsigned == signed).all()
        assert np.abs(unsigned.astype(int)).max() == 127
        away = unsigned.astype(int) - constant(nearest, f"{layer}.weight.q")
        assert np.abs(away).max() <= 1
        changed += int(np.abs(away).sum())
    assert changed > 0
    assert "reads the image" in corrected.uncorrected["stem"]


def mean_gap(calibrated: Calibrate, scales: Scales, lowering: Any, node: str) -> float:
    """The largest shift of a channel's mean behind a node, on the images that were learned from."""
    pixels = np.concatenate([array for _, array in calibrated.samples.arrays([])])
    means = []
    for model in (calibrated.model, calibrated.lowered(scales, lowering)):
        output = next(each.output[0] for each in model.graph.node if each.name == node)
        engine = OnnxRuntimeEngine(with_outputs(model, [output]).SerializeToString(), threads=1, integers=False)
        means.append(engine.run({engine.inputs[0]: pixels}, [output])[output].mean(axis=(0, 2, 3)))
    return float(np.abs(means[1] - means[0]).max())


@pytest.mark.parametrize("lowering", LOWERINGS, ids=lambda each: each.name)
@pytest.mark.parametrize("node", ["stem", "depthwise", "residual"])
def test_means_are_those_of_fp32(calibrated: Calibrate, corrected: Scales, lowering: Any, node: str) -> None:
    before, after = (mean_gap(calibrated, each, lowering, node) for each in (calibrated(), corrected))
    assert after < 0.2 * before


def test_nothing_is_left_to_chance(calibrated: Calibrate, corrected: Scales) -> None:
    assert calibrated(**BOTH) == corrected


def test_a_layer_in_floating_point_is_left_alone(calibrated: Calibrate, corrected: Scales) -> None:
    rule = Rule(name="float-pointwise", layer="pointwise", precision=Precision.FP32, reason="asked for")
    plan = plan_classifier(calibrated.model, rules=(rule,))
    made = calibrated.lowered(corrected, USUAL, plan)
    kept, exact = (
        next(node for node in model.graph.node if node.name == "pointwise") for model in (made, calibrated.model)
    )
    for name, same in zip(kept.input[1:], exact.input[1:], strict=True):
        assert (constant(made, name) == constant(calibrated.model, same)).all()


def test_what_was_done_is_in_the_plan_and_only_then_written(
    calibrated: Calibrate, corrected: Scales, tmp_path: Path
) -> None:
    plan = resolve(calibrated.plan, corrected, calibrated.graph)
    assert (plan.weight_rounding, plan.bias_correction) == ("adaround", True)
    plan.save(tmp_path / "plan.yaml")
    assert PrecisionPlan.load(tmp_path / "plan.yaml") == plan
    assert Options(plan=plan).settled().weight_rounding == "adaround"
    resolve(calibrated.plan, calibrated(), calibrated.graph).save(tmp_path / "plain.yaml")
    assert "rounding" not in (tmp_path / "plain.yaml").read_text()
    calibrated().save(tmp_path / "plain.json")
    assert not {"corrections", "uncorrected"} & json.loads((tmp_path / "plain.json").read_text()).keys()
    corrected.save(tmp_path / "scales.json")
    assert Scales.load(tmp_path / "scales.json") == corrected


def test_auto_leaves_it_alone_and_search_compares(calibrated: Calibrate, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not calibrated(method="auto", shared_add=True).corrections
    monkeypatch.setattr(stage, "_MARGIN", 1.0)  # nothing is worth it
    found = calibrated(method="search", shared_add=True)
    assert not found.corrections
    before, after = found.trials[-2:]
    assert after.method == f"{before.method} adaround bias-correction"


def test_few_samples_are_taken_of_large_ones(calibrated: Calibrate, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sum(map(len, some_to_learn_from(calibrated.model, calibrated.samples))) == 48
    monkeypatch.setattr(stage, "_CUT_BYTES", 1)
    assert sum(map(len, some_to_learn_from(calibrated.model, calibrated.samples))) == 16


def test_adaround_wants_a_scale_for_each_channel() -> None:
    with pytest.raises(PlanError, match="per-tensor"):
        Options(weight_rounding="adaround", weights="per-tensor").settled()


def test_a_product_has_no_bias_of_its_own() -> None:
    model = blocks.transformer(layers=1)
    layers, left = find_layers(model, plan_classifier(model))
    products = [layer for layer in layers if not layer.measured]
    assert products
    assert all("no bias" in left[layer.name] for layer in products)


def test_without_an_int8_layer_it_is_refused(calibrated: Calibrate) -> None:
    rule = Rule(name="all", precision=Precision.FP32, reason="asked for")
    plan = plan_classifier(calibrated.model, rules=(rule,))
    with pytest.raises(QuantizeError, match="no INT8 layer"):
        correct_weights(calibrated.model, plan, calibrated(), [], [], Wanted(True, True, insist=True))


def damaged(change: Callable[[LayerCorrection], LayerCorrection], scales: Scales) -> Scales:
    return scales.model_copy(
        update={"corrections": {**scales.corrections, "pointwise": change(scales.corrections["pointwise"])}}
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda each: each.model_copy(update={"rounding": "AAAA"}),
        lambda _: LayerCorrection.pack(np.zeros(3, np.int8), {}),
        lambda _: LayerCorrection.pack(np.full((8, 8), 2, np.int8), {}),
        lambda _: LayerCorrection.pack(None, {"onnxruntime": np.zeros(3, np.float32)}),
        lambda _: LayerCorrection.pack(None, {"onnxruntime": np.full(8, np.nan, np.float32)}),
    ],
)
def test_a_damaged_correction_is_refused(
    calibrated: Calibrate, corrected: Scales, change: Callable[[LayerCorrection], LayerCorrection]
) -> None:
    with pytest.raises(ArtifactError, match="pointwise"):
        calibrated.lowered(damaged(change, corrected), USUAL)
