"""A detector through the main job: its task is known, its head is read, and it is judged by what it is for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from networks import QUICK
from PIL import Image
from square_detector import CLASSES, OPTIONS, PREPROCESS, SIDE, detector_place, square_detector

from edgeq.api.device.opened import open_bundle
from edgeq.api.workshop.stages import calibrate_model, evaluate, export_model, quantize_model
from edgeq.bundle.manifest import read_manifest
from edgeq.errors import ArtifactError, InputError, ModelError
from edgeq.model.heads.settings import DETECTOR, DetectorSettings
from edgeq.pipeline.classifier import prepare
from edgeq.plan.precision import Precision, PrecisionPlan
from edgeq.quality.judge import Quality
from edgeq.quality.tasks.detection.found_again import FoundAgain
from edgeq.quality.tasks.detection.task import Detection


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return detector_place(tmp_path_factory)


def test_a_labelled_detector_is_judged_by_map(place: Path) -> None:
    """The weights find every square in FP32, half a pixel off at most; in INT8 too."""
    quality = Quality.load(place / "bundle" / "quality.json")
    figures = quality.judged
    assert isinstance(figures, Detection)
    assert figures.map50_reference == pytest.approx(100.0)
    assert figures.map_reference > 85.0
    assert figures.images == 16
    labels = json.loads((place / "evaluation" / "instances.json").read_text())
    assert figures.objects == len(labels["annotations"])
    assert figures.found_again.lost == 0.0
    assert abs(figures.drop) < 10.0
    assert set(figures.found_again.field_errors) == {"boxes", "scores"}
    assert [entry.batch for entry in quality.latency] == [1, 4]


def test_the_bundle_says_what_it_is(place: Path) -> None:
    manifest = read_manifest(place / "bundle")
    assert (manifest.labels, manifest.task) == (CLASSES, "detect")
    head = DetectorSettings.load(place / "bundle" / DETECTOR).head
    assert (head.kind, head.outputs, head.classes) == ("yolov8", ("output0",), 3)
    assert (head.unit, head.scores) == ("pixels", "done")
    again = evaluate(place / "bundle", place / "evaluation", threads=1, timing=QUICK)
    assert again.judged == Quality.load(place / "bundle" / "quality.json").judged


def test_without_labels_int8_must_find_what_fp32_finds(place: Path, tmp_path: Path) -> None:
    prepared = prepare(
        place / "model", place / "calibration", tmp_path / "bundle", preprocess=PREPROCESS, options=OPTIONS
    )
    figures = prepared.quality.judged
    assert isinstance(figures, FoundAgain)
    assert figures.detections > 32
    assert (figures.lost, figures.new) == (0.0, 0.0)
    assert figures.box_shift is not None
    assert figures.box_shift < 1.0


def test_a_head_that_is_not_known_is_refused_before_any_work(place: Path, tmp_path: Path) -> None:
    model = square_detector()
    model.graph.node[-1].input[:] = ["pixels", "scores", "scores"]  # 4 + 6 numbers for 3 classes
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 10
    onnx.save(model, tmp_path / "model.onnx")
    stages: list[str] = []
    with pytest.raises(ModelError, match=r"output0 \[\?, 10, 80\]; it has 3 classes"):
        prepare(
            tmp_path / "model.onnx",
            place / "calibration",
            tmp_path / "bundle",
            preprocess=PREPROCESS,
            options=OPTIONS,
            progress=lambda stage, _done, _total: stages.append(stage),
        )
    assert stages == ["open"]
    assert not (tmp_path / "bundle").exists()


def test_a_head_for_what_is_no_detector_is_refused(place: Path, tmp_path: Path) -> None:
    model = square_detector()
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "model.onnx")
    with pytest.raises(ModelError, match="--detector-head yolov8, and the task is classification"):
        prepare(
            tmp_path / "model.onnx",
            place / "calibration",
            tmp_path / "bundle",
            preprocess=PREPROCESS,
            options=replace(OPTIONS, detector_head="yolov8"),
        )


def test_the_drawn_squares_are_found_where_they_are() -> None:
    """One red square at row 2, column 5: the network's own arithmetic, by hand."""
    from edgeq.engine.onnxruntime import OnnxRuntimeEngine

    pixels = np.zeros((1, 3, SIDE, SIDE), np.float32)
    pixels[0, 0, 16:24, 40:48] = 220 / 255
    output = OnnxRuntimeEngine(square_detector().SerializeToString()).run({"images": pixels})["output0"]
    anchor = 2 * 8 + 5
    np.testing.assert_allclose(output[0, :4, anchor], [44, 20, 8, 8], atol=0.2)
    assert output[0, 4:].argmax() == 2 * 80 + anchor
    assert output[0, 6, anchor] > 0.99
    assert np.delete(output[0, 4:].reshape(-1), 2 * 80 + anchor).max() < 0.25


