"""One layer at a time with onnxruntime's `quantize_static`: quantize it alone, evaluate every image, the next layer.

The setting is the folder or zip of the calibration images. They are run once: each call reads the ranges from
`quantize_static`'s cache. A layer is quantized with the activation behind it, which its kernel applies.
"""

from __future__ import annotations

import json
import logging
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

from benchmarks.peers.calibrated import calibration_of
from benchmarks.peers.reader import Reader
from benchmarks.peers.task import Task, report

BATCH = 64
ACTIVATIONS = ("Relu", "Clip")


def main() -> None:
    """Write {layer: relative logit error} as JSON, for every convolution."""
    logging.disable(logging.WARNING)  # it recommends to preprocess the graph, which is as small as it can be
    task = Task.read()
    graph = onnx.load(task.graph)
    source = graph.graph.input[0].name
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        _quantize(task, source, None, scratch)
        calibrated = task.elapsed()
        pixels = np.concatenate(list(task.pixels()))
        reference = _logits(task.graph, pixels, task.threads)
        errors = {}
        for node in graph.graph.node:
            if node.op_type == "Conv":
                made = _quantize(task, source, [node.name, *_activation(graph, node)], scratch)
                difference = _logits(made, pixels, task.threads) - reference
                errors[node.name] = float(np.linalg.norm(difference) / np.linalg.norm(reference))
    task.output.write_text(json.dumps(errors))
    report(f"onnxruntime {onnxruntime.__version__}", scales=calibrated, model=task.elapsed() - calibrated)


def _quantize(task: Task, source: str, nodes: list[str] | None, scratch: Path) -> Path:
    """The graph with `nodes` alone in INT8, all of them where None; calibrates on the first call."""
    made = scratch / "int8.onnx"
    quantize_static(
        task.graph,
        made,
        Reader(calibration_of(task), source),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_quantize=nodes,
        calibrate_method=CalibrationMethod.MinMax,
        extra_options={"WeightSymmetric": True},
        calibration_cache_path=scratch / "ranges.json",
    )
    return made


def _activation(graph: onnx.ModelProto, node: onnx.NodeProto) -> list[str]:
    readers = [reader for reader in graph.graph.node if node.output[0] in reader.input]
    return [reader.name for reader in readers if len(readers) == 1 and reader.op_type in ACTIVATIONS]


def _logits(model: Path, pixels: NDArray[np.float32], threads: int) -> NDArray[np.float64]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts = [session.run(None, {name: pixels[i : i + BATCH]})[0] for i in range(0, len(pixels), BATCH)]
    return np.concatenate(parts).astype(np.float64)


if __name__ == "__main__":
    main()
