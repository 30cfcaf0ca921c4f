"""Logits of a graph over images, in ONNX Runtime, or in OpenVINO where the file is an .xml.

The images have labels, unless the setting is `unlabelled`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers.task import Task, report
from edgeq.model.images.image_set import ImageSet
from edgeq.model.images.stream import ImageStream

BATCH = 50

Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def main() -> None:
    """Save `logits`, the first output, float32 [n, ...], `labels`, the folders' names [n], and `names` [n] as .npz."""
    task = Task.read()
    network = _openvino(task.graph) if task.graph.suffix == ".xml" else _onnxruntime(task.graph, task.threads)
    images = ImageSet.open(task.images, labelled=task.setting != "unlabelled").sample(task.count)
    logits, labels, names = [], [], []
    for items, pixels in ImageStream(images, task.preprocess, batch_size=BATCH):
        logits.append(network(pixels))
        labels += [str(item.label) for item in items]
        names += [item.name for item in items]
    task.output.parent.mkdir(parents=True, exist_ok=True)
    np.savez(task.output, logits=np.concatenate(logits), labels=np.array(labels), names=np.array(names))
    report("answers", model=task.elapsed())


def _onnxruntime(path: Path, threads: int) -> Network:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda pixels: np.asarray(session.run(None, {name: pixels})[0])


def _openvino(path: Path) -> Network:
    import openvino

    compiled = openvino.Core().compile_model(os.fspath(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda pixels: np.array(compiled(pixels)[0])


if __name__ == "__main__":
    main()
