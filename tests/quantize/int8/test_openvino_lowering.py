"""OpenVINO's lowering: what stands in the file, what OpenVINO makes of it, and that other graphs stay as they are."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from lowering import measured_scales, scales
from networks import CHANNELS, export_tiny
from numpy.typing import NDArray
from onnx import numpy_helper
from pictures import draw_pictures

from edgeq.calibrate.scales import Scales
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.engine.openvino import OpenVinoEngine, executed_layers
from edgeq.errors import QuantizeError
from edgeq.model.checkpoint.source import ModelSource
from edgeq.model.images.image_set import ImageSet
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.plan.rules import plan_classifier
from edgeq.quantize.int8.openvino import LOWERING
from edgeq.quantize.int8.qdq import calibrated_tensors, lower
from edgeq.quantize.int8.stage import quantize
from edgeq.quantize.int8.verify import int8_layers, verify_lowering

X86 = platform.machine() in ("x86_64", "AMD64")
WEIGHTED = ("stem", "depthwise", "pointwise")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ModelSource]:
    """The tiny network without BatchNorm; not to be written to."""
    folder = tmp_path_factory.mktemp("tiny")
    return export_tiny(folder, ImageSet.open(draw_pictures(folder / "pictures", each=2)))


@pytest.fixture(scope="module")
def plan(tiny: tuple[Path, ModelSource]) -> PrecisionPlan:
    return plan_classifier(onnx.load(tiny[0]), shared_add=False)


@pytest.fixture(scope="module")
def ranges(tiny: tuple[Path, ModelSource], plan: PrecisionPlan) -> Scales:
    return measured_scales(tiny[0], plan, {"pixel_values": images()})


def images() -> NDArray[np.float32]:
    """Bytes as PREPROCESSOR leaves them: mean 0.5, standard deviation 0.25."""
    drawn = np.random.default_rng(1).integers(0, 256, (8, 3, 16, 16))
    return ((drawn / 255 - 0.5) / 0.25).astype(np.float32)


@pytest.fixture(scope="module")
def made(
    tiny: tuple[Path, ModelSource], plan: PrecisionPlan, ranges: Scales, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """What `edgeq quantize --backend openvino` leaves; not to be written to."""
    folder = tmp_path_factory.mktemp("int8")
    quantize(tiny[0], plan, ranges, tiny[1].preprocess, folder, backend="openvino")
    return folder


@cache
def constants(path: Path) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}


def convolutions(path: Path) -> Iterator[tuple[onnx.NodeProto, onnx.NodeProto, onnx.NodeProto]]:
    """Each with the DequantizeLinear of its activation and of its weight."""
    graph = onnx.load(path).graph
    producer = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type == "Conv":
            yield node, producer[node.input[0]], producer[node.input[1]]


def test_biases_are_the_fp32_graphs_own(tiny: tuple[Path, ModelSource], made: Path) -> None:
    """But for the first layer's: the pixels' offset is taken into it."""
    before = {node.name: node for node in onnx.load(tiny[0]).graph.node}
    for node, _, _ in convolutions(made / LOWERING.file):
        bias = constants(made / LOWERING.file)[node.input[2]]
        assert bias.dtype == np.float32
        if node.name != "stem":
            np.testing.assert_array_equal(bias, constants(tiny[0])[before[node.name].input[2]])


def test_activations_are_uint8_and_weights_int8_per_channel(made: Path) -> None:
    held = constants(made / LOWERING.file)
    found: dict[str, object] = {}
    for node, activation, weight in convolutions(made / LOWERING.file):
        integers, scale = held[weight.input[0]], held[weight.input[1]]
        found[node.name] = (held[activation.input[2]].dtype, integers.dtype, scale.shape)
        assert np.abs(integers.reshape(CHANNELS, -1).astype(int)).max(axis=1).tolist() == [127] * CHANNELS
    assert found == dict.fromkeys(WEIGHTED, (np.uint8, np.int8, (CHANNELS,)))


def test_both_sides_of_an_addition_are_read_through_pairs(made: Path) -> None:
    graph = onnx.load(made / LOWERING.file).graph
    producer = {output: node.op_type for node in graph.node for output in node.output}
    addition = next(node for node in graph.node if node.op_type == "Add" and node.name == "residual")
    assert [producer[name] for name in addition.input] == ["DequantizeLinear"] * 2


def test_the_plan_is_read_back(made: Path, plan: PrecisionPlan) -> None:
    graph = onnx.load(made / LOWERING.file)
    verify_lowering(graph, plan, LOWERING)
    bare = next(node for node in graph.graph.node if node.name == "pointwise")
    bare.input[0] = "depthwise_clip"
    with pytest.raises(QuantizeError, match="the openvino graph differs from its plan") as refused:
        verify_lowering(graph, plan, LOWERING)
    assert refused.value.causes == ("pointwise: planned int8, an input is not",)


@pytest.mark.skipif(not X86, reason="OpenVINO has an integer kernel for each of these layers on x86 alone")
def test_openvino_multiplies_integers_in_each_planned_layer(made: Path, plan: PrecisionPlan) -> None:
    found = executed_layers(made / LOWERING.file)
    assert tuple(decision.layer for decision in int8_layers(plan)) == WEIGHTED
    assert {name: found[name] for name in WEIGHTED} == dict.fromkeys(WEIGHTED, "i8")
    assert found["logits"] == "f32"  # the head
    LOWERING.check(made / LOWERING.file, plan)


@pytest.mark.skipif(not X86, reason="the check is x86's")
def test_a_graph_that_runs_in_floating_point_is_refused(
    tiny: tuple[Path, ModelSource], made: Path, plan: PrecisionPlan, tmp_path: Path
) -> None:
    with pytest.raises(QuantizeError, match=r"runs 3 layers in floating point .* such as stem"):
        LOWERING.check(tiny[0], plan)
    graph = onnx.load(made / LOWERING.file)
    producer = {output: node for node in graph.graph.node for output in node.output}
    pointwise = next(node for node in graph.graph.node if node.name == "pointwise")
    pointwise.input[0] = producer[producer[pointwise.input[0]].input[0]].input[0]  # past its pair
    onnx.save(graph, tmp_path / "bare.onnx")
    with pytest.raises(QuantizeError, match=r"runs 1 layers in floating point .* such as pointwise"):
        LOWERING.check(tmp_path / "bare.onnx", plan)
    gone = tuple(
        each.model_copy(update={"layer": "elsewhere"}) if each.layer == "stem" else each for each in plan.decisions
    )
    with pytest.raises(QuantizeError, match="such as elsewhere"):
        LOWERING.check(made / LOWERING.file, plan.model_copy(update={"decisions": gone}))
    head = tuple(
        each.model_copy(update={"precision": Precision.INT8}) if each.layer == "head" else each
        for each in plan.decisions
    )
    with pytest.raises(QuantizeError, match="such as head"):
        LOWERING.check(made / LOWERING.file, plan.model_copy(update={"decisions": head}))


def test_other_processors_are_not_asked(
    tiny: tuple[Path, ModelSource], plan: PrecisionPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    LOWERING.check(tiny[0], plan)


def test_it_computes_nearly_the_same(tiny: tuple[Path, ModelSource], made: Path) -> None:
    """Steps are 1/255 of a range and 1/127 of a channel's largest weight: some percent of the logits, no tens."""
    wide = OnnxRuntimeEngine(tiny[0], threads=1).run({"pixel_values": images()})["logits"]
    found = OpenVinoEngine(made / LOWERING.file, threads=1).run({"pixel_values": images()})["logits"]
    assert 0 < np.abs(found - wide).max() < 0.05 * np.abs(wide).max()


def test_the_other_graphs_are_the_same_bytes_without_it(
    tiny: tuple[Path, ModelSource], plan: PrecisionPlan, ranges: Scales, made: Path, tmp_path: Path
) -> None:
    quantize(tiny[0], plan, ranges, tiny[1].preprocess, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model.int8.ort.onnx",
        "model.int8.trt.onnx",
        "plan.yaml",
    ]
    assert sorted(path.name for path in made.iterdir() if not (tmp_path / path.name).exists()) == [LOWERING.file]
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (made / path.name).read_bytes(), path.name


def test_what_calibration_must_count_is_what_it_was(tiny: tuple[Path, ModelSource], plan: PrecisionPlan) -> None:
    """OpenVINO reads the tensors that ONNX Runtime reads: scales of a bundle made before are enough for it."""
    model = onnx.load(tiny[0])
    assert lower(model, plan, scales(dict.fromkeys(calibrated_tensors(model, plan), (-1.0, 1.0))), LOWERING)
