"""The main job on trained CIFAR-10 ResNets and real images."""

from __future__ import annotations

import shutil
from pathlib import Path

import onnx
import pytest
from networks import ALLOWED, QUICK, planned_int8
from onnx import numpy_helper
from pictures import choose

from edgeq.bundle.manifest import MANIFEST, read_manifest
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.export.fold import count_batchnorm
from edgeq.files import sha256_file
from edgeq.model.checkpoint.source import open_model
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.stream import ImageStream
from edgeq.pipeline.classifier import Options, Prepared, prepare
from edgeq.plan.precision import PrecisionPlan
from edgeq.quality.judge import Quality
from edgeq.runtime.canary.check import check_canaries

FP32, INT8 = "model.fp32.onnx", "model.int8.ort.onnx"
WIDENED = ("layer1.0", "layer1.1", "layer2.1", "layer3.2")
"""Blocks of ResNet-20 with a wide channel between their convolutions, where a test wants that."""


@pytest.fixture(scope="module")
def calibration(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return choose(shared_data / "cifar10" / "train.zip", tmp_path_factory.mktemp("cifar") / "train.zip", each=10)


@pytest.fixture(scope="module")
def labelled(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return choose(shared_data / "cifar10" / "test.zip", tmp_path_factory.mktemp("cifar") / "test.zip", each=50)


@pytest.fixture(scope="module")
def resnet20(
    shared_data: Path, calibration: Path, labelled: Path, tmp_path_factory: pytest.TempPathFactory
) -> Prepared:
    output = tmp_path_factory.mktemp("resnet20") / "bundle"
    model = shared_data / "cifar10-resnet20"
    return prepare(model, calibration, output, labelled=labelled, options=Options(timing=QUICK))


def test_every_batchnorm_of_resnet20_folds(resnet20: Prepared) -> None:
    assert (resnet20.export.batchnorm_before, resnet20.export.batchnorm_after) == (19, 0)
    assert count_batchnorm(onnx.load(resnet20.bundle / FP32)) == 0
    assert resnet20.export.kept == {}


def test_the_folded_graph_is_proved_equal_on_real_images(resnet20: Prepared) -> None:
    parity = resnet20.export.parity
    assert parity.images == 32
    assert 0 < parity.relative < 1e-5  # rounding, not identity: float32 has 6e-8 an operation


def test_int8_answers_within_the_noise(resnet20: Prepared) -> None:
    answers = resnet20.quality.answers
    assert answers is not None
    assert answers.images == 500
    assert answers.top1_reference > 75  # 81.02 on all 5,000; the standard error of 500 is 1.75 points
    assert abs(answers.drop) <= 3 * answers.drop_standard_error + 0.2  # paired; 0.2 points are one image
    assert answers.agreement > 96
    assert answers.feature_cosine_mean > 0.99


def test_every_convolution_is_int8_and_the_head_is_not(resnet20: Prepared) -> None:
    assert (resnet20.int8_layers, resnet20.fp32_layers) == (19, 1)
    operators = [node.op_type for node in planned_int8(resnet20.bundle)]
    assert operators.count("Conv") == 19
    assert operators.count("Add") == 9
    assert "Gemm" not in operators


def test_the_plan_is_total(resnet20: Prepared) -> None:
    plan = PrecisionPlan.load(resnet20.bundle / "plan.yaml")
    nodes = [node.name for node in onnx.load(resnet20.bundle / FP32).graph.node if node.op_type != "Constant"]
    assert [decision.layer for decision in plan.decisions] == nodes
    assert all(decision.rule and decision.reason for decision in plan.decisions)


def test_the_int8_file_is_much_smaller(resnet20: Prepared) -> None:
    sizes = {name: (resnet20.bundle / name).stat().st_size for name in (FP32, INT8)}
    assert sizes[INT8] < 0.4 * sizes[FP32]
    assert (resnet20.quality.reference_bytes, resnet20.quality.candidate_bytes) == (sizes[FP32], sizes[INT8])


def test_the_manifest_lists_every_file_as_it_is(resnet20: Prepared) -> None:
    manifest = read_manifest(resnet20.bundle)
    assert manifest == resnet20.manifest
    files = (path for path in resnet20.bundle.rglob("*") if path.is_file() and path.name != MANIFEST)
    present = {path.relative_to(resnet20.bundle).as_posix(): path for path in files}
    assert {file.name for file in manifest.files} == set(present)
    for file in manifest.files:
        assert (file.size, file.sha256) == (present[file.name].stat().st_size, sha256_file(present[file.name]))
    assert len(manifest.labels) == 10
    assert manifest.labels[0] == "airplane"


def test_tensorrts_graph_passes_the_canaries_too(resnet20: Prepared) -> None:
    """Its scales are coarser (signed, symmetric), so that its logits are others than those of ONNX Runtime's graph."""
    engine = OnnxRuntimeEngine(resnet20.bundle / "model.int8.trt.onnx", integers=False)
    report = check_canaries(resnet20.bundle, engine)
    assert report.failures == ()
    assert all(canary.parity and canary.parity.worst_relative > 0.005 for canary in report.canaries)


def test_the_bundle_tells_what_was_measured(resnet20: Prepared) -> None:
    assert Quality.load(resnet20.bundle / "quality.json") == resnet20.quality
    assert [entry.batch for entry in resnet20.quality.latency] == [1, 64]
    assert all(entry.rounds == 1 for entry in resnet20.quality.latency)
    assert resnet20.calibration_images == 100
    assert resnet20.calibration_skipped == ()
    assert resnet20.gate is not None
    assert (resnet20.gate.kept, resnet20.gate.worst_layers) == ("int8", ())
    assert [(other.graph, other.kept, other.headline.examples) for other in resnet20.gate.others] == [
        ("model.int8.trt.onnx", True, 500)
    ]
    assert all("500 images do not show" in warning for warning in resnet20.warnings), "of a point of top-1"


def test_the_same_again_gives_the_same_bytes(
    resnet20: Prepared, shared_data: Path, calibration: Path, tmp_path: Path
) -> None:
    again = prepare(shared_data / "cifar10-resnet20", calibration, tmp_path / "again", options=Options(timing=QUICK))
    ours, theirs = ({file.name: file.sha256 for file in made.manifest.files} for made in (resnet20, again))
    for name in (FP32, INT8, "model.int8.trt.onnx", "plan.yaml", "scales.json"):
        assert ours[name] == theirs[name], name
    assert again.quality.answers is None
    assert any("--eval" in warning for warning in again.warnings)


@pytest.fixture(scope="module")
def resnet56(
    shared_data: Path, calibration: Path, labelled: Path, tmp_path_factory: pytest.TempPathFactory
) -> Prepared:
    output = tmp_path_factory.mktemp("resnet56") / "bundle"
    options = Options(calibration_images=40, allow=ALLOWED, timing=QUICK)
    return prepare(shared_data / "cifar10-resnet56", calibration, output, labelled=labelled, options=options)


def test_every_batchnorm_of_resnet56_folds(resnet56: Prepared) -> None:
    assert (resnet56.export.batchnorm_before, resnet56.export.batchnorm_after) == (55, 0)
    answers = resnet56.quality.answers
    assert answers is not None
    assert answers.top1_reference > 77  # 83.02 on all 5,000; the standard error of 500 is 1.7 points
    assert answers.agreement > 93
    assert any(warning.startswith("EQ107 only 40 calibration images") for warning in resnet56.warnings)


def test_folded_resnet56_keeps_its_accuracy_on_all_test_images(resnet56: Prepared, shared_data: Path) -> None:
    source = open_model(resnet56.bundle)
    labels = source.labels
    assert labels is not None
    images = ImageSet.open(shared_data / "cifar10" / "test.zip", labelled=True)
    engine = OnnxRuntimeEngine(resnet56.bundle / FP32)
    right = 0
    for items, pixels in ImageStream(images, source.preprocess, batch_size=100):
        found = engine.run({engine.inputs[0]: pixels})[engine.outputs[0]].argmax(axis=1)
        right += sum(labels[index] == item.label for index, item in zip(found, items, strict=True))
    assert len(images) == 5000
    assert 100 * right / len(images) == pytest.approx(83.02, abs=0.021)  # one image may fall otherwise by rounding


def three_thousandfold(source: Path, directory: Path) -> Path:
    """ResNet-20 with one channel in each of four blocks 3,000 times as large until the next convolution."""
    shutil.copytree(source, directory)
    model = onnx.load(directory / "model.onnx")
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for channel, block in enumerate(WIDENED, start=1):
        for name, factor in ((f"{block}.bn1.weight", 3000.0), (f"{block}.bn1.bias", 3000.0)):
            value = numpy_helper.to_array(constants[name]).copy()
            value[channel] *= factor
            constants[name].CopyFrom(numpy_helper.from_array(value, name))
        name = f"{block}.conv2.weight"
        value = numpy_helper.to_array(constants[name]).copy()
        value[:, channel] /= 3000.0
        constants[name].CopyFrom(numpy_helper.from_array(value, name))
    onnx.save(model, directory / "model.onnx")
    return directory


def test_outliers_between_convolutions_cost_nothing(
    shared_data: Path, calibration: Path, labelled: Path, resnet20: Prepared, tmp_path: Path
) -> None:
    model = three_thousandfold(shared_data / "cifar10-resnet20", tmp_path / "model")
    made = prepare(model, calibration, tmp_path / "bundle", labelled=labelled, options=Options(timing=QUICK))
    assert made.channels is not None
    assert made.channels.fold == "cle"
    assert made.channels.parity is not None
    assert made.channels.parity.max_abs_error == 0.0  # scales are powers of two
    answers, plain = made.quality.answers, resnet20.quality.answers
    assert answers is not None
    assert plain is not None
    assert abs(answers.top1_reference - plain.top1_reference) <= 0.4  # the same network, rounded otherwise
    assert abs(answers.drop) <= 3 * answers.drop_standard_error + 0.2
    assert answers.agreement > 96


def test_the_same_network_without_equalization_no_longer_sees_and_stays_in_floating_point(
    shared_data: Path, calibration: Path, labelled: Path, tmp_path: Path
) -> None:
    model = three_thousandfold(shared_data / "cifar10-resnet20", tmp_path / "model")
    options = Options(timing=QUICK, channel_equalization="none", method="minmax")
    made = prepare(model, calibration, tmp_path / "bundle", labelled=labelled, options=options)
    answers, gate = made.quality.answers, made.gate
    assert answers is not None
    assert answers.drop > 40, "of the INT8 graph that was tried"
    assert gate is not None
    assert gate.kept == "floating point"
    assert gate.refused == {"model.int8.trt.onnx"}
    widened = {f"/layer{block[5]}/{block}/conv{n}/Conv" for block in WIDENED for n in (1, 2)}
    assert {line.layer for line in gate.worst_layers} < widened, "what writes the wide channels, and what reads them"
    assert gate.others[-1].graph == "model.fp16.onnx"
    agreement = gate.others[-1].headline.agreement
    assert agreement is not None
    assert agreement > 99
    names = {path.name for path in made.bundle.iterdir()}
    assert {FP32, "model.fp16.onnx", "gate.json"} <= names
    assert not {INT8, "model.int8.trt.onnx", "calibration.cache", "search.json"} & names
