"""Preprocessing that is not the network's: found on labelled images, with the flag that says it and what it gains."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from networks import QUICK, SIDE
from onnx import TensorProto, helper, numpy_helper
from pictures import draw_pictures

from edgeq.model.checkpoint.source import ModelSource, open_model
from edgeq.model.images.geometry import Pad
from edgeq.model.images.preprocess_flags import PreprocessFlags
from edgeq.pipeline.preprocess_check import better_ways, nearly_black
from edgeq.pipeline.stages import parity_images
from edgeq.quality.judge import judge
from edgeq.quality.tasks.classification import ClassificationTask

LONG = 1e6
"""Seconds, of which a fiftieth is enough for anything."""


def colour_network(order: tuple[int, int, int]) -> onnx.ModelProto:
    """Blue, green or red: the channel with the largest mean, where each pixel counts up to 1.

    Args:
        order: which channel of the input is blue, green and red.
    """
    turn = np.zeros((3, 3), np.float32)
    turn[list(order), [0, 1, 2]] = 1
    nodes = [
        helper.make_node("Clip", ["pixels", "zero", "one"], ["clipped"], name="clip"),
        helper.make_node("GlobalAveragePool", ["clipped"], ["pooled"], name="pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="flatten"),
        helper.make_node("MatMul", ["flat", "turn"], ["logits"], name="head"),
    ]
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [
            numpy_helper.from_array(value, name)
            for name, value in (("turn", turn), ("zero", np.array(0, np.float32)), ("one", np.array(1, np.float32)))
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_pictures(tmp_path_factory.mktemp("colours") / "pictures", each=30)


def found(
    place: Path, colours: Path, order: tuple[int, int, int], *, seconds: float = LONG, **said: float
) -> list[str]:
    """The warnings for a network, and a preprocessing that is `said` over pixels in 0..1."""
    onnx.save(colour_network(order), place / "model.onnx")
    config = {"id2label": {str(index): name for index, name in enumerate(("blue", "green", "red"))}}
    (place / "config.json").write_text(json.dumps(config))
    flags = PreprocessFlags(size=(SIDE, SIDE), rescale_factor=said.get("rescale_factor", 1 / 255))
    source: ModelSource = open_model(place, preprocess=flags)
    task = ClassificationTask()
    examples = task.open(colours, source.labels)
    graph = place / "model.onnx"
    quality, _ = judge(
        graph, graph, (), task, examples, source, parity_images(examples.images, source, 1), threads=1, timing=QUICK
    )
    assert quality.answers is not None
    at_chance = quality.answers.top1_reference < 40
    return list(better_ways(graph, task, examples, source, quality, at_chance=at_chance, seconds=seconds, threads=1))


RGB, BGR = (2, 1, 0), (0, 1, 2)


def test_the_networks_own_preprocessing_is_not_doubted(colours: Path, tmp_path: Path) -> None:
    assert found(tmp_path, colours, RGB) == []


def test_blue_before_red_is_found_with_what_it_gains(colours: Path, tmp_path: Path) -> None:
    (warning,) = found(tmp_path, colours, BGR)
    # red and blue are taken for each other: green alone is right, 30 of 90
    assert warning.startswith("with --channel-order bgr FP32 has top-1 100.0 % on 90 labelled images, as given 33.3 %")


def test_another_scale_is_found_where_fp32_guesses(colours: Path, tmp_path: Path) -> None:
    (warning,) = found(tmp_path, colours, RGB, rescale_factor=1.0)
    # every channel is above 1 in nearly every pixel
    assert warning.startswith("with --rescale-factor 1/255")
    assert "top-1 100.0 % on 90 labelled images" in warning


def test_nothing_is_looked_for_where_it_would_take_too_long(colours: Path, tmp_path: Path) -> None:
    """Better than chance, and no time was spent yet."""
    from edgeq.quality.tasks.base import Examples

    task = ClassificationTask()
    onnx.save(colour_network(RGB), tmp_path / "model.onnx")
    source = open_model(tmp_path, preprocess=PreprocessFlags(size=(SIDE, SIDE), rescale_factor=1 / 255))
    examples: Examples[str] = task.open(colours, ("blue", "green", "red"))
    graph = tmp_path / "model.onnx"
    source = replace(source, labels=("blue", "green", "red"))
    sample = parity_images(examples.images, source, 1)
    quality, _ = judge(graph, graph, (), task, examples, source, sample, threads=1, timing=QUICK)
    graph.unlink()  # nobody opens it
    assert better_ways(graph, task, examples, source, quality, at_chance=False, seconds=0.0) == ()
    assert better_ways(graph, task, None, source, quality, at_chance=True, seconds=LONG) == ()


def test_images_that_are_nearly_black_are_said() -> None:
    preprocess = PreprocessFlags(mean=(0.5,), std=(0.25,), size=(4, 4)).apply(None)
    dark, light = np.full((3, 4, 4), 15, np.uint8), np.full((3, 4, 4), 15, np.uint8)
    light[1, 2, 3] = 16

    def told(*images: np.ndarray) -> tuple[str, ...]:
        made = np.stack([np.stack([preprocess.values[c][image[c]] for c in range(3)]) for image in images])
        return nearly_black(made, preprocess)

    assert told(dark, light) == ()  # half of them may be
    (warning,) = told(dark, dark, light)
    assert warning.startswith("2 of 3 images are nearly black: no pixel is above 15 of 255")
    boxed = replace(preprocess, pad=Pad(114, center=True))
    filled = dark.copy()
    filled[:, 0] = 114  # what is filled up is no image
    made = np.stack([preprocess.values[c][filled[c]] for c in range(3)])[np.newaxis]
    assert len(nearly_black(made, boxed)) == 1
