"""What a bundle tells the device about its engines: `engine.json`, and a classifier's ranges for implicit
quantization.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import ALLOWED, QUICK, SIDE, tiny_network, write_model
from onnx import numpy_helper
from pictures import draw_pictures

from edgeq.bundle.vision_report import VISION_FP16, VISION_FP32
from edgeq.calibrate.scales import Scales
from edgeq.errors import ArtifactError, CalibrationError
from edgeq.families.modules import read_vlm
from edgeq.model.graph.element_types import element_types
from edgeq.model.graph.onnx_file import save_onnx
from edgeq.pipeline.classifier import Options, prepare
from edgeq.pipeline.vlm import PreparedVlm
from edgeq.plan.precision import Precision, PrecisionPlan, Rule
from edgeq.plan.rules import plan_classifier, plan_vision
from edgeq.quantize.engine_inputs import (
    calibration_cache,
    most_pictures,
    write_classifier_inputs,
    write_vision_inputs,
)
from edgeq.quantize.fp16.convert import to_fp16
from edgeq.quantize.fp16.vision import VISION_PLAN
from edgeq.quantize.tensorrt_precisions import tensorrt_precisions
from edgeq.tensorrt.bundled_cache import CALIBRATION_CACHE, bundled_cache
from edgeq.tensorrt.calibration_cache import CalibrationCache
from edgeq.tensorrt.inputs import ENGINE_INPUTS, EngineInputs

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "vlm-configs"
FP32, TRT = "model.fp32.onnx", "model.int8.trt.onnx"
ALL_FLOAT = Rule(name="all-float", precision=Precision.FP32, reason="to see what is left")
INT8_HEAD = Rule(name="int8-head", precision=Precision.INT8, reason="to try it", component="head", kind="linear")


def made(folder: Path, *rules: Rule) -> Path:
    """The bundle of the tiny network."""
    model, pictures = write_model(folder / "model"), draw_pictures(folder / "pictures")
    options = Options(allow={**ALLOWED, "EQ105": "to try it"}, rules=rules, method="mse", threads=1, timing=QUICK)
    return prepare(model, pictures, folder / "bundle", options=options).bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to."""
    return made(tmp_path_factory.mktemp("made"))


@pytest.fixture
def parts(bundle: Path) -> tuple[onnx.ModelProto, PrecisionPlan, Scales]:
    return onnx.load(bundle / FP32), PrecisionPlan.load(bundle / "plan.yaml"), Scales.load(bundle / "scales.json")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_each_road_has_its_graph(bundle: Path) -> None:
    inputs = EngineInputs.load(bundle / ENGINE_INPUTS)
    assert (inputs.precision, inputs.pictures) == ("int8", 1)
    assert inputs.plan_sha256 == sha256(bundle / "plan.yaml")
    assert {quantization: graph.file for quantization, graph in inputs.graphs.items()} == {
        "implicit": FP32,
        "explicit": TRT,
    }
    for graph in inputs.graphs.values():
        assert graph.sha256 == sha256(bundle / graph.file)
        session = onnxruntime.InferenceSession(bundle / graph.file, providers=["CPUExecutionProvider"])
        for mine, theirs in ((graph.inputs, session.get_inputs()), (graph.outputs, session.get_outputs())):
            assert [binding.name for binding in mine] == [value.name for value in theirs]
            assert {binding.dtype for binding in mine} == {"float32"}
        assert (graph.inputs[0].shape, graph.outputs[0].shape) == (("batch", 3, SIDE, SIDE), ("batch", 3))
        tensors = onnx.load(bundle / graph.file).graph.initializer
        assert graph.weight_bytes == sum(numpy_helper.to_array(tensor).nbytes for tensor in tensors)
        assert graph.casts == (() if graph.file == FP32 else ("flat.Cast",)), (
            "before the FP32 head, behind no INT8 layer"
        )


