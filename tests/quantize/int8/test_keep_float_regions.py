"""A layer that the plan leaves in floating point between INT8 layers stays there in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from networks import export_tiny
from pictures import draw_pictures

from edgeq.calibrate.samples import ImageSamples
from edgeq.calibrate.scales import Scales
from edgeq.calibrate.stage import calibrate
from edgeq.engine.onnxruntime import OnnxRuntimeEngine, executed_operators
from edgeq.model.images.image_set import ImageSet
from edgeq.pipeline.stages import planned_tensors
from edgeq.plan.precision import Precision, Rule
from edgeq.plan.rules import plan_classifier
from edgeq.quantize.int8.qdq import lower
from edgeq.quantize.int8.registry import USUAL


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[onnx.ModelProto, Scales]:
    directory = tmp_path_factory.mktemp("hold")
    images = ImageSet.open(draw_pictures(directory / "pictures"))
    graph, source = export_tiny(directory, images)
    return onnx.load(graph), calibrate(graph, planned_tensors(graph), ImageSamples(images, source.preprocess))[0]


def lowered(exported: tuple[onnx.ModelProto, Scales], *layers: str) -> onnx.ModelProto:
    model, scales = exported
    rules = [Rule(name=name, layer=name, precision=Precision.FP32, reason="test") for name in layers]
    return lower(model, plan_classifier(model, rules=rules), scales, USUAL)


def integer_kernels(model: onnx.ModelProto, path: Path) -> int:
    onnx.save(model, path)
    return executed_operators(path)["QLinearConv"]


def test_each_layer_alone_is_held(exported: tuple[onnx.ModelProto, Scales], tmp_path: Path) -> None:
    """Of three convolutions two run in integers; without the LeakyRelu all three would where INT8 follows."""
    found = {name: lowered(exported, name) for name in ("stem", "depthwise", "pointwise")}
    assert {name: integer_kernels(model, tmp_path / "m.onnx") for name, model in found.items()} == dict.fromkeys(
        found, 2
    )
    held = {
        name: [node.name for node in model.graph.node if node.op_type == "LeakyRelu"] for name, model in found.items()
    }
    assert held["depthwise"] == ["depthwise.hold"]
    assert held["stem"] == []  # its input is the image, in floating point


def test_without_it_onnx_runtime_would_quantize_the_layer(
    exported: tuple[onnx.ModelProto, Scales], tmp_path: Path
) -> None:
    """The reason for all this; when this fails, ONNX Runtime has changed and `hold.py` can go."""
    model = lowered(exported, "depthwise")
    (node,) = (node for node in model.graph.node if node.op_type == "LeakyRelu")
    for user in model.graph.node:
        user.input[:] = [node.input[0] if name == node.output[0] else name for name in user.input]
    model.graph.node.remove(node)
    assert integer_kernels(model, tmp_path / "m.onnx") == 3


def test_nothing_is_held_where_all_is_int8(exported: tuple[onnx.ModelProto, Scales]) -> None:
    assert not any(node.op_type == "LeakyRelu" for node in lowered(exported).graph.node)


def test_holding_changes_no_number(exported: tuple[onnx.ModelProto, Scales]) -> None:
    """The held graph as it is written, node by node, against the same with the slope's node taken out."""
    model = lowered(exported, "depthwise")
    without = onnx.ModelProto()
    without.CopyFrom(model)
    (node,) = (node for node in without.graph.node if node.op_type == "LeakyRelu")
    node.op_type = "Identity"
    del node.attribute[:]
    pixels = np.random.default_rng(0).normal(size=(2, 3, 16, 16)).astype(np.float32)
    held, plain = (
        OnnxRuntimeEngine(made.SerializeToString(), threads=1, optimize=False).run({"pixel_values": pixels})["logits"]
        for made in (model, without)
    )
    assert np.array_equal(held, plain)
