"""NNCF on the OpenVINO model of the same ONNX file, with its defaults: min-max statistics and fast bias correction.

The setting is `minmax`, `mixed` (its preset for activations that are not symmetric) or `mixed-fp32end`, which ignores
the nodes that `Task.end` names as well.
"""

from __future__ import annotations

import nncf
import openvino

from benchmarks.peers.task import Task, report


def main() -> None:
    """Quantize and save the OpenVINO model."""
    task = Task.read()
    task.output.parent.mkdir(parents=True, exist_ok=True)
    model = openvino.Core().read_model(task.graph)
    preset, *rest = task.setting.split("-")
    quantized = nncf.quantize(
        model,
        nncf.Dataset(task.pixels()),
        subset_size=task.count,
        preset=nncf.QuantizationPreset.MIXED if preset == "mixed" else None,
        ignored_scope=nncf.IgnoredScope(names=task.end, validate=False) if rest == ["fp32end"] else None,
    )
    openvino.save_model(quantized, task.output, compress_to_fp16=False)
    report(f"nncf {nncf.__version__}, openvino {openvino.__version__}", model=task.elapsed())


if __name__ == "__main__":
    main()
