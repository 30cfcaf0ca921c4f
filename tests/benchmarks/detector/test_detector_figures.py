"""Drawn scenes as a labelled set, a network's answers held against it, and the nodes that a peer leaves alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from benchmarks.detector.graph import last_nodes
from benchmarks.detector.labelled import compare, write_scenes
from benchmarks.detector.scenes import LABELS, Boxes, draw_scenes

SEED, COUNT = 30, 6


def answers(boxes: tuple[Boxes, ...]) -> NDArray[np.float32]:
    """Outputs [n, 4 + classes, 8] of a network that says these boxes, each with a score of 0.9."""
    outputs = np.zeros((len(boxes), 4 + len(LABELS), 8), np.float32)
    for output, found in zip(outputs, boxes, strict=True):
        for anchor, (label, left, top, right, bottom) in enumerate(found):
            output[:4, anchor] = (left + right) / 2, (top + bottom) / 2, right - left, bottom - top
            output[4 + int(label), anchor] = 0.9
    return outputs


def test_drawn_boxes_are_those_of_the_labelled_set(tmp_path: Path) -> None:
    """A network that says what was drawn has all points; without the boxes of one image it loses just these."""
    pytest.importorskip("pycocotools")
    folder = tmp_path / "scenes"
    write_scenes(folder, SEED, COUNT)
    boxes = draw_scenes(SEED, COUNT).boxes
    right = answers(boxes)
    whole = sum(map(len, boxes))
    missed = next(index for index, found in enumerate(boxes) if len(found))
    worse = right.copy()
    worse[missed] = 0
    found = compare(folder, right, worse)
    assert (found.images, found.objects) == (COUNT, whole)
    assert found.map_reference == pytest.approx(100)
    assert found.map_candidate < 100
    assert found.found_again.detections == whole
    assert found.found_again.lost == pytest.approx(len(boxes[missed]) / whole)


def test_the_last_nodes_are_convolutions_that_no_other_follows_and_all_behind_them() -> None:
    """`a` -> `b` and `c`, whose answers are joined; the weights do not matter."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], name="a"),
        helper.make_node("Relu", ["a"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "w"], ["b"], name="b"),
        helper.make_node("Conv", ["r", "w"], ["c"], name="c"),
        helper.make_node("Sigmoid", ["c"], ["s"], name="sigmoid"),
        helper.make_node("Add", ["b", "s"], ["y"], name="join"),
    ]
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    weight = helper.make_tensor("w", TensorProto.FLOAT, [3, 3, 1, 1], [0.0] * 9)
    model = helper.make_model(helper.make_graph(nodes, "graph", [image], [output], [weight]))
    assert last_nodes(model) == ["b", "c", "sigmoid", "join"]
