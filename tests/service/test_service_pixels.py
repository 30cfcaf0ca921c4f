"""`/v1/detect` and `/v1/segment` over a real port: a bundle that the main job made, and heads worked out by hand."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from running import NAME, Running, classifying, data_uri, picture, running
from segmenting import HalvesEngine, segmenting
from square_detector import CLASSES, detector_place

from edgeq.model.heads.masks import MaskHead
from edgeq.model.images.preprocess import Preprocess
from edgeq.runtime.pixel_answers import MASK_SIDE, Segmenter
from edgeq.service.load_bundle import open_served
from edgeq.service.settings import ServiceSettings


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return detector_place(tmp_path_factory)


@pytest.fixture(scope="module")
def detector(place: Path) -> Iterator[Running]:
    settings = ServiceSettings(port=0, name=NAME, threads=1, canaries=False)
    with running(open_served(place / "bundle", settings)) as service:
        yield service


def asked(place: Path, number: int) -> str:
    return data_uri((place / "evaluation" / f"{number:03d}.png").read_bytes())


@pytest.mark.parametrize("number", range(4))
def test_every_square_is_found_in_the_images_own_pixels(detector: Running, place: Path, number: int) -> None:
    answer = detector.http.post("/v1/detect", json={"image": asked(place, number), "model": NAME}).json()
    assert (answer["object"], answer["model"]) == ("detection", NAME)
    labels = json.loads((place / "evaluation" / "instances.json").read_text())["annotations"]
    wanted = sorted((one["bbox"], CLASSES[one["category_id"] - 1]) for one in labels if one["image_id"] == number)
    found = sorted(
        ([one["box"][side] for side in ("left", "top", "right", "bottom")], one["label"], one["score"])
        for one in answer["objects"]
    )
    assert [label for _, label, _ in found] == [label for _, label in wanted]
    for (box, _, score), (edges, _) in zip(found, wanted, strict=True):
        left, top, width, height = edges
        assert box == pytest.approx([left, top, left + width, top + height], abs=1.5)
        assert score > 0.5


def test_fewer_objects_are_told_where_that_is_asked_for(detector: Running, place: Path) -> None:
    whole = detector.http.post("/v1/detect", json={"image": asked(place, 0), "score": 0.01}).json()["objects"]
    assert [one["score"] for one in whole] == sorted((one["score"] for one in whole), reverse=True)
    top = detector.http.post("/v1/detect", json={"image": asked(place, 0), "top": 1}).json()["objects"]
    assert top == whole[:1]
    assert detector.http.post("/v1/detect", json={"image": asked(place, 0), "score": 1.0}).json()["objects"] == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"image": data_uri(), "top": 0}, 400),
        ({"image": data_uri(), "score": 2}, 400),
        ({"image": data_uri(), "score": 0.0}, 400),
        ({"image": data_uri(), "question": "what?"}, 400),
        ({}, 400),
        ({"image": data_uri(b"no image")}, 415),
        ({"image": data_uri(picture(side=64)[:-30])}, 422),
    ],
)
def test_a_bad_request(detector: Running, body: dict[str, Any], status: int) -> None:
    assert detector.http.post("/v1/detect", json=body).status_code == status


@pytest.mark.parametrize(
    ("path", "code"), [("classify", "no_classes"), ("embed", "no_vectors"), ("segment", "no_masks")]
)
def test_a_detector_does_nothing_else(detector: Running, path: str, code: str) -> None:
    answer = detector.http.post(f"/v1/{path}", json={"image": data_uri()})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, code)
    assert "ask at /v1/detect" in answer.json()["error"]["message"]


def test_a_classifier_does_not_detect() -> None:
    with running(classifying()) as service:
        answer = service.http.post("/v1/detect", json={"image": data_uri()})
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "no_objects")
        assert not {"/v1/detect", "/v1/segment"} & set(service.http.get("/openapi.json").json()["paths"])


def test_the_description_has_what_is_served(detector: Running) -> None:
    described = detector.http.get("/openapi.json").json()
    assert "/v1/detect" in described["paths"]
    assert not {"/v1/classify", "/v1/embed", "/v1/segment"} & set(described["paths"])
    example = described["paths"]["/v1/detect"]["post"]["requestBody"]["content"]["application/json"]["example"]
    assert detector.http.post("/v1/detect", json=example).status_code == 200


@pytest.mark.parametrize(("colour", "number", "label"), [((255, 255, 255), 2, "tree"), ((0, 0, 0), 1, "sky")])
def test_a_class_for_each_pixel_of_the_image(colour: Any, number: int, label: str) -> None:
    with running(segmenting()) as service:
        answer = service.http.post("/v1/segment", json={"image": data_uri(picture(colour, side=20))}).json()
        assert (answer["object"], answer["width"], answer["height"]) == ("segmentation", 20, 20)
        assert answer["classes"] == [
            {"index": 0, "label": "road", "pixels": 200},
            {"index": number, "label": label, "pixels": 200},
        ]
        mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer["mask"]))))
        assert mask.shape == (20, 20)
        assert (mask[:, :10] == 0).all()
        assert (mask[:, 10:] == number).all()
        refused = service.http.post("/v1/classify", json={"image": data_uri()})
        assert "ask at /v1/segment" in refused.json()["error"]["message"]
        assert "/v1/segment" in service.http.get("/openapi.json").json()["paths"]


def test_the_mask_of_a_large_image_is_smaller() -> None:
    preprocess = Preprocess(4, 8, resize=(4, 8), resample=0, center_crop=False, scale=1 / 255)
    segmenter = Segmenter(HalvesEngine(), MaskHead(output="logits", channels=3, height=4, width=8), preprocess)
    image = Image.new("RGB", (2 * MASK_SIDE + 4, 10))
    found = segmenter.run(segmenter.pixels(image))
    assert found.shape == (3, (2 * MASK_SIDE + 4) // 3 + 1)
    assert found[0, 0] == 0
    assert found[0, -1] == 1
