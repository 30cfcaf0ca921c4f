"""Models of transformers that are more than pixels to logits: what they give, and what cannot be exported as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from transformers import (
    SegformerConfig,
    SegformerModel,
    Swinv2Config,
    Swinv2ForImageClassification,
    ViTMAEConfig,
    ViTMAEModel,
    YolosConfig,
    YolosForObjectDetection,
)

from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import ExportError
from edgeq.export.torch_export import TorchExport, export_classifier
from edgeq.model.images.preprocess import Preprocess
from edgeq.pipeline.inspect import inspect_model

pytestmark = pytest.mark.usefixtures("one_torch_thread")

SIDE = 32
SMALL: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": SIDE,
    "patch_size": 16,
}


def exported(model: Any, directory: Path) -> TorchExport:
    model.eval().save_pretrained(directory)
    return export_classifier(directory, directory / "model.onnx", image_size=(SIDE, SIDE))


def assert_same(made: TorchExport, graph: onnx.ModelProto) -> None:
    """The graph gives what torch does, output by output, for one image and for three."""
    engine = OnnxRuntimeEngine(graph.SerializeToString(), threads=1)
    for count in (1, 3):
        pixels = np.random.default_rng(count).standard_normal((count, 3, SIDE, SIDE)).astype(np.float32)
        values = engine.run({"pixel_values": pixels})
        for name, right in zip(engine.outputs, made.every_output(pixels), strict=True):
            np.testing.assert_allclose(values[name], right, rtol=0, atol=1e-5)


def test_a_detector_gives_scores_and_boxes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = YolosConfig(**{**SMALL, "image_size": [SIDE, SIDE]}, num_detection_tokens=5, num_labels=3)
    made = exported(YolosForObjectDetection(config), tmp_path)
    graph = onnx.load(made.path)
    assert [output.name for output in graph.graph.output] == ["logits", "pred_boxes"]
    assert [values.shape for values in made.every_output(np.zeros((2, 3, SIDE, SIDE), np.float32))] == [
        (2, 5, 4),
        (2, 5, 4),
    ]
    assert_same(made, graph)


def test_an_encoder_without_a_vector_gives_its_last_hidden_state(tmp_path: Path) -> None:
    """Four stages halve 32 pixels five times."""
    torch.manual_seed(0)
    config = SegformerConfig(hidden_sizes=[16] * 4, depths=[1] * 4, num_attention_heads=[2] * 4)
    made = exported(SegformerModel(config), tmp_path)
    graph = onnx.load(made.path)
    assert [output.name for output in graph.graph.output] == ["last_hidden_state"]
    assert made.every_output(np.zeros((2, 3, SIDE, SIDE), np.float32))[0].shape == (2, 16, 1, 1)
    assert_same(made, graph)


def test_inspect_counts_what_the_checkpoint_stores(tmp_path: Path) -> None:
    """A small network makes the biases of Swin V2's positions; its graph holds the biases alone."""
    torch.manual_seed(0)
    config = Swinv2Config(embed_dim=8, depths=[1], num_heads=[2], window_size=4, image_size=SIDE, patch_size=4)
    model = Swinv2ForImageClassification(config)
    model.save_pretrained(tmp_path)
    flags = Preprocess.from_flags((0.5,) * 3, (0.5,) * 3, (SIDE, SIDE))
    found = inspect_model(str(tmp_path), tmp_path, preprocess=flags)
    right = sum(value.numel() for value in model.parameters())
    assert found.parameters == right
    assert f"the checkpoint stores {right:,} parameters" in found.notes[-1]


def test_a_network_that_draws_random_numbers_is_refused(tmp_path: Path) -> None:
    """A masked autoencoder hides other patches each time."""
    with pytest.raises(ExportError, match="answers the same image in two ways") as caught:
        exported(ViTMAEModel(ViTMAEConfig(**{**SMALL, "patch_size": 4}, mask_ratio=0.5)), tmp_path)
    assert "masked autoencoder" in caught.value.causes[0]
    assert not (tmp_path / "model.onnx").exists()
