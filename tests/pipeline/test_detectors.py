"""A detector through the main job: its task is known, its head is read, and it is judged by what it is for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from networks import ALLOWED, QUICK
from square_detector import CLASSES, SIDE, draw_scenes, square_detector, write_detector

from edgeq.api.workshop.stages import evaluate
from edgeq.errors import ModelError
from edgeq.model.heads.settings import DETECTOR, DetectorSettings
from edgeq.model.images.preprocess import Preprocess
from edgeq.pipeline.classifier import Options, Prepared, prepare
from edgeq.quality.judge import Quality
from edgeq.quality.tasks.detection.found_again import FoundAgain
from edgeq.quality.tasks.detection.task import Detection

PREPROCESS = Preprocess.from_flags((0, 0, 0), (1, 1, 1), (SIDE, SIDE))
OPTIONS = Options(allow={**ALLOWED, "EQ109": "drawn", "EQ110": "drawn"}, threads=1, timing=QUICK)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The detector, scenes to calibrate on, and larger ones to judge by."""
    folder = tmp_path_factory.mktemp("detector")
    write_detector(folder / "model")
    draw_scenes(folder / "calibration", 32, seed=1)
    draw_scenes(folder / "evaluation", 16, seed=2, size=2 * SIDE)
    return folder


@pytest.fixture(scope="module")
def judged(place: Path) -> Prepared:
    return prepare(
        place / "model",
        place / "calibration",
        place / "bundle",
        labelled=place / "evaluation",
        preprocess=PREPROCESS,
        options=OPTIONS,
    )


def test_a_labelled_detector_is_judged_by_map(judged: Prepared) -> None:
    """The weights find every square in FP32, half a pixel off at most; in INT8 too."""
    figures = judged.quality.judged
    assert isinstance(figures, Detection)
    assert figures.map50_reference == pytest.approx(100.0)
    assert figures.map_reference > 85.0
    assert figures.images == 16
    assert figures.objects == len(
        json.loads((judged.bundle.parent / "evaluation/instances.json").read_text())["annotations"]
    )
    assert figures.found_again.lost == 0.0
    assert abs(figures.drop) < 10.0
    assert set(figures.found_again.field_errors) == {"boxes", "scores"}
    assert Quality.load(judged.bundle / "quality.json") == judged.quality
    assert [entry.batch for entry in judged.quality.latency] == [1, 4]


def test_the_bundle_says_what_it_is(judged: Prepared) -> None:
    assert judged.manifest.labels == CLASSES
    head = DetectorSettings.load(judged.bundle / DETECTOR).head
    assert (head.kind, head.outputs, head.classes, head.unit, head.scores) == (
        "yolov8",
        ("output0",),
        3,
        "pixels",
        "done",
    )
    again = evaluate(judged.bundle, judged.bundle.parent / "evaluation", threads=1, timing=QUICK)
    assert again.judged == judged.quality.judged


def test_without_labels_int8_must_find_what_fp32_finds(place: Path) -> None:
    prepared = prepare(
        place / "model", place / "calibration", place / "unlabelled", preprocess=PREPROCESS, options=OPTIONS
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
