"""The network that ships is what its record says: small, unfolded, and as good as stated on scenes it never saw."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import edgeq.demo
from edgeq.demo.scenes import EVALUATION_SEED, KINDS, SEED_RANGE, SIZE, TRAIN_SEED, draw_scene

onnx = pytest.importorskip("onnx", reason="the workshop extra is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the workshop extra is not installed")

WEIGHTS = Path(edgeq.demo.__file__).parent / "weights"
FRESH_SEED = EVALUATION_SEED + SEED_RANGE // 2
"""Scenes that neither training nor its record has looked at."""


def read(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((WEIGHTS / name).read_text(encoding="utf-8"))
    return content


@pytest.fixture(scope="module")
def graph() -> Any:
    model = onnx.load(WEIGHTS / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    return model


def test_the_file_is_small_enough_to_ship() -> None:
    assert (WEIGHTS / "model.onnx").stat().st_size < 2_000_000


def test_the_graph_is_as_files_from_elsewhere_often_are(graph: Any) -> None:
    kinds = [node.op_type for node in graph.graph.node]
    assert kinds.count("BatchNormalization") == kinds.count("Conv") > 8
    assert "Add" in kinds
    assert graph.ir_version <= 10
    assert [(entry.domain, entry.version) for entry in graph.opset_import] == [("", 18)]


def test_the_graph_has_depthwise_and_strided_convolutions(graph: Any) -> None:
    convolutions = [
        {entry.name: onnx.helper.get_attribute_value(entry) for entry in node.attribute}
        for node in graph.graph.node
        if node.op_type == "Conv"
    ]
    assert max(attributes["group"] for attributes in convolutions) > 1
    assert [2, 2] in [attributes["strides"] for attributes in convolutions]


def test_input_and_output_are_as_documented(graph: Any) -> None:
    shapes = {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*graph.graph.input, *graph.graph.output)
    }
    assert shapes == {"pixel_values": ["batch", 3, SIZE, SIZE], "logits": ["batch", len(KINDS)]}


def test_no_path_of_the_machine_it_was_made_on_is_in_the_file() -> None:
    content = (WEIGHTS / "model.onnx").read_bytes()
    assert b"site-packages" not in content
    assert b".py" not in content


def test_labels_are_the_kinds_in_sorted_order() -> None:
    assert read("config.json")["id2label"] == {str(index): kind for index, kind in enumerate(sorted(KINDS))}


def test_the_record_counts_the_parameters_that_are_in_the_file(graph: Any) -> None:
    trained = [
        math.prod(entry.dims)
        for entry in graph.graph.initializer
        if entry.name.endswith((".weight", ".bias"))  # not the running statistics
    ]
    assert read("training.json")["parameters"] == sum(trained)


def test_training_and_evaluation_scenes_are_apart() -> None:
    record = read("training.json")
    assert record["settings"]["first_scene"] == TRAIN_SEED
    assert record["settings"]["scenes_per_kind"] <= SEED_RANGE
    assert record["evaluation"]["first_seed"] == EVALUATION_SEED


def test_the_stated_accuracy_holds_on_fresh_scenes() -> None:
    per_kind = 60
    right = sum(recognised(kind, per_kind) for kind in KINDS)
    stated = read("training.json")["evaluation"]["accuracy"]
    scenes = per_kind * len(KINDS)
    # Four standard deviations of a binomial count: wrong once in 15,000 tries, were the scenes drawn anew each time.
    noise = 4 * math.sqrt(stated * (1 - stated) / scenes)
    assert abs(right / scenes - stated) <= noise


def test_the_task_is_neither_trivial_nor_hopeless() -> None:
    assert 0.93 <= read("training.json")["evaluation"]["accuracy"] <= 0.98


def test_a_batch_of_one_gives_what_a_batch_of_many_gives() -> None:
    batch = np.stack([prepared(draw_scene(kind, FRESH_SEED)) for kind in KINDS])
    together = logits(batch)
    apart = np.concatenate([logits(picture[None]) for picture in batch])
    np.testing.assert_allclose(together, apart, atol=1e-4)


def recognised(kind: str, count: int) -> int:
    batch = np.stack([prepared(draw_scene(kind, FRESH_SEED + index)) for index in range(count)])
    return int((logits(batch).argmax(axis=1) == KINDS.index(kind)).sum())


def prepared(scene: Image.Image) -> Any:
    steps = read("preprocessor_config.json")
    mean, deviation = (np.array(steps[key], np.float32)[:, None, None] for key in ("image_mean", "image_std"))
    values = np.asarray(scene, np.float32).transpose(2, 0, 1) * np.float32(steps["rescale_factor"])
    return (values - mean) / deviation


def logits(batch: Any) -> Any:
    session = onnxruntime.InferenceSession(WEIGHTS / "model.onnx", providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"pixel_values": batch})[0]
