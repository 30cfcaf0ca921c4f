"""onnxruntime's `quantize_static`, per-channel weights.

The setting is METHOD-ACTIVATIONS, METHOD-ACTIVATIONS-fp32head or METHOD-ACTIVATIONS-fp32end, for instance
`percentile-u8`. Unsigned activations are asymmetric, signed ones symmetric as TensorRT wants them. Unless the setting
says so, the head is quantized too; `fp32end` excludes the nodes that `Task.end` names. `default` is `quantize_static`
with nothing said but model and images: weights are per tensor then. `tensorrt` is what onnxruntime's examples say
for its TensorRT provider: signed, symmetric, pairs on weights, no integer biases. `dynamic` is `quantize_dynamic`.
"""

from __future__ import annotations

import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_dynamic, quantize_static

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
    graph = onnx.load(task.graph)
    task.output.parent.mkdir(parents=True, exist_ok=True)
    if task.setting == "default":
        quantize_static(graph, task.output, Reader(task, graph.graph.input[0].name))
    elif task.setting == "dynamic":
        quantize_dynamic(graph, task.output)
    elif task.setting == "tensorrt":
        options = {"AddQDQPairToWeight": True, "DedicatedQDQPair": True, "QuantizeBias": False}
        _quantize(task, graph, "minmax", "s8", [], options)
    else:
        method, activations, *rest = task.setting.split("-")
        _quantize(task, graph, method, activations, _excluded(task, graph, rest), {})
    report(f"onnxruntime {onnxruntime.__version__}", model=task.elapsed())


def _quantize(
    task: Task, graph: onnx.ModelProto, method: str, activations: str, excluded: list[str], options: dict[str, bool]
) -> None:
    quantize_static(
        graph,
        task.output,
        Reader(task, graph.graph.input[0].name),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8 if activations == "u8" else QuantType.QInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=excluded,
        calibrate_method=METHODS[method],
        extra_options={"ActivationSymmetric": activations == "s8", "WeightSymmetric": True, **options},
    )


def _excluded(task: Task, graph: onnx.ModelProto, said: list[str]) -> list[str]:
    """`fp32head`: the nodes that edgeq leaves in FP32."""
    from edgeq.model.graph.components import head_nodes

    if said == ["fp32end"]:
        return task.end
    return list(head_nodes(graph)) if said == ["fp32head"] else []


if __name__ == "__main__":
    main()
