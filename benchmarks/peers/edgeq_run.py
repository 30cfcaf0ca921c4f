"""edgeq: the calibration stage, then the quantization stage for both backends; the setting is the method."""

from __future__ import annotations

from benchmarks.peers.task import Task, peak_memory, report
from edgeq import __version__
from edgeq.calibrate.stage import SCALES
from edgeq.model.outline import load_outline
from edgeq.plan.rules import plan_classifier
from edgeq.prepare import Options
from edgeq.quantize.qdq import calibrated_tensors
from edgeq.quantize.select import settle
from edgeq.quantize.stage import quantize
from edgeq.stages import calibrate_graph


def main() -> None:
    """Calibrate, write the scales, lower the graph."""
    task = Task.read()
    task.output.mkdir(parents=True)
    graph = load_outline(task.graph)
    plan, preprocess = plan_classifier(graph), task.preprocess
    tensors = calibrated_tensors(graph, plan)
    options = Options(method=task.setting, threads=task.threads)
    scales, _ = calibrate_graph(task.graph, plan, tensors, task.image_set, preprocess, options, lambda *_: None)
    scales.save(task.output / SCALES)
    calibrated, peak = task.elapsed(), peak_memory()
    quantize(task.graph, settle(plan, scales), scales, preprocess, task.output)
    report(f"edgeq {__version__}", scales_peak=peak, scales=calibrated, model=task.elapsed())


if __name__ == "__main__":
    main()
