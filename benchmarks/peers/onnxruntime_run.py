"""onnxruntime's `quantize_static`, per-channel weights.

The setting is METHOD-ACTIVATIONS or METHOD-ACTIVATIONS-fp32head, for instance `percentile-u8`. Unsigned activations
are asymmetric, signed ones symmetric as TensorRT wants them. Unless the setting says so, the head is quantized too.
"""

from __future__ import annotations

import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

from benchmarks.peers.reader import Reader
from benchmarks.peers.task import Task, report

METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}


def main() -> None:
    """Quantize as the setting says."""
    task = Task.read()
    method, activations, *rest = task.setting.split("-")
    graph = onnx.load(task.graph)
    task.output.parent.mkdir(parents=True, exist_ok=True)
    quantize_static(
        graph,
        task.output,
        Reader(task, graph.graph.input[0].name),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8 if activations == "u8" else QuantType.QInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=_heads(graph) if rest == ["fp32head"] else [],
        calibrate_method=METHODS[method],
        extra_options={"ActivationSymmetric": activations == "s8", "WeightSymmetric": True},
    )
    report(f"onnxruntime {onnxruntime.__version__}", model=task.elapsed())


def _heads(graph: onnx.ModelProto) -> list[str]:
    """The nodes that edgeq leaves in FP32."""
    from edgeq.model.graph.components import head_nodes

    return list(head_nodes(graph))


if __name__ == "__main__":
    main()