def test_both_roads_are_compared_with_the_plan(bundle: Path) -> None:
    inputs, plan = EngineInputs.load(bundle / ENGINE_INPUTS), PrecisionPlan.load(bundle / "plan.yaml")
    layers = inputs.graphs["implicit"].layers
    assert layers == inputs.graphs["explicit"].layers == tensorrt_precisions(plan, onnx.load(bundle / FP32))
    assert {layer.name: layer.precision for layer in layers}["pool"] == "float16"
    names = {node.name for node in onnx.load(bundle / TRT).graph.node}
    assert {layer.name for layer in layers} <= names
    assert (layers[-1].name, layers[-1].precision) == ("head", "float32")


def test_a_layer_planned_fp16_is_fp16_on_both_roads(tmp_path: Path) -> None:
    """A strongly typed network keeps to the graph's types."""
    bundle = made(tmp_path, Rule(name="half", precision=Precision.FP16, reason="to try it", layer="depthwise"))
    types = element_types(onnx.load(bundle / TRT))
    assert types["depthwise_bn.fp16"] == onnx.TensorProto.FLOAT16
    graphs = EngineInputs.load(bundle / ENGINE_INPUTS).graphs
    found = {
        quantization: {layer.name: (layer.precision, layer.outputs) for layer in graph.layers}
        for quantization, graph in graphs.items()
    }
    for layers in found.values():
        assert layers["depthwise"] == ("float16", ("float16",))
        assert layers["stem"] == ("int8", ("int8",))


def test_the_cache_has_every_tensor_of_an_int8_layer(bundle: Path) -> None:
    """Worked out by hand for the tiny network, BatchNorm folded: all from the pixels to the last ReLU."""
    scales = dict(CalibrationCache.load(bundle / CALIBRATION_CACHE).scales)
    before_and_behind = [("stem_bn", "stem_relu"), ("depthwise_bn", "depthwise_clip"), ("residual", "residual_relu")]
    stem, depthwise, residual = before_and_behind
    assert list(scales) == ["pixel_values", *stem, *depthwise, "pointwise_bn", *residual]
    for before, behind in before_and_behind:
        assert scales[before] == scales[behind]
    assert scales["pointwise_bn"] == scales["stem_relu"]  # the two sides of the addition
    amax = Scales.load(bundle / "scales.json").range_of("pixel_values", "tensorrt").amax
    assert scales["pixel_values"] == np.float32(amax / 127)


@given(st.floats(-1e3, 1e3, width=32), st.floats(0.125, 6, width=32))
def test_before_an_activation_its_own_range_loses_nothing(value: float, amax: float) -> None:
    """ReLU of the rounded value is the rounded ReLU, and so for Clip(0, 6) with a range that ends within it."""

    def rounded(x: float) -> float:
        return float(np.clip(np.round(x * 127 / amax), -128, 127)) * amax / 127

    assert max(rounded(value), 0) == rounded(max(value, 0))
    assert min(max(rounded(value), 0), 6) == pytest.approx(rounded(min(max(value, 0), 6)), abs=1e-9)


def test_a_device_puts_its_own_release_into_the_header(bundle: Path) -> None:
    written = CalibrationCache.load(bundle / CALIBRATION_CACHE)
    assert written.header == "TRT-100300-EntropyCalibration2"
    later = bundled_cache(bundle, (10, 16, 1))
    assert later.to_bytes().partition(b"\n")[0] == b"TRT-101601-EntropyCalibration2"
    assert later.scales == written.scales
    with pytest.raises(ArtifactError, match="no calibrators"):
        bundled_cache(bundle, (11, 0, 0))


def test_a_tensor_without_a_range_is_an_error(parts: tuple[onnx.ModelProto, PrecisionPlan, Scales]) -> None:
    model, plan, scales = parts
    kept = {name: scale for name, scale in scales.tensors.items() if name != "depthwise_clip"}
    with pytest.raises(CalibrationError, match="2 tensors of INT8 layers have no range: depthwise_bn, depthwise_clip"):
        calibration_cache(model, plan, scales.model_copy(update={"tensors": kept}))


