"""edgeq: the calibration stage, then the quantization stage for both backends; the setting is the method."""

from __future__ import annotations

from benchmarks.peers.task import Task, peak_memory, report
from edgeq import __version__
from edgeq.calibrate.samples import ImageSamples
from edgeq.calibrate.stage import SCALES
from edgeq.model.graph.outline import load_outline
from edgeq.pipeline.classifier import Options
from edgeq.pipeline.stages import calibrate_graph
from edgeq.plan.rules import plan_classifier
from edgeq.quantize.int8.qdq import calibrated_tensors
from edgeq.quantize.int8.select import resolve
from edgeq.quantize.int8.stage import quantize


def main() -> None:
    """Calibrate, write the scales, lower the graph."""
    task = Task.read()
    task.output.mkdir(parents=True)
    graph = load_outline(task.graph)
    plan, preprocess = plan_classifier(graph), task.preprocess
    tensors = calibrated_tensors(graph, plan)
    samples = ImageSamples(task.image_set, preprocess)
    options = Options(method=task.setting, threads=task.threads)
    scales, _ = calibrate_graph(task.graph, plan, tensors, samples, options, lambda *_: None)
    scales.save(task.output / SCALES)
    calibrated, peak = task.elapsed(), peak_memory()
    quantize(task.graph, resolve(plan, scales, task.graph), scales, preprocess, task.output)
    report(f"edgeq {__version__}", scales_peak=peak, scales=calibrated, model=task.elapsed())


if __name__ == "__main__":
    main()
