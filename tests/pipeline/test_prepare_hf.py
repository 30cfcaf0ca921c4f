"""The main job on Hugging Face architectures with drawn weights: what is checked is structure, not accuracy."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from networks import ALLOWED, CLASSES, PREPROCESSOR, QUICK, SIDE, planned_int8
from pictures import draw_pictures
from transformers import (
    MobileNetV2Config,
    MobileNetV2ForImageClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
)

from edgeq.bundle.manifest import read_manifest
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.model.checkpoint.source import open_model
from edgeq.model.images.image_set import ImageSet
from edgeq.pipeline.classifier import Options, prepare
from edgeq.pipeline.stages import parity_images

FP32 = "model.fp32.onnx"


def group(node: onnx.NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_pictures(tmp_path_factory.mktemp("drawn") / "pictures")


def _resnet() -> PreTrainedModel:
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=len(CLASSES)
    )
    model: PreTrainedModel = ResNetForImageClassification(config)
    return model


def _mobilenet() -> PreTrainedModel:
    config = MobileNetV2Config(depth_multiplier=0.25, image_size=2 * SIDE, num_labels=len(CLASSES))
    model: PreTrainedModel = MobileNetV2ForImageClassification(config)
    return model


def _save(model: PreTrainedModel, directory: Path) -> None:
    """Give each BatchNorm statistics of its own, so that folding has something to do, and save."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for tensor, low, high in (
                *((module.weight.data, 0.7, 1.3), (module.bias.data, -0.2, 0.2)),
                *((module.running_mean, -0.2, 0.2), (module.running_var, 0.7, 1.3)),
            ):
                assert tensor is not None
                tensor.uniform_(low, high, generator=generator)
    model.config.id2label = dict(enumerate(CLASSES))
    model.save_pretrained(directory)
    preprocessor = {**PREPROCESSOR, "size": {"height": 2 * SIDE, "width": 2 * SIDE}}
    (directory / "preprocessor_config.json").write_text(json.dumps(preprocessor))


@pytest.mark.parametrize("architecture", [_resnet, _mobilenet])
def test_a_hugging_face_directory_goes_all_the_way(
    architecture: Callable[[], PreTrainedModel], pictures: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    _save(architecture(), tmp_path / "model")
    options = Options(allow=ALLOWED, threads=1, timing=QUICK)
    made = prepare(tmp_path / "model", pictures, tmp_path / "bundle", labelled=pictures, options=options)
    assert made.export.source == "hf"
    assert made.export.batchnorm_before > 3
    assert made.export.batchnorm_after == 0
    assert made.export.parity.relative < made.export.parity.bound
    assert made.export.parity.output_range > 0
    assert read_manifest(made.bundle).labels == CLASSES
    convolutions = [node for node in onnx.load(made.bundle / FP32).graph.node if node.op_type == "Conv"]
    int8 = {node.name for node in planned_int8(made.bundle)}
    assert {node.name for node in convolutions} <= int8
    assert any(group(node) > 1 for node in convolutions) is (architecture is _mobilenet)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "model"]


def test_torch_and_the_bundle_answer_the_same(pictures: Path, tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = _resnet()
    _save(network, tmp_path / "model")
    made = prepare(
        tmp_path / "model", pictures, tmp_path / "bundle", options=Options(allow=ALLOWED, threads=1, timing=QUICK)
    )
    pixels = parity_images(ImageSet.open(pictures), open_model(tmp_path / "model"), count=5)
    engine = OnnxRuntimeEngine(made.bundle / FP32, threads=1)
    with torch.inference_mode():
        wanted = network.eval()(pixel_values=torch.from_numpy(pixels)).logits.numpy()
    np.testing.assert_allclose(engine.run({engine.inputs[0]: pixels})[engine.outputs[0]], wanted, atol=1e-5)
