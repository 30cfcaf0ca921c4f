"""edgeq's sensitivity table, both halves of it; the setting is the folder or zip of the calibration images."""

from __future__ import annotations

import onnx

from benchmarks.peers.calibrated import calibration_of
from benchmarks.peers.task import Task, report
from edgeq import __version__
from edgeq.calibrate.samples import ImageSamples
from edgeq.calibrate.stage import calibrate
from edgeq.plan.rules import plan_classifier
from edgeq.quantize.int8.qdq import calibrated_tensors
from edgeq.quantize.search.sensitivity import measure_sensitivity


def main() -> None:
    """Write the table, on the ranges and grids that onnxruntime's quantizer uses.

    So a residual addition does not share a scale, and the first convolution does not take the pixels themselves.
    """
    task = Task.read()
    graph, preprocess = onnx.load(task.graph), task.preprocess
    plan = plan_classifier(graph, shared_add=False)
    samples = ImageSamples(calibration_of(task).image_set, preprocess)
    scales, _ = calibrate(task.graph, calibrated_tensors(graph, plan), samples, method="minmax", threads=task.threads)
    calibrated = task.elapsed()
    table, _ = measure_sensitivity(graph, plan, scales, ImageSamples(task.image_set, preprocess), threads=task.threads)
    table.save(task.output)
    report(f"edgeq {__version__}", scales=calibrated, model=task.elapsed() - calibrated)


if __name__ == "__main__":
    main()
