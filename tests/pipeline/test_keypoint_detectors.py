"""A detector with keypoints through the main job: chosen by its metadata, judged by keypoints, read on a device."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from square_detector import CLASSES, OPTIONS, PREPROCESS, SIDE, draw_scenes, write_detector

from edgeq.api.device.opened import open_bundle
from edgeq.bundle.manifest import read_manifest
from edgeq.model.heads.detector import KeypointShape
from edgeq.model.heads.settings import DETECTOR, DetectorSettings
from edgeq.pipeline.classifier import prepare
from edgeq.quality.judge import Quality
from edgeq.quality.tasks.detection.keypoints import Keypoints
from edgeq.service.routes.pixel_routes import detected
from edgeq.service.routes.schemas import PosedObject


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`bundle` of a detector with keypoints, and the scenes of twice its size that it was judged by."""
    folder = tmp_path_factory.mktemp("keypoints")
    model = write_detector(folder / "model", keypoints=True)
    labelled = draw_scenes(folder / "evaluation", 16, seed=2, size=2 * SIDE)
    calibration = draw_scenes(folder / "calibration", 32, seed=1)
    prepare(model, calibration, folder / "bundle", labelled=labelled, preprocess=PREPROCESS, options=OPTIONS)
    return folder


def test_it_is_judged_by_keypoints(place: Path) -> None:
    """The weights tell both corners of every square in FP32, half a pixel off at most; in INT8 too."""
    figures = Quality.load(place / "bundle" / "quality.json").judged
    assert isinstance(figures, Keypoints)
    assert figures.map50_reference == pytest.approx(100.0)
    assert figures.map_reference > 95.0
    assert figures.boxes_reference > 85.0
    assert abs(figures.drop) < 10.0
    assert figures.found_again.keypoint_shift is not None
    assert figures.found_again.keypoint_shift < 2.0
    assert set(figures.found_again.field_errors) == {"boxes", "scores", "keypoints", "visibility"}
    assert figures.rows()[0][0].startswith("keypoint mAP@50:95")


def test_the_bundle_tells_keypoints_in_the_images_pixels(place: Path) -> None:
    assert read_manifest(place / "bundle").task == "detect"
    assert DetectorSettings.load(place / "bundle" / DETECTOR).head.keypoints == KeypointShape(count=2, values=3)
    labels = json.loads((place / "evaluation" / "instances.json").read_text())
    told = [one for one in labels["annotations"] if one["image_id"] == 0]
    with open_bundle(place / "bundle") as opened, Image.open(place / "evaluation" / "000.png") as image:
        found = opened.detect(image)
    assert len(found) == len(told)
    assert found.keypoints is not None
    order = np.lexsort(found.boxes[:, :2].round(-1).T)
    expected = np.array(sorted((one["keypoints"] for one in told), key=lambda one: (one[1], one[0])), np.float64)
    np.testing.assert_allclose(found.keypoints[order][..., :2].reshape(-1, 4), expected[:, [0, 1, 3, 4]], atol=3.0)
    assert (found.keypoints[..., 2] > 0.9).all()
    first = detected(found, CLASSES, 1)[0]
    assert isinstance(first, PosedObject)
    assert first.keypoints[1].x == pytest.approx(float(found.keypoints[0, 1, 0]))
    pictures = list((place / "bundle").rglob("*.png")) + list((place / "bundle").rglob("*.jpg"))
    assert pictures
