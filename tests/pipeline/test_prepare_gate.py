"""What the main job does with networks that lose too much in INT8: in one backend, in each, in FP16 as well."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from colour_networks import colour_network, draw_close_colours, write_colour_network
from command import ALLOW_FLAGS, Edgeq
from networks import ALLOWED, CLASSES, QUICK
from pictures import draw_pictures

from edgeq.pipeline.classifier import Options, prepare
from edgeq.pipeline.gate import GATE
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.quality.gate import Gate
from edgeq.quality.judge import Quality
from edgeq.quality.tasks.label_order import LabelOrder
from edgeq.runtime.canary.check import check_canaries
from edgeq.tensorrt.inputs import ENGINE_INPUTS, FP16_INPUTS, EngineInputs

ORT, TRT, FP16 = "model.int8.ort.onnx", "model.int8.trt.onnx", "model.fp16.onnx"
PLAIN = Options(allow=ALLOWED, threads=1, timing=QUICK, method="minmax", channel_equalization="none")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 of each colour."""
    return draw_pictures(tmp_path_factory.mktemp("colours") / "pictures", each=40)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with a channel that is 3,000 times as large as the others between two convolutions."""
    return write_colour_network(tmp_path_factory.mktemp("wide") / "model", colour_network(wider=3000.0))


def files(bundle: Path) -> set[str]:
    return {path.name for path in bundle.iterdir()}


def test_a_network_that_sees_in_int8_stays_int8(pictures: Path, tmp_path: Path) -> None:
    model = write_colour_network(tmp_path / "model", colour_network())
    made = prepare(model, pictures, tmp_path / "bundle", labelled=pictures, options=PLAIN)
    assert made.gate is not None
    assert (made.gate.kept, made.gate.objections, made.gate.worst_layers) == ("int8", (), ())
    (other,) = made.gate.others
    assert (other.graph, other.kept, other.headline.reference) == (TRT, True, 100.0)
    assert "Q/DQ pairs computed in floating point" in other.run_by
    assert {ORT, TRT, "calibration.cache"} <= files(made.bundle)
    assert FP16 not in files(made.bundle)
    # No image of 120 changed, and 1.645 * sqrt(2) / 122 is 1.9 %.
    assert any("120 images do not show that top-1 drops by at most 1 points" in each for each in made.warnings)


def test_without_labels_what_no_longer_tells_images_apart_becomes_fp16(
    wide: Path, pictures: Path, tmp_path: Path
) -> None:
    made = prepare(wide, pictures, tmp_path / "bundle", options=PLAIN)
    assert made.gate is not None
    assert (made.gate.kept, made.gate.accurate) == ("floating point", False)
    assert made.gate.fidelity is not None
    assert made.gate.fidelity.images == 32
    assert made.gate.fidelity.spread_error is not None
    assert made.gate.fidelity.spread_error > 0.15
    assert made.gate.refused == {TRT}
    assert {line.layer for line in made.gate.worst_layers[:2]} == {"one", "two"}
    assert any(warning.startswith("the layers that lose most") and "one (Conv" in warning for warning in made.warnings)
    assert FP16 in files(made.bundle)
    assert not {ORT, TRT, "calibration.cache"} & files(made.bundle)
    assert Gate.load(made.bundle / GATE) == made.gate
    assert check_canaries(made.bundle, threads=1).passed


def test_with_labels_the_layers_at_fault_are_kept_in_floating_point(wide: Path, pictures: Path, tmp_path: Path) -> None:
    made = prepare(wide, pictures, tmp_path / "bundle", labelled=pictures, options=PLAIN)
    assert made.search is not None
    assert set(made.search.kept) == {"one", "two"}
    assert made.search.steps[0].headline.drop > 20
    assert made.gate is not None
    assert (made.gate.kept, made.gate.refused) == ("int8", frozenset())
    assert {line.layer for line in made.gate.worst_layers[:2]} == {"one", "two"}
    answers = made.quality.answers
    assert answers is not None
    assert (answers.images, answers.top1_reference, answers.top1_candidate) == (60, 100.0, 100.0), "not searched on"
    plan = PrecisionPlan.load(made.bundle / "plan.yaml")
    assert "wide" in plan.layers(Precision.INT8)
    assert not {"one", "two"} & plan.layers(Precision.INT8)
    assert {"search.json", ORT, TRT} <= files(made.bundle)


@pytest.mark.usefixtures("quick_latency")
def test_what_neither_int8_nor_fp16_can_compute_is_refused_with_status_1(
    pictures: Path, tmp_path: Path, edgeq: Edgeq
) -> None:
    """Numbers of about 1 on top of 30,000: a step of FP16 is 16 there, and one of INT8 is 236."""
    model = write_colour_network(tmp_path / "model", colour_network(offset=30000.0))
    flags = ("--images", pictures, "--method", "minmax", *ALLOW_FLAGS)
    done = edgeq("prepare", model, *flags, "-o", tmp_path / "bundle")
    assert (done.status, done.out) == (1, "")
    assert "neither INT8 nor FP16 answers as FP32 does" in done.err
    assert "model.int8.trt.onnx: " in done.err
    assert "the layers that lose most" in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "bundle").exists()
    kept = edgeq("prepare", model, *flags, "--gate", "off", "-o", tmp_path / "bundle")
    assert kept.status == 0, kept.err
    assert "INT8 was kept, as asked for, although" in kept.err
    assert {ORT, TRT} <= files(tmp_path / "bundle")
    assert json.loads((tmp_path / "bundle" / GATE).read_text())["enforced"] is False


def test_a_loss_that_tensorrt_alone_has_takes_its_graph_alone(tmp_path: Path) -> None:
    """The input's blue is ten times as wide: TensorRT has one grid for all channels, ONNX Runtime takes the pixels."""
    std = (0.25, 0.25, 0.025)
    model = write_colour_network(tmp_path / "model", colour_network(gain=20.0), std=std)
    pictures = draw_close_colours(tmp_path / "pictures", 40, levels=3)
    options = Options(
        allow={**ALLOWED, "EQ110": "a camera with a narrow blue"},
        threads=1,
        timing=QUICK,
        method="minmax",
        channel_equalization="none",
    )
    made = prepare(model, pictures, tmp_path / "bundle", labelled=pictures, options=options)
    assert made.quality.answers is not None
    assert (made.quality.answers.top1_reference, made.quality.answers.top1_candidate) == (100.0, 100.0)
    assert made.gate is not None
    assert made.gate.kept == "int8"
    assert made.gate.refused == {TRT}
    assert any(warning.startswith(f"tensorrt does not get {TRT}: top-1 drops by") for warning in made.warnings)
    assert {ORT, FP16} <= files(made.bundle)
    assert not {TRT, "calibration.cache", FP16_INPUTS} & files(made.bundle)
    inputs = EngineInputs.load(made.bundle / ENGINE_INPUTS)
    assert (inputs.precision, inputs.graphs["explicit"].file) == ("fp16", FP16)
    assert PrecisionPlan.load(made.bundle / "plan.yaml").layers(Precision.INT8)
    assert check_canaries(made.bundle, threads=1).passed


def test_labels_in_another_order_are_told_with_the_order_that_fits(pictures: Path, tmp_path: Path) -> None:
    model = write_colour_network(tmp_path / "model", colour_network())
    config = {"id2label": {str(index): name for index, name in enumerate(reversed(CLASSES))}}
    (model / "config.json").write_text(json.dumps(config))
    made = prepare(model, pictures, tmp_path / "bundle", labelled=pictures, options=PLAIN)
    wanted = (
        "the labels look permuted: FP32 is right for 33.33 % of 120 images, and for 100.00 % with the classes in "
        "another order (reversed): see id2label in config.json"
    )
    assert wanted in made.warnings
    assert not any("guessing" in warning for warning in made.warnings)
    answers = Quality.load(made.bundle / "quality.json").answers
    assert answers is not None
    assert answers.likely_order == LabelOrder(name="reversed", top1=100.0)