def test_without_int8_layers_there_is_nothing_to_calibrate(
    bundle: Path, parts: tuple[onnx.ModelProto, PrecisionPlan, Scales], tmp_path: Path
) -> None:
    model, _, scales = parts
    for name in (FP32, TRT, "plan.yaml"):
        shutil.copy(bundle / name, tmp_path)
    inputs = write_classifier_inputs(tmp_path, plan_classifier(model, rules=(ALL_FLOAT,)), scales)
    assert not (tmp_path / CALIBRATION_CACHE).exists()
    assert inputs.precision == "fp16"
    assert {layer.precision for layer in inputs.graphs["implicit"].layers} == {"float32"}


def test_what_the_caller_gets_needs_no_range(tmp_path: Path) -> None:
    bundle = made(tmp_path, INT8_HEAD)
    scales = dict(CalibrationCache.load(bundle / CALIBRATION_CACHE).scales)
    assert "flat" in scales
    assert "logits" not in scales


def test_a_vision_graph_with_an_fp32_layer(tmp_path: Path) -> None:
    """The graph is not one of a vision encoder; how it is lowered to FP16 and described does not depend on that."""
    model = tiny_network()
    keep = Rule(name="keep", precision=Precision.FP32, reason="in a test", layer="depthwise")
    plan = plan_vision(model, rules=(keep,))
    plan.save(tmp_path / VISION_PLAN)
    save_onnx(model, tmp_path / VISION_FP32)
    save_onnx(to_fp16(model, plan), tmp_path / VISION_FP16)
    inputs = write_vision_inputs(tmp_path, pictures=5)
    assert inputs == EngineInputs.load(tmp_path / ENGINE_INPUTS)
    assert (inputs.precision, inputs.pictures) == ("fp16", 5)
    graph = inputs.graphs["explicit"]
    assert inputs.graphs["implicit"] == graph
    layers = {layer.name: (layer.precision, layer.outputs) for layer in graph.layers}
    assert layers["depthwise"] == ("float32", ("float32",))
    assert {name for name, said in layers.items() if said != ("float16", ("float16",))} == {"depthwise"}
    assert len(graph.casts) == 4  # pixels in, around the layer in FP32, logits out
    assert [(binding.name, binding.dtype) for binding in graph.outputs] == [("logits", "float32")]


def test_the_bundle_of_a_vision_language_model(prepared_vlm: PreparedVlm) -> None:
    inputs = EngineInputs.load(prepared_vlm.bundle / ENGINE_INPUTS)
    assert inputs.graphs["explicit"].sha256 == sha256(prepared_vlm.bundle / VISION_FP16)
    assert inputs.graphs["implicit"] == inputs.graphs["explicit"]
    assert inputs.plan_sha256 == sha256(prepared_vlm.bundle / VISION_PLAN)
    assert not (prepared_vlm.bundle / CALIBRATION_CACHE).exists()


@pytest.mark.parametrize(
    ("name", "pictures"),
    [("llava-1.5-7b", 1), ("llava-1.6-mistral-7b", 2 * 2 + 1), ("llama-3.2-11b-vision", 1), ("smolvlm2-2.2b", 17)],
)
def test_most_pictures_of_one_image(name: str, pictures: int) -> None:
    """LLaVA 1.6 has grids of up to 2 x 2 tiles and the whole, SmolVLM 4 x 4; Llama's tiles go in together."""
    assert most_pictures(read_vlm(GOLDEN / name)) == pictures


def test_most_pictures_of_internvl() -> None:
    vision_encoder = {"image_size": [448, 448], "patch_size": [14, 14], "model_type": "internvl_vision"}
    plain = replace(read_vlm(GOLDEN / "llava-1.5-7b"), model_type="internvl", vision=vision_encoder, preprocessor={})
    config = {"image_seq_length": 256, "vision_config": vision_encoder}
    assert most_pictures(replace(plain, config=config)) == 12 + 1
