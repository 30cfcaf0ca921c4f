"""A network that gives each pixel a class through the main job: judged by mIoU, and without masks beside FP32."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from networks import ALLOWED, QUICK
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgeq.errors import ModelError
from edgeq.model.heads.settings import SEGMENTER, SegmenterSettings
from edgeq.model.images.preprocess import Preprocess
from edgeq.pipeline.classifier import Options, prepare
from edgeq.quality.tasks.segmentation.task import SamePixels, Segmentation

SIDE, CELL = 32, 4
CLASSES = ("red", "green", "blue")
PREPROCESS = Preprocess.from_flags((0, 0, 0), (1, 1, 1), (SIDE, SIDE))
OPTIONS = Options(task="segmentation", allow={**ALLOWED, "EQ109": "drawn", "EQ110": "drawn"}, threads=1, timing=QUICK)


def network(channels: int) -> onnx.ModelProto:
    """float32 [batch, 3, 32, 32] -> [batch, channels, 8, 8]: how much of each colour is in a cell of 4 x 4 pixels."""
    stem = np.zeros((8, 3, CELL, CELL), np.float32)
    stem[np.arange(3), np.arange(3)] = 1.0 / CELL**2
    last = np.zeros((channels, 8, 1, 1), np.float32)
    last[:, :3, 0, 0] = 9.0 * np.eye(channels, 3)
    constants = {"stem.w": stem, "last.w": last, "stem.b": np.zeros(8, np.float32)}
    nodes = [
        helper.make_node("Conv", ["pixels", "stem.w", "stem.b"], ["stem"], name="stem", strides=[CELL, CELL]),
        helper.make_node("Relu", ["stem"], ["relu"], name="relu"),
        helper.make_node("Conv", ["relu", "last.w"], ["logits"], name="last"),
    ]
    graph = helper.make_graph(
        nodes,
        "segments",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", channels, SIDE // CELL, SIDE // CELL])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def write(folder: Path, channels: int = 3) -> Path:
    folder.mkdir()
    onnx.save(network(channels), folder / "model.onnx")
    (folder / "config.json").write_text(json.dumps({"id2label": dict(enumerate(CLASSES))}))
    return folder


def draw(folder: Path, count: int, seed: int) -> Path:
    """Images of 64 pixels in quarters of one colour each, and their masks."""
    rng = np.random.default_rng(seed)
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True)
    for number in range(count):
        quarters = rng.integers(0, 3, (2, 2))
        mask = np.kron(quarters, np.ones((SIDE, SIDE), np.int64))
        shade = np.eye(3)[mask] * 180 + rng.integers(0, 60, (2 * SIDE, 2 * SIDE, 3))
        Image.fromarray(shade.astype(np.uint8)).save(folder / "images" / f"{number:02d}.jpg", quality=95)
        Image.fromarray(mask.astype(np.uint8)).save(folder / "masks" / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("segmenter")
    write(folder / "model")
    draw(folder / "calibration", 32, 1)
    draw(folder / "evaluation", 8, 2)
    return folder


def test_pixels_with_masks_are_judged_by_miou(place: Path) -> None:
    """Cells of one colour: all pixels are right but for those that the enlarging smears where colours meet."""
    prepared = prepare(
        place / "model",
        place / "calibration" / "images",
        place / "bundle",
        labelled=place / "evaluation",
        preprocess=PREPROCESS,
        options=OPTIONS,
    )
    figures = prepared.quality.judged
    assert isinstance(figures, Segmentation)
    assert (figures.images, figures.classes) == (8, 3)
    assert figures.miou_reference > 95.0
    assert figures.same > 97.0
    assert abs(figures.drop) < 3.0
    head = SegmenterSettings.load(prepared.bundle / SEGMENTER).head
    assert (head.output, head.channels, head.height, head.channels_last) == ("logits", 3, SIDE, False)


def test_without_masks_int8_is_held_beside_fp32(place: Path) -> None:
    prepared = prepare(
        place / "model",
        place / "calibration" / "images",
        place / "unlabelled",
        preprocess=PREPROCESS,
        options=OPTIONS,
    )
    figures = prepared.quality.judged
    assert isinstance(figures, SamePixels)
    assert figures.same > 97.0


def test_what_gives_pixels_no_class_is_refused_before_any_work(place: Path, tmp_path: Path) -> None:
    stages: list[str] = []
    with pytest.raises(ModelError, match=r"no output gives each pixel a class: logits .*; the model has 3 classes"):
        prepare(
            write(tmp_path / "model", 5),
            place / "calibration" / "images",
            tmp_path / "bundle",
            preprocess=PREPROCESS,
            options=OPTIONS,
            progress=lambda stage, _done, _total: stages.append(stage),
        )
    assert stages == ["open"]
