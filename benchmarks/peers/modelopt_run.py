"""NVIDIA ModelOpt's ONNX quantizer on the CPU; the setting is its calibration method: `entropy` or `max`.

`max:fp16` leaves the rest in FP16 in the place of FP32.
"""

from __future__ import annotations

import os

import modelopt
import onnx
from modelopt.onnx.quantization import quantize

from benchmarks.peers.reader import Reader
from benchmarks.peers.task import Task, report


def main() -> None:
    """Quantize to INT8, the rest left in floating point."""
    task = Task.read()
    method, _, precision = task.setting.partition(":")
    task.output.parent.mkdir(parents=True, exist_ok=True)
    graph = onnx.load(task.graph, load_external_data=False).graph.input[0]
    height, width = task.preprocess.height, task.preprocess.width
    quantize(
        os.fspath(task.graph),
        quantize_mode="int8",
        calibration_data_reader=Reader(task, graph.name),
        calibration_method=method,
        calibration_shapes=f"{graph.name}:1x3x{height}x{width}",
        calibration_eps=["cpu"],
        high_precision_dtype=precision or "fp32",
        output_path=os.fspath(task.output),
        log_level="ERROR",
    )
    report(f"modelopt {modelopt.__version__}", model=task.elapsed())


if __name__ == "__main__":
    main()
