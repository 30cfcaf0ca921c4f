"""A trained ResNet-20 whose answer is written otherwise keeps its accuracy: features first, logits [N, 10, 1, 1]."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
from answers import add_outputs, features_of, give
from networks import ALLOWED, QUICK
from pictures import choose

from edgeq.engine.onnxruntime import OnnxRuntimeEngine
from edgeq.model.checkpoint.source import open_model
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.stream import ImageStream
from edgeq.pipeline.classifier import Options, prepare


def test_features_first_and_logits_with_axes_of_length_one(shared_data: Path, tmp_path: Path) -> None:
    original = shared_data / "cifar10-resnet20"
    images = choose(shared_data / "cifar10" / "train.zip", tmp_path / "train.zip", each=3)
    labelled = choose(shared_data / "cifar10" / "test.zip", tmp_path / "test.zip", each=10)
    model = shutil.copytree(original, tmp_path / "model")
    network = onnx.load(model / "model.onnx")
    nodes = [("Reshape", ["logits", "shape"], ["scores"])]
    changed = give(network, nodes, ["scores"], constants={"shape": np.array([0, 10, 1, 1], np.int64)})
    onnx.save(add_outputs(changed, features_of(network)), model / "model.onnx")
    options = Options(allow=ALLOWED, method="minmax", timing=QUICK)
    made = prepare(model, images, tmp_path / "bundle", labelled=labelled, options=options)
    answers, (features,) = made.quality.answers, made.quality.further
    assert answers is not None
    assert answers.top1_reference == _top1(original, labelled)
    assert answers.agreement > 85
    assert (made.export.answers, features.output) == (("scores",), features_of(network))
    assert 0 < features.error < 0.2
    written = json.loads((tmp_path / "bundle" / "export.json").read_text())
    assert written["outputs"] == {"scores": "scores float [batch, 10, 1, 1]: becomes [batch, 10]"}


def _top1(model: Path, labelled: Path) -> float:
    """Percent right of the network as it came."""
    source = open_model(model)
    labels = source.labels or ()
    engine, right, images = OnnxRuntimeEngine(model / "model.onnx"), 0, ImageSet.open(labelled, labelled=True)
    for items, pixels in ImageStream(images, source.preprocess, batch_size=50):
        logits = engine.run({engine.inputs[0]: pixels})["logits"]
        right += sum(labels[place] == item.label for place, item in zip(logits.argmax(axis=1), items, strict=True))
    return 100.0 * right / len(images)
