"""Families whose tiles are joined on the host: graph and join together, against transformers' whole models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from device_joins import joined_everywhere
from safetensors.torch import load_file, save_file
from vision_graphs import JOINED, SIDE, hf_joined, photographs, write_eyes

from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import ModelError
from edgeq.export.vision import VISION_FP32, VisionReport, export_vision
from edgeq.export.vision_module import load_vision_module
from edgeq.families.base import FEATURES, ImagePrompt
from edgeq.families.modules import load_config
from edgeq.families.registry import exportable, runnable
from edgeq.model.images.image_processor import load_image_processor
from edgeq.quantize.fp16.vision import quantize_vision

pytestmark = pytest.mark.usefixtures("one_torch_thread")

SIZES = ((56, 56), (120, 80), (80, 120), (200, 30), (30, 200), (300, 300), (113, 57), (90, 500), (100, 333))
"""Width and height: each grid, with padding at the sides, above and below, and without."""


@pytest.fixture(scope="module", params=JOINED)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be written to."""
    return write_eyes(tmp_path_factory.mktemp(request.param) / "model", request.param)


@pytest.fixture(scope="module")
def exported(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The graph of `model`; not to be written to."""
    directory = tmp_path_factory.mktemp("made")
    export_vision(model, directory, photographs(), threads=1)
    return directory


def test_joined_features_are_those_that_the_language_model_gets(model: Path, exported: Path) -> None:
    config, processor = load_config(model), load_image_processor(model)
    graph, prompt = exportable(config["model_type"], config["vision_config"]), runnable(config["model_type"])
    engine = OnnxRuntimeEngine(exported / VISION_FP32, threads=1)
    assert isinstance(prompt, ImagePrompt)
    lengths = set()
    for number, size in enumerate(SIZES):
        photograph = photographs()[number % 2].resize(size)
        given = processor(images=photograph, return_tensors="np")
        layout = prompt.layout(given, config)
        found = joined_everywhere(graph, engine.run(graph.feeds(given, config)), layout, config)
        wanted = hf_joined(model, photograph)
        assert found.places.shape == wanted.shape == (layout.tokens, wanted.shape[1]), size
        assert np.abs(found.places - wanted).max() <= 1e-4, size
        lengths.add(layout.tokens)
    assert len(lengths) > 4  # the photographs' sizes matter


def test_the_last_row_of_a_picture_is_the_newline(model: Path, exported: Path) -> None:
    (newline,) = (value.numpy() for name, value in load_file(model / "model.safetensors").items() if "newline" in name)
    assert np.abs(newline).max() > 0
    engine = OnnxRuntimeEngine(exported / VISION_FP32, threads=1)
    pictures = np.random.default_rng(0).normal(size=(3, 3, SIDE, SIDE)).astype(np.float32)
    features = engine.run({"pixel_values": pictures})[FEATURES]
    np.testing.assert_array_equal(features[:, -1], np.broadcast_to(newline, (3, len(newline))))


def test_the_report_speaks_of_single_pictures(exported: Path) -> None:
    report = VisionReport.load(exported)
    rows = (SIDE // 14) ** 2 + 1
    assert (report.image, report.image_tokens, report.lengths) == ((3, SIDE, SIDE), rows, {})
    assert [(one.name, one.dtype, one.axes) for one in (*report.inputs, *report.outputs)] == [
        ("pixel_values", "float32", ("batch", 3, SIDE, SIDE)),
        ("image_features", "float32", ("batch", rows, report.hidden)),
    ]
    assert report.parity.tokens == report.parity.pictures * rows


def test_the_newline_is_counted_and_must_be_stored(model: Path, tmp_path: Path) -> None:
    weights = load_file(model / "model.safetensors")
    named = [name for name in weights if "vision_tower" in name or "projector" in name or "newline" in name]
    assert load_vision_module(model).parameters == sum(weights[name].numel() for name in named)
    for file in model.glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    kept = {name: value for name, value in weights.items() if "newline" not in name}
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"model\.image_newline"):
        load_vision_module(tmp_path)


def test_the_fp16_graph_is_proved_on_every_tile(model: Path, exported: Path, tmp_path: Path) -> None:
    for file in exported.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    report = quantize_vision(model, tmp_path, photographs(), threads=1)
    assert report.fp16 is not None
    assert report.fp16.parity.pictures == report.parity.pictures > len(photographs())
    assert 1 - report.fp16.parity.worst_cosine < 1e-5