def test_the_stages_one_by_one_know_the_task_too(place: Path, tmp_path: Path) -> None:
    exported, quantized = tmp_path / "exported", tmp_path / "quantized"
    export_model(place / "model", place / "calibration", exported, preprocess=PREPROCESS, threads=1)
    calibrated = calibrate_model(exported, place / "calibration", tmp_path / "scales.json", threads=1)
    assert {trial.images for trial in calibrated.scales.trials} <= {2, 8}
    quantize_model(exported, tmp_path / "scales.json", quantized, options=OPTIONS)
    figures = evaluate(quantized, place / "evaluation", threads=1, timing=QUICK).judged
    assert isinstance(figures, Detection)
    assert figures.map50_reference == pytest.approx(100.0)


def test_what_computes_with_boxes_and_scores_stays_in_floating_point(place: Path) -> None:
    """Behind the last convolutions fields of different scales are joined: none of that has one scale."""
    decisions = {one.layer: one.precision for one in PrecisionPlan.load(place / "bundle" / "plan.yaml").decisions}
    behind = ("p3.both", "p4.both", "p3.flat", "p4.flat", "all", "split", "by_bin", "bins_first", "shares", "ltrb")
    decoded = ("ends", "x1y1", "x2y2", "sum", "centre", "wh", "cells", "pixels", "scores", "output")
    heads = ("p3.cv2", "p3.cv3", "p4.cv2", "p4.cv3", "dfl")
    assert {decisions[name] for name in (*heads, *behind, *decoded)} == {Precision.FP32}
    assert decisions["stem"] is decisions["body"] is Precision.INT8


def test_the_python_api_finds_objects(place: Path) -> None:
    picture = place / "evaluation" / "000.png"
    labels = json.loads((place / "evaluation" / "instances.json").read_text())["annotations"]
    wanted = sorted(one["bbox"][:2] for one in labels if one["image_id"] == 0)
    with open_bundle(place / "bundle", threads=1) as bundle:
        found = bundle.detect(picture)
        np.testing.assert_allclose(sorted(found.boxes[:, :2].tolist()), np.array(wanted), atol=1.5)
        assert len(bundle.detect(picture, score=1.0)) == 0
        for ask in (bundle.classify, bundle.embed, bundle.segment):
            with pytest.raises(ArtifactError, match="gives no"):
                ask(picture)
        with pytest.raises(InputError, match="a score of 0"):
            bundle.detect(picture, score=0.0)


def test_pictures_show_fp32_beside_int8(place: Path) -> None:
    """Both find the same here, so that both halves are the same but for scores; frames are where the squares are."""
    pictures = sorted((place / "bundle" / "compared").iterdir())
    assert [picture.name for picture in pictures] == [f"{number}.png" for number in range(4)]
    assert {file.name for file in read_manifest(place / "bundle").files} >= {"compared/0.png"}
    with Image.open(pictures[0]) as image, Image.open(place / "bundle" / "canaries" / "0.png") as canary:
        assert image.size == (2 * canary.width + 8, canary.height)
        drawn, original = np.asarray(image), np.asarray(canary)
    assert (drawn[:, canary.width : canary.width + 8] == 255).all()
    left, right = drawn[:, : canary.width], drawn[:, canary.width + 8 :]
    for side in (left, right):
        assert 50 < (side != original).any(axis=2).sum() < 0.6 * side.shape[0] * side.shape[1]
