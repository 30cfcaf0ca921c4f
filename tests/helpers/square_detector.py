"""A YOLOv8-type detector whose weights were worked out: it finds 8 x 8 squares of three colours, and scenes of them.

Two scales, each with a box and a class branch; box distances by a softmax over bins (DFL), all joined behind the last
convolutions as Ultralytics' export does: one output [N, 4+3, A], boxes as centre and size in pixels, scores behind a
sigmoid, and the metadata `names`, `stride` and `task`. With keypoints it finds two corners of each square as well, left
upper and right lower, as Ultralytics' pose models do: [N, 4+3+6, A].
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from networks import ALLOWED, QUICK
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgeq.model.images.preprocess import Preprocess
from edgeq.pipeline.classifier import Options, prepare

__all__ = [
    "CLASSES",
    "OPTIONS",
    "PREPROCESS",
    "SIDE",
    "detector_place",
    "draw_scenes",
    "square_detector",
    "write_detector",
]

SIDE, CELL, BINS = 64, 8, 4
CLASSES = ("blue", "green", "red")
_COLOURS = {"blue": (30, 30, 220), "green": (30, 220, 30), "red": (220, 30, 30)}
PREPROCESS = Preprocess.from_flags((0, 0, 0), (1, 1, 1), (SIDE, SIDE))
OPTIONS = Options(allow={**ALLOWED, "EQ109": "drawn", "EQ110": "drawn"}, threads=1, timing=QUICK)
"""For tests on a few drawn scenes."""


def square_detector(*, keypoints: bool = False) -> onnx.ModelProto:
    """float32 [batch, 3, 64, 64] in 0..1 -> [batch, 7, 80], or [batch, 13, 80] with keypoints."""
    rng = np.random.default_rng(0)
    stem = np.zeros((8, 3, CELL, CELL), np.float32)
    for channel in range(8):  # blue, green, red over a cell, and five mixtures
        mixture = np.eye(3)[2 - channel] if channel < 3 else rng.uniform(0, 0.3, 3)
        stem[channel] = (mixture / CELL**2)[:, None, None]
    body = rng.normal(0, 0.01, (8, 8, 3, 3)).astype(np.float32)
    body[np.arange(8), np.arange(8), 1, 1] += 1.0
    classes = np.zeros((3, 8, 1, 1), np.float32)
    classes[:, :3, 0, 0] = 20.0 * np.eye(3) - 8.0 * (1 - np.eye(3))
    boxes = rng.normal(0, 0.02, (4 * BINS, 8, 1, 1)).astype(np.float32)
    half = np.tile([5.0, 5.0, -10.0, -10.0], 4)  # half a cell to each side
    constants: dict[str, NDArray[np.generic]] = {
        "stem.w": stem,
        "body.w": body,
        "down.w": body,
        "zero": np.zeros(8, np.float32),
        "cv2.w": boxes,
        "cv2.b": half.astype(np.float32),
        "cv3.w": classes,
        "cv3.b": np.full(3, -8.0, np.float32),
        "cv3.far": np.full(3, -30.0, np.float32),
        "dfl.w": np.arange(BINS, dtype=np.float32).reshape(1, BINS, 1, 1),
        "join": np.array([0, 4 * BINS + 3, -1]),
        "bins": np.array([0, 4, BINS, 80]),
        "distances": np.array([0, 4, 80]),
        "sizes": np.array([4 * BINS, 3]),
        "halves": np.array([2, 2]),
        "two": np.array(2.0, np.float32),
    }
    if keypoints:
        constants |= {
            "cv4.w": rng.normal(0, 0.002, (6, 8, 1, 1)).astype(np.float32),
            "cv4.b": np.array([0.0, 0.0, 8.0, 0.5, 0.5, 8.0], np.float32),  # 0.5 is one cell: it is doubled
            "points.flat": np.array([0, 6, -1]),
            "points.apart": np.array([0, 2, 3, 80]),
            "two_one": np.array([2, 1]),
            "half": np.array(0.5, np.float32),
            "points.joined": np.array([0, 6, 80]),
        }
    anchors, strides = [], []
    for cells, stride in ((SIDE // CELL, CELL), (SIDE // CELL // 2, 2 * CELL)):
        place = np.stack(np.meshgrid(np.arange(cells), np.arange(cells)), axis=0).reshape(2, -1) + 0.5
        anchors.append(place)
        strides.append(np.full(cells * cells, stride))
    constants["anchors"] = np.concatenate(anchors, axis=1)[None].astype(np.float32)
    constants["strides"] = np.concatenate(strides)[None, None].astype(np.float32)
    node = helper.make_node
    nodes = [
        node("Conv", ["images", "stem.w", "zero"], ["stem"], name="stem", strides=[CELL, CELL]),
        node("Relu", ["stem"], ["stem_relu"], name="stem_relu"),
        node("Conv", ["stem_relu", "body.w", "zero"], ["body"], name="body", pads=[1] * 4),
        node("Relu", ["body"], ["p3"], name="body_relu"),
        node("Conv", ["p3", "down.w", "zero"], ["down"], name="down", pads=[1] * 4, strides=[2, 2]),
        node("Relu", ["down"], ["p4"], name="down_relu"),
    ]
    for scale, bias in (("p3", "cv3.b"), ("p4", "cv3.far")):
        nodes += [
            node("Conv", [scale, "cv2.w", "cv2.b"], [f"{scale}.box"], name=f"{scale}.cv2"),
            node("Conv", [scale, "cv3.w", bias], [f"{scale}.cls"], name=f"{scale}.cv3"),
            node("Concat", [f"{scale}.box", f"{scale}.cls"], [f"{scale}.both"], name=f"{scale}.both", axis=1),
            node("Reshape", [f"{scale}.both", "join"], [f"{scale}.flat"], name=f"{scale}.flat"),
        ]
    nodes += [
        node("Concat", ["p3.flat", "p4.flat"], ["all"], name="all", axis=2),
        node("Split", ["all", "sizes"], ["box", "cls"], name="split", axis=1),
        node("Reshape", ["box", "bins"], ["by_bin"], name="by_bin"),
        node("Transpose", ["by_bin"], ["bins_first"], name="bins_first", perm=[0, 2, 1, 3]),
        node("Softmax", ["bins_first"], ["shares"], name="shares", axis=1),
        node("Conv", ["shares", "dfl.w"], ["dfl"], name="dfl"),
        node("Reshape", ["dfl", "distances"], ["ltrb"], name="ltrb"),
        node("Split", ["ltrb", "halves"], ["lt", "rb"], name="ends", axis=1),
        node("Sub", ["anchors", "lt"], ["x1y1"], name="x1y1"),
        node("Add", ["anchors", "rb"], ["x2y2"], name="x2y2"),
        node("Add", ["x1y1", "x2y2"], ["sum"], name="sum"),
        node("Div", ["sum", "two"], ["centre"], name="centre"),
        node("Sub", ["x2y2", "x1y1"], ["wh"], name="wh"),
        node("Concat", ["centre", "wh"], ["cells"], name="cells", axis=1),
        node("Mul", ["cells", "strides"], ["pixels"], name="pixels"),
        node("Sigmoid", ["cls"], ["scores"], name="scores"),
    ]
    if keypoints:
        nodes += _keypoint_nodes()
    ends = ["pixels", "scores", *(["keypoints"] if keypoints else [])]
    nodes.append(node("Concat", ends, ["output0"], name="output", axis=1))
    graph = helper.make_graph(
        nodes,
        "squares",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, ["batch", 4 + len(CLASSES) + 6 * keypoints, 80])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    names = str(dict(enumerate(CLASSES)))
    told = {"task": "pose", "kpt_shape": "[2, 3]"} if keypoints else {"task": "detect"}
    helper.set_model_props(model, {"names": names, "stride": "16", **told})
    onnx.checker.check_model(model, full_check=True)
    return model


def _keypoint_nodes() -> list[onnx.NodeProto]:
    """From both scales to `keypoints` [N, 6, A]: x = (2 v + anchor - 0.5) x stride, and a sigmoid of visibility."""
    node = helper.make_node
    nodes = []
    for scale in ("p3", "p4"):
        nodes += [
            node("Conv", [scale, "cv4.w", "cv4.b"], [f"{scale}.points"], name=f"{scale}.cv4"),
            node("Reshape", [f"{scale}.points", "points.flat"], [f"{scale}.points_flat"], name=f"{scale}.points_flat"),
        ]
    return [
        *nodes,
        node("Concat", ["p3.points_flat", "p4.points_flat"], ["points_all"], name="points_all", axis=2),
        node("Reshape", ["points_all", "points.apart"], ["points_apart"], name="points_apart"),
        node("Split", ["points_apart", "two_one"], ["places", "sure"], name="points_split", axis=2),
        node("Mul", ["places", "two"], ["doubled"], name="doubled"),
        node("Sub", ["anchors", "half"], ["cell_corners"], name="cell_corners"),
        node("Add", ["doubled", "cell_corners"], ["in_cells"], name="in_cells"),
        node("Mul", ["in_cells", "strides"], ["in_pixels"], name="in_pixels"),
        node("Sigmoid", ["sure"], ["visibility"], name="visibility"),
        node("Concat", ["in_pixels", "visibility"], ["points_again"], name="points_again", axis=2),
        node("Reshape", ["points_again", "points.joined"], ["keypoints"], name="keypoints"),
    ]


def write_detector(directory: Path, *, keypoints: bool = False) -> Path:
    """A MODEL directory with the detector alone: its file says what it is for and names the classes."""
    directory.mkdir(parents=True)
    onnx.save(square_detector(keypoints=keypoints), directory / "model.onnx")
    return directory


def detector_place(factory: pytest.TempPathFactory) -> Path:
    """`model`, scenes to calibrate on and to judge by (of twice the size), `bundle` of them; not to be written to."""
    folder = factory.getbasetemp() / "detector"
    if not (folder / "bundle").exists():
        write_detector(folder / "model")
        calibration = draw_scenes(folder / "calibration", 32, seed=1)
        labelled = draw_scenes(folder / "evaluation", 16, seed=2, size=2 * SIDE)
        made = folder / "bundle"
        prepare(folder / "model", calibration, made, labelled=labelled, preprocess=PREPROCESS, options=OPTIONS)
    return folder


def draw_scenes(folder: Path, count: int, *, seed: int = 0, size: int = SIDE) -> Path:
    """Dark scenes of `size` pixels with up to four squares each, and `instances.json` that tells of them.

    Each square's left upper and right lower corners are told as keypoints.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    images, annotations = [], []
    cells, side = SIDE // CELL, CELL * size // SIDE
    for number in range(count):
        scene = rng.integers(0, 40, (size, size, 3), np.uint8)
        for cell in rng.choice(cells * cells, rng.integers(1, 5), replace=False).tolist():
            name = CLASSES[int(rng.integers(3))]
            top, left = side * (cell // cells), side * (cell % cells)
            scene[top : top + side, left : left + side] = np.array(_COLOURS[name]) + rng.integers(-25, 25, 3)
            category = 1 + CLASSES.index(name)
            corners = [left, top, 2, left + side, top + side, 2]
            told = {"image_id": number, "category_id": category, "keypoints": corners}
            annotations.append({**told, "bbox": [left, top, side, side]})
        Image.fromarray(scene).save(folder / f"{number:03d}.png")
        images.append({"id": number, "file_name": f"{number:03d}.png", "width": size, "height": size})
    categories = [{"id": 1 + place, "name": name} for place, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "instances.json").write_text(json.dumps(content))
    return folder
