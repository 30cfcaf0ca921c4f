"""Bundles of networks with other inputs: what the device makes of an image is what the workshop made, and is judged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from edges import takes_grey, takes_uint8
from networks import ALLOWED, CLASSES, QUICK, SIDE, tiny_network
from pictures import draw_pictures

import edgeq
from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.preprocess_config import read_preprocess
from edgeq.model.images.preprocess_flags import PreprocessFlags
from edgeq.pipeline.classifier import Options, prepare
from edgeq.quantize.int8.stage import made_graph


def network(kind: str) -> onnx.ModelProto:
    if kind == "grey":
        return takes_uint8(takes_grey(tiny_network(), "stem.weight"), scale=1 / 255, last=True)
    return tiny_network()


@pytest.mark.parametrize("kind", ["grey", "bgr"])
def test_a_bundle_answers_as_the_original(kind: str, tmp_path: Path) -> None:
    pictures, model = draw_pictures(tmp_path / "pictures", each=6), tmp_path / "model"
    model.mkdir()
    onnx.save(network(kind), model / "model.onnx")
    names = {str(index): name for index, name in enumerate(CLASSES)}
    (model / "config.json").write_text(json.dumps({"id2label": names}))
    flags = PreprocessFlags(mean=(0.4, 0.5, 0.6), std=(0.25,), size=(SIDE, SIDE), channel_order="bgr")
    options = Options(allow=ALLOWED, threads=1, timing=QUICK, method="minmax", channel_equalization="none")
    prepared = prepare(
        model,
        pictures,
        tmp_path / "bundle",
        labelled=pictures,
        preprocess=flags if kind == "bgr" else None,
        options=options,
    )
    assert prepared.int8_layers == 3
    bundle = tmp_path / "bundle"
    # the first convolution takes eight bits from the pixels, of one channel as of three
    nodes = onnx.load(made_graph(bundle)).graph.node
    assert next(node.op_type for node in nodes) == "Pad"
    preprocess = read_preprocess(json.loads((bundle / "preprocessor_config.json").read_text()))
    images = ImageSet.open(pictures)
    image = images.read(images.items[0])
    pixels = preprocess(image)[np.newaxis]
    assert pixels.shape == (1, 1 if kind == "grey" else 3, SIDE, SIDE)
    engine = OnnxRuntimeEngine(made_graph(bundle), threads=1)
    (logits,) = engine.run({engine.inputs[0]: pixels}).values()
    best = edgeq.open_bundle(bundle).classify(image, top=1)[0]
    assert best.label == CLASSES[int(logits.argmax())]
    original = OnnxRuntimeEngine(network(kind).SerializeToString(), threads=1)
    small = image.resize((SIDE, SIDE), 2) if kind == "bgr" else image.convert("L").resize((SIDE, SIDE), 2)
    raw = np.asarray(small)
    if kind == "grey":
        given = raw[np.newaxis, :, :, np.newaxis]
    else:
        normalized = (raw.astype(np.float32) / 255 - np.array([0.4, 0.5, 0.6], np.float32)) / np.float32(0.25)
        given = np.ascontiguousarray(normalized[np.newaxis, :, :, ::-1].transpose(0, 3, 1, 2))
    (wanted,) = original.run({original.inputs[0]: given}).values()
    np.testing.assert_allclose(logits, wanted, atol=0.1 * float(np.abs(wanted).max()))  # INT8 of a small network
