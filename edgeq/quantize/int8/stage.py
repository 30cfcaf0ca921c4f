"""The quantization stage: an exported graph and scales to one INT8 graph for each backend."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import onnx

from edgeq.calibrate.scales import Scales
from edgeq.engine.onnxruntime import executed_operators
from edgeq.errors import ArtifactError, CalibrationError, QuantizeError
from edgeq.files import sha256_file
from edgeq.model.graph.onnx_file import save_onnx
from edgeq.model.images.preprocess import Preprocess
from edgeq.plan.precision import Backend, Precision, PrecisionPlan
from edgeq.plan.rules import WEIGHTED
from edgeq.quantize.int8.pixels import PixelInput
from edgeq.quantize.int8.qdq import lower

__all__ = ["FP16", "INT8", "PLAN", "check_scales", "made_graph", "quantize"]

PLAN = "plan.yaml"
INT8: Final[dict[Backend, str]] = {"onnxruntime": "model.int8.ort.onnx", "tensorrt": "model.int8.trt.onnx"}
"""File name of each backend's graph."""

FP16: Final = "model.fp16.onnx"
"""File name of the graph that takes their place where floating point was kept."""

_INTEGER_KERNELS = ("MatMulIntegerToFloat", "QLinearConv", "QLinearMatMul", "QGemm")


def quantize(graph: Path, plan: PrecisionPlan, scales: Scales, preprocess: Preprocess, directory: Path) -> None:
    """Write the INT8 graphs and the plan into `directory`.

    Args:
        graph: the FP32 file that `scales` was made from.
        plan: for that graph.
        scales: from the calibration stage.
        preprocess: from an image to the graph's input.
        directory: an existing one.

    Raises:
        CalibrationError: the scales are of another graph, or lack a tensor.
        QuantizeError: a graph made differs from the plan, or ONNX Runtime runs a layer of it in floating point.
    """
    check_scales(graph, scales)
    model = onnx.load(graph)
    pixels = PixelInput.of(preprocess)
    for backend, name in INT8.items():
        save_onnx(lower(model, plan, scales, backend, pixels=pixels), directory / name)
    plan.save(directory / PLAN)
    _check_kernels(directory / INT8["onnxruntime"], plan)


def made_graph(directory: Path) -> Path:
    """The graph of a quantized directory or bundle that is held against FP32: ONNX Runtime's INT8, or the FP16 one.

    Raises:
        ArtifactError: there is neither.
    """
    found = [directory / name for name in (INT8["onnxruntime"], FP16) if (directory / name).is_file()]
    if not found:
        raise ArtifactError(
            f"{directory} has no {INT8['onnxruntime']}",
            expected="a directory made by edgeq quantize or edgeq prepare",
            next_step=f"edgeq quantize {directory} --scales SCALES -o QUANTIZED",
        )
    return found[0]


def check_scales(graph: Path, scales: Scales) -> None:
    """Raise CalibrationError unless `scales` were made from this FP32 file."""
    digest = sha256_file(graph)
    if scales.graph_sha256 != digest:
        raise CalibrationError(
            f"the scales were made for another graph than {graph}",
            expected=f"scales of the graph with SHA-256 {digest[:12]}…",
            causes=("the model was exported again after it was calibrated",),
            next_step="run edgeq calibrate again on this graph",
        )


def _check_kernels(path: Path, plan: PrecisionPlan) -> None:
    """What ONNX Runtime makes of the graph: each layer planned INT8 must have become an integer kernel."""
    int8 = plan.layers(Precision.INT8)
    planned = sum(1 for d in plan.decisions if d.layer in int8 and d.op in WEIGHTED)
    operators = executed_operators(path)
    found = sum(operators[kernel] for kernel in _INTEGER_KERNELS)
    if found != planned:
        raise QuantizeError(
            f"ONNX Runtime runs {found} layers with integer kernels, {planned} were planned",
            expected="one integer kernel for every INT8 layer",
            causes=("this ONNX Runtime has no integer kernel for a layer of the plan",),
            next_step="report this with the model and the version of ONNX Runtime",
        )
