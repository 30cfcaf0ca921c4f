"""SigLIP 2's NaFlex at one resolution beside transformers' own image processor and network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import transformers
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image, ImageDraw
from two_towers import PATCH, SIDE, write_two_tower

from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.errors import ModelError
from edgeq.export.torch_export import export_classifier
from edgeq.export.towers import export_vision, load_towers
from edgeq.model.checkpoint.source import open_model
from edgeq.model.images.preprocess import Preprocess

HALVES = (0.5, 0.5, 0.5)
WIDE = (3 * PATCH, 6 * PATCH)
"""What NaFlex makes of 54 x 96 pixels within 18 patches: scaled by 24 / 54, 42.7 rounded up to whole patches."""


def drawn(height: int, width: int) -> Image.Image:
    """A disc and a bar on a slope of grey: other colours at every corner, and nothing that is alike turned around."""
    slope = np.linspace(0, 200, height * width).reshape(height, width)
    image = Image.fromarray(np.stack([slope, slope[:, ::-1], 255 - slope], axis=2).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    pen.ellipse((width * 0.1, height * 0.2, width * 0.5, height * 0.7), fill=(250, 40, 30))
    pen.rectangle((width * 0.6, height * 0.1, width * 0.7, height * 0.9), fill=(10, 60, 220))
    return image


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_two_tower(tmp_path_factory.mktemp("naflex") / "model", "siglip2")


def naflex(model: Path, image: Image.Image, network: Any = None) -> NDArray[np.float32]:
    """transformers' embedding: patches, mask and grid from its image processor."""
    whole = network or transformers.AutoModel.from_pretrained(model, dtype=torch.float32).eval().get_image_features
    processor = transformers.AutoImageProcessor.from_pretrained(model, backend="pil")
    with torch.inference_mode():
        found: NDArray[np.float32] = whole(**processor(image, return_tensors="pt")).pooler_output.numpy()
    return found


def exported(model: Path, preprocess: Preprocess, directory: Path) -> OnnxRuntimeEngine:
    directory.mkdir()
    size = (preprocess.height, preprocess.width)
    pixels = np.stack([preprocess(drawn(40, 60)), preprocess(drawn(60, 40))])
    export_vision(load_towers(model, size), model, directory, pixels, threads=1)
    return OnnxRuntimeEngine(directory / "vision.fp32.onnx", threads=1)


@pytest.fixture(scope="module")
def square(model: Path) -> OnnxRuntimeEngine:
    """The graph of four by four patches, the largest square of 18."""
    preprocess = open_model(model).preprocess
    assert (preprocess.height, preprocess.width) == (SIDE, SIDE)
    return exported(model, preprocess, model.parent / "square")


def test_square_images_of_any_size_get_naflexs_embedding(model: Path, square: OnnxRuntimeEngine) -> None:
    preprocess = open_model(model).preprocess
    network = transformers.AutoModel.from_pretrained(model, dtype=torch.float32).eval().get_image_features
    for side in (20, 32, 75, 300):
        image = drawn(side, side)
        right = naflex(model, image, network)
        made = square.run({"pixel_values": preprocess(image)[None]})["image_embeds"]
        np.testing.assert_allclose(made, right, atol=1e-4 * np.abs(right).max())
    graph = onnx.load(model.parent / "square" / "vision.fp32.onnx").graph
    assert [axis.dim_value for axis in graph.input[0].type.tensor_type.shape.dim[1:]] == [3, SIDE, SIDE]
    lowest = min(float(numpy_helper.to_array(tensor).min()) for tensor in graph.initializer if tensor.data_type == 1)
    assert lowest > -100, "nothing masks: all patches are there"
    assert not [node.op_type for node in graph.node if node.op_type in ("Where", "Resize")]


def test_images_of_another_shape_do_only_where_the_graph_has_that_shape(
    model: Path, square: OnnxRuntimeEngine, tmp_path: Path
) -> None:
    image = drawn(54, 96)
    right = naflex(model, image)
    wide = exported(model, Preprocess.from_flags(HALVES, HALVES, WIDE), tmp_path / "wide")
    for name, engine, size, same in (("square", square, (SIDE, SIDE), False), ("wide", wide, WIDE, True)):
        preprocess = Preprocess.from_flags(HALVES, HALVES, size)
        made = engine.run({"pixel_values": preprocess(image)[None]})["image_embeds"]
        worst = float(np.abs(made - right).max() / np.abs(right).max())
        assert (worst < 1e-4) is same, (name, worst)


def test_the_vision_encoder_alone(model: Path, tmp_path: Path) -> None:
    """Its weights are those of the whole model, and so are its vectors."""
    whole = transformers.AutoModel.from_pretrained(model, dtype=torch.float32)
    whole.vision_model.save_pretrained(tmp_path / "alone")
    made = export_classifier(tmp_path / "alone", tmp_path / "model.onnx", image_size=(SIDE, SIDE))
    engine = OnnxRuntimeEngine(made.path, threads=1)
    assert (engine.outputs, made.labels) == (("pooler_output",), 32)
    image = drawn(75, 75)
    pixels = open_model(model).preprocess(image)[None]
    right = naflex(model, image)
    for found in (engine.run({"pixel_values": pixels})["pooler_output"], made.reference(pixels)):
        np.testing.assert_allclose(found, right, atol=1e-4 * np.abs(right).max())


@pytest.mark.parametrize("size", [(SIDE, SIDE + 1), (PATCH // 2, SIDE)])
def test_a_size_that_is_no_whole_patches_is_refused_before_weights_are_read(
    model: Path, size: tuple[int, int], tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_bytes((model / "config.json").read_bytes())
    with pytest.raises(ModelError, match="are not whole patches of 8 x 8"):
        load_towers(tmp_path, size)
